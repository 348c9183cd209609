"""`self.context` of a task that runs on the runner's loop or in one of its threads."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from taskrunner.durations import as_delay
from taskrunner.jsonvalue import dump_json
from taskrunner.progress import checked
from taskrunner.redaction import unmarked
from taskrunner.runlog import TaskLogger

if TYPE_CHECKING:
    from taskrunner.attempt import Attempt

log = logging.getLogger("taskrunner.task")


class RunContext:
    """`self.context` of a task on the loop or in a thread; see `taskrunner.task.Context`."""

    __slots__ = ("_attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def id(self) -> UUID:
        """The task's id."""
        return self._attempt.claim.id

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self._attempt.claim.queue

    @property
    def tenant(self) -> str:
        """Whose work it is."""
        return self._attempt.claim.tenant

    @property
    def priority(self) -> int:
        """Larger is more urgent."""
        return self._attempt.claim.priority

    @property
    def claim_no(self) -> int:
        """The number of this claim."""
        return self._attempt.claim.claim_no

    @property
    def deadline(self) -> datetime | None:
        """When the task's time is up, by this machine's clock; None without a timeout."""
        return self._attempt.deadline() if self._attempt.timeout else None

    @property
    def meta(self) -> dict[str, Any]:
        """What was given as `meta=` at the enqueue."""
        meta = self._attempt.claim.meta
        return unmarked(json.loads(meta)) if meta else {}

    @property
    def logger(self) -> logging.LoggerAdapter[Any]:
        """A logger whose records carry the task's id, type and try, and are kept with the task."""
        return TaskLogger(log, self._attempt)

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop."""
        attempt = self._attempt
        return attempt.stop_reason is not None or attempt.ended is not None

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show people how far the task is; what comes too often is left out, the latest counts."""
        text = dump_json(checked(done, total, message), "progress")
        self._on_loop(lambda: self._attempt.host.show_progress(self._attempt, text))

    def extend(self, delay: timedelta | float) -> None:
        """Move the deadline: the task has this much time from now on."""
        checked = as_delay(delay, "extend")
        self._on_loop(lambda: self._attempt.extend(checked))

    def run_once(self, key: str, fn: Callable[[], Any]) -> Any:
        """Return what `fn` returned when it first succeeded under this key; `await` it in an async task."""
        return self._attempt.its_effects().run_once(key, fn)

    def session(self) -> Any:
        """Return the run's own session, which the runner commits with the task's finish."""
        return self._attempt.its_effects().session()

    def parents(self) -> Any:
        """Return what the parents came to, by their ids; `await` it in an async task."""
        return self._attempt.its_effects().parents()

    def _on_loop(self, action: Callable[[], None]) -> None:
        """Threads hand over to the loop; what runs on it acts at once."""
        loop = self._attempt.host.loop
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            action()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(action)
