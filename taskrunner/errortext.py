"""Errors as text that any database takes: whatever was raised, writing it down never fails."""

from __future__ import annotations

import re
import traceback
from types import TracebackType

MESSAGE_LIMIT = 4095  # characters
TRACEBACK_LIMIT = 16_000  # characters
FRAMES = 100  # of each exception, the innermost
CUT = "…"  # stands first where the head was cut off

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # text in PostgreSQL is UTF-8 without NUL


def clean_text(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return text that can be stored: NUL and lone surrogates replaced, at most `limit` characters, the tail kept."""
    if len(text) > limit:
        text = CUT + text[len(text) - limit + 1 :]
    return _UNSTORABLE.sub("\ufffd", text)


def error_entry(error: BaseException | str, traceback_limit: int = TRACEBACK_LIMIT) -> dict[str, str]:
    """Write an exception, or a bare message, as `message` and `traceback` (empty for a message); never raises."""
    if isinstance(error, str):
        return {"message": clean_text(error), "traceback": ""}
    name, text = type(error).__qualname__[:200], _text(error)
    long = len(text) > MESSAGE_LIMIT  # its end would fill the traceback as well
    written = _frames_only(error.__traceback__) if long else _traceback(error, error.__traceback__)
    return {
        "message": clean_text(f"{name}: {clean_text(text, MESSAGE_LIMIT - len(name) - 2)}" if text else name),
        "traceback": clean_text(written, traceback_limit),
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # a task's own `__str__` may raise anything, SystemExit too
        return "<its text cannot be read>"


def _traceback(error: BaseException, frames: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, frames, limit=-FRAMES))
    except BaseException:  # odd attributes, a group too deep to walk
        return _frames_only(frames)


def _frames_only(frames: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_tb(frames, limit=-FRAMES))
    except BaseException:
        return "<the traceback cannot be written>"
