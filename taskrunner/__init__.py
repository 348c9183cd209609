"""Background tasks and recurring schedules for Python, on PostgreSQL and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskrunner.asyncqueue import AsyncTaskQueue
    from taskrunner.flow import chain, group
    from taskrunner.outcome import Snooze, TaskStatus
    from taskrunner.queue import TaskQueue
    from taskrunner.registry import register_task
    from taskrunner.retry import constant, exponential, linear
    from taskrunner.store.enqueue import Enqueued
    from taskrunner.task import Context, Parent, Task

__all__ = [
    "AsyncTaskQueue",
    "Context",
    "Enqueued",
    "Parent",
    "Snooze",
    "Task",
    "TaskQueue",
    "TaskStatus",
    "chain",
    "constant",
    "exponential",
    "group",
    "linear",
    "register_task",
]

# A name is loaded when it is asked for: the doors need a database driver, which a module that only declares tasks does
# not; the command line needs not even pydantic for its help.
_HOMES = {
    "AsyncTaskQueue": "asyncqueue",
    "Context": "task",
    "Enqueued": "store.enqueue",
    "Parent": "task",
    "Snooze": "outcome",
    "Task": "task",
    "TaskQueue": "queue",
    "TaskStatus": "outcome",
    "chain": "flow",
    "constant": "retry",
    "exponential": "retry",
    "group": "flow",
    "linear": "retry",
    "register_task": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
