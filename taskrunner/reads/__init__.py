"""What people look at: tasks in any state, counts, runners, queues and schedules, as values.

Every function returns an `Op`, or a generator of them, so that the command line and the API read by the same code,
each with its own pump. Nothing here changes a row, and nothing counts a big table: what has ended is counted from
`task_stats`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskrunner.reads.views import (
    Counts,
    DeadView,
    Queue,
    Runner,
    Schedule,
    Status,
    TaskFilter,
    TaskView,
    TypeCounts,
)

if TYPE_CHECKING:
    from taskrunner.reads.figures import stats, status
    from taskrunner.reads.fleet import live_runners, queues, runners, schedule_named, schedules, unattended
    from taskrunner.reads.selects import now
    from taskrunner.reads.tasks import dead_letter_by_id, dead_letters, list_tasks, task_by_id

__all__ = [
    "Counts",
    "DeadView",
    "Queue",
    "Runner",
    "Schedule",
    "Status",
    "TaskFilter",
    "TaskView",
    "TypeCounts",
    "dead_letter_by_id",
    "dead_letters",
    "list_tasks",
    "live_runners",
    "now",
    "queues",
    "runners",
    "schedule_named",
    "schedules",
    "stats",
    "status",
    "task_by_id",
    "unattended",
]

# The functions need the ORM, which takes most of a second to import; a door that only enqueues never calls one.
# No module may have the name of a function: once imported, it would be found in its place.
_READS = {
    "dead_letter_by_id": "tasks",
    "dead_letters": "tasks",
    "list_tasks": "tasks",
    "live_runners": "fleet",
    "now": "selects",
    "queues": "fleet",
    "runners": "fleet",
    "schedule_named": "fleet",
    "schedules": "fleet",
    "stats": "figures",
    "status": "figures",
    "task_by_id": "tasks",
    "unattended": "fleet",
}


def __getattr__(name: str) -> Any:
    if name not in _READS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_READS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_READS})
