"""Waiting for a task's end: how often to look, and what to make of what is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from taskrunner.durations import as_delay
from taskrunner.errors import NotFound, TaskDead, WaitTimeout
from taskrunner.reads import TaskView


def found(view: TaskView | None, id_: UUID) -> TaskView:
    """Return the task that was looked for. Raises: `NotFound`."""
    if view is None:
        raise NotFound(f"no task {id_}: it was never stored, or retention has removed it")
    return view


def result_of(view: TaskView) -> Any:
    """Return what the task's `run()` returned. Raises: `TaskDead` with the last error, unless it succeeded."""
    if view.state != "succeeded":
        last = view.errors[-1]["message"] if view.errors else "it has no result"
        raise TaskDead(f"task {view.id} is {view.state}: {last}")
    return view.result


def too_late(id_: UUID | str, why: str) -> WaitTimeout:
    """Return the error for a task that has not ended in time, and why it will not."""
    return WaitTimeout(f"task {id_} has not ended in time" + (f": {why}" if why else ""))


def looks(timeout: timedelta | float | None) -> Iterator[float]:
    """Yield the pauses after looks at a task, from 20 ms growing to 1 s; the last look is when the time is up."""
    end = float("inf") if timeout is None else time.monotonic() + as_delay(timeout, "timeout").total_seconds()
    pause = 0.02
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, 1.0)
    yield 0.0
