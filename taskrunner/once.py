"""What `run_once` asks of its key, of its function and of what that returns, wherever the task runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from taskrunner.errors import InvalidArgument, PayloadInvalid
from taskrunner.jsonvalue import RefusedError, check_text, dump_json

MAX_KEY = 255  # characters


def checked_key(key: object) -> str:
    """Return the key. Raises: `InvalidArgument` unless it is text of 1 to 255 characters that can be stored."""
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY:
        shown = f"{len(key)} characters" if isinstance(key, str) else type(key).__name__
        raise InvalidArgument(f"the key of run_once must be text of 1 to {MAX_KEY} characters, not {shown}")
    try:
        check_text(key)
    except RefusedError as refused:
        raise InvalidArgument(f"the key of run_once cannot be used: {refused.reason}") from None
    return key


def on_a_loop() -> bool:
    """Whether the caller runs on an event loop: then it awaits, else it is answered at once."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def called(key: str, fn: Callable[[], Any]) -> Any:
    """Call `fn` where nothing can be awaited. Raises: `InvalidArgument` for a coroutine, which is not run."""
    value = fn()
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise InvalidArgument(f"run_once({key!r}): its function is async: declare the task's run() as `async def`")
    return value


def written(key: str, value: object) -> str:
    """Return a value as JSON text. Raises: `PayloadInvalid` saying what is no JSON; the key then stays open."""
    try:
        return dump_json(value, "value")
    except PayloadInvalid as error:
        raise PayloadInvalid(f"run_once({key!r}): what its function returned cannot be kept: {error}") from None
