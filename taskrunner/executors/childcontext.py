"""`self.context` in a child process: plain values of its run, and a line to the runner for the rest."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID

from taskrunner.durations import as_delay
from taskrunner.errors import TaskrunnerError
from taskrunner.executors.childlink import Link

T = TypeVar("T")


class ChildContext:
    """The Context of a task in a child process; once the run has ended, it says nothing more to the runner.

    From `info`: `id`, `queue`, `tenant`, `priority`, `claim_no`, and if known `deadline`, `started_at`, `meta`, `type`.
    """

    cancelled = False  # a cancelled child is killed: it never gets to look

    def __init__(self, info: Mapping[str, Any], link: Link) -> None:
        self.id: UUID = info["id"]
        self.queue: str = info["queue"]
        self.tenant: str = info["tenant"]
        self.priority: int = info["priority"]
        self.claim_no: int = info["claim_no"]
        self.deadline: datetime | None = info.get("deadline")
        self.meta: dict[str, Any] = dict(info.get("meta") or {})
        self._type = info.get("type", "")
        self._started_at: datetime = info.get("started_at") or datetime.now(UTC)
        self._began = time.monotonic()
        self._link = link
        self._ended = False

    @cached_property
    def logger(self) -> logging.LoggerAdapter[Any]:
        """A logger whose records carry the task's id and type."""
        extra = {"task_id": str(self.id), "task_type": self._type}
        return logging.LoggerAdapter(logging.getLogger("taskrunner.task"), extra)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show people how far the task is."""
        self._tell("progress", {"done": done, "total": total, "message": message})

    def extend(self, delay: timedelta | float) -> None:
        """Move the deadline: the task has this much time from now on."""
        more = as_delay(delay, "extend")
        # By the clock that the deadline goes by, so now is the start as the runner saw it and the time since.
        now = self._started_at + timedelta(seconds=time.monotonic() - self._began)
        self._tell("extend", {"seconds": more.total_seconds()})
        self.deadline = now + more

    def run_once(self, key: str, fn: Callable[[], T]) -> T:
        """Return what `fn` returned when it first succeeded under this key, in this try or an earlier one.

        A coroutine function's is awaited by the caller. Raises RequestRefused where the runner keeps no effects.
        """
        kept = self._ask("effect", {"key": key})
        if inspect.iscoroutinefunction(fn):
            return self._run_once_async(key, fn, kept)  # type: ignore[return-value]  # T is the awaitable itself
        if kept["done"]:
            value: T = kept["value"]
            return value
        value = fn()
        self._ask("effect_done", {"key": key, "value": value})
        return value

    async def _run_once_async(self, key: str, fn: Callable[[], Awaitable[Any]], kept: Mapping[str, Any]) -> Any:
        if kept["done"]:
            return kept["value"]
        value = await fn()
        self._ask("effect_done", {"key": key, "value": value})
        return value

    def session(self) -> Any:
        """Refuse: a transaction cannot cross processes."""
        raise TaskrunnerError(
            'a task with executor="process" has no context.session(): run it in a thread or on the loop'
        )

    def end(self) -> None:
        """Fall silent: a thread that the task left behind must not speak for the next one."""
        self._ended = True
        self._link.settle()

    def _tell(self, kind: str, data: Mapping[str, object]) -> None:
        if not self._ended:
            self._link.tell(kind, data)

    def _ask(self, kind: str, data: Mapping[str, object]) -> Any:
        if self._ended:
            raise TaskrunnerError("the task has ended")
        return self._link.ask(kind, data)
