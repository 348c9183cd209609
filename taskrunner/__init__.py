"""Background tasks and recurring schedules for Python, on PostgreSQL and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskrunner.outcome import Snooze, TaskStatus
from taskrunner.registry import register_task
from taskrunner.retry import constant, exponential, linear
from taskrunner.task import Context, Task

if TYPE_CHECKING:
    from taskrunner.queue import AsyncTaskQueue, TaskQueue
    from taskrunner.store.enqueue import Enqueued

__all__ = [
    "AsyncTaskQueue",
    "Context",
    "Enqueued",
    "Snooze",
    "Task",
    "TaskQueue",
    "TaskStatus",
    "constant",
    "exponential",
    "linear",
    "register_task",
]

# The doors need a database driver; a module that only declares tasks does not.
_DOORS = {
    "AsyncTaskQueue": "taskrunner.queue",
    "Enqueued": "taskrunner.store.enqueue",
    "TaskQueue": "taskrunner.queue",
}


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DOORS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
