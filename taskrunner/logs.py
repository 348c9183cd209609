"""Logs of our own processes: text for people at a terminal, JSON for everything else.

Modules log by `logging.getLogger("taskrunner.…")`, as libraries do. Only a process that is ours, started by the command
line, calls `configure`; a user's own process that embeds a runner keeps its own logging.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from taskrunner.errors import DatabaseUnreachable
from taskrunner.redaction import MASK, by_name, secret_name
from taskrunner.runlog import LineKeeper, TaskFields, level_number, tell_thread_failures
from taskrunner.scope import current, secretive

_ISO = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")

# Libraries whose infos are other people's debugging.
_CHATTY = ("alembic", "apscheduler", "asyncio", "httpx", "uvicorn.error")

_QUIET = 10.0  # seconds between two words on one outage


def configure(level: str, format_: str, *, stream: TextIO | None = None, keep: str | None = None) -> None:
    """Send everything of `level` or worse to `stream` (stderr); `format_` is text, json or auto (text on a terminal).

    With `keep`, running tasks get their own lines of that level or worse, whatever is written. Repeating it replaces
    the earlier handlers.
    """
    target = stream or sys.stderr
    terminal = target.isatty()
    as_text = format_ == "text" or (format_ == "auto" and terminal)
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(_text(terminal) if as_text else _json(), short=as_text and terminal))
    handler.addFilter(_Outages())
    handler.addFilter(TaskFields())
    written, kept = level_number(level), level_number(keep or "off")
    handler.setLevel(written)
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, LineKeeper) or _is_ours(one)]:
        root.removeHandler(old)
    root.addHandler(handler)
    if keep is not None:
        root.addHandler(LineKeeper())
    root.setLevel(min(written, kept))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(written, logging.WARNING) if written > logging.DEBUG else logging.DEBUG)
    if kept < written:
        logging.getLogger("taskrunner").setLevel(written)  # what it says of itself in detail is no task's
        logging.getLogger("taskrunner.task").setLevel(kept)
    if written > logging.DEBUG:
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each attempt of a pool, which its owner tells too
    logging.captureWarnings(capture=True)
    tell_thread_failures()


def _is_ours(handler: logging.Handler) -> bool:
    return isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)


class _Outages(logging.Filter):
    """Lets one word through in ten seconds on a database that is away, from each place that says so."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is to be written."""
        if not isinstance(record.args, tuple) or not any(isinstance(arg, DatabaseUnreachable) for arg in record.args):
            return True
        place, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._told.get(place, -_QUIET) < _QUIET:
            return False
        self._told[place] = now
        return True


def _formatter(finish: list[Processor], *, short: bool) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="time") if short else _ISO,
            _process_id,
            _childs_traceback,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
    )


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        _veiled,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _text(terminal: bool) -> list[Processor]:
    colours = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    renderer = structlog.dev.ConsoleRenderer(
        colors=colours,
        timestamp_key="time",
        pad_event_to=0,
        pad_level=False,
    )
    short = [_short] if terminal else []
    return [structlog.processors.format_exc_info, _veiled, _task_first, *short, _one_line, renderer]


def _task_first(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Begin a line about a task with its type, id and try."""
    if {"task_type", "task_id", "task_try"} <= event.keys():
        name, id_, number = (event.pop(field) for field in ("task_type", "task_id", "task_try"))
        event["event"] = f"{name} {id_}, try {number}: {event['event']}"
    return event


def _short(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out, at a terminal, what a person who started it all there knows or need not know."""
    for field in ("pid", "queue", "tenant", "runner"):
        event.pop(field, None)
    if str(event.get("logger", "")).startswith("taskrunner."):
        del event["logger"]
    return event


def _veiled(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cover what nobody is to read: the secrets of the task that runs, and what is named like one."""
    scope = current.get()
    scopes = tuple(secretive) if scope is None else (scope,)
    for name, value in event.items():
        if secret_name(name):
            event[name] = MASK
        elif isinstance(value, dict | list | tuple):
            event[name] = by_name(value)
        for one in scopes if isinstance(value, str) else ():
            event[name] = one.veiled(event[name])
    return event


def _process_id(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["pid"] = os.getpid()
    for copy in ("color_message", "message", "asctime"):  # uvicorn's, and what another handler has left in the record
        event.pop(copy, None)
    return event


def _childs_traceback(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take the traceback of a child process's record, which comes as text."""
    record = event.get("_record")
    if record is not None and record.exc_text and not record.exc_info:
        event["exception"] = record.exc_text
    return event


def _one_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what tasks and people wrote from forging lines or moving the terminal's cursor; tracebacks keep theirs."""
    for name, value in event.items():
        if isinstance(value, str) and name not in ("exception", "stack"):
            event[name] = "".join(one if one.isprintable() else repr(one)[1:-1] for one in value)
    return event
