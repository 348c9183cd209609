"""What the command line shows to people: plain values in, text with columns and colours out.

Nothing here reads the database or decides anything. Colours go to terminals only; a pipe gets lines of full width.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskrunner.console.answer import show_why
    from taskrunner.console.benchmark import bars, show_report
    from taskrunner.console.detail import show_task
    from taskrunner.console.family import show_flow
    from taskrunner.console.findings import show_findings
    from taskrunner.console.follow import follow_task, task_line
    from taskrunner.console.lists import (
        show_audit,
        show_dead,
        show_instants,
        show_logins,
        show_queues,
        show_runners,
        show_schedules,
        show_settings,
        show_tasks,
        show_upcoming,
    )
    from taskrunner.console.log import show_log
    from taskrunner.console.overview import WIDE, show_status, status_line, watch
    from taskrunner.console.rule import show_schedule
    from taskrunner.console.terminal import cell, screen, waiting

__all__ = [
    "WIDE",
    "bars",
    "cell",
    "follow_task",
    "screen",
    "show_audit",
    "show_dead",
    "show_findings",
    "show_flow",
    "show_instants",
    "show_log",
    "show_logins",
    "show_queues",
    "show_report",
    "show_runners",
    "show_schedule",
    "show_schedules",
    "show_settings",
    "show_status",
    "show_task",
    "show_tasks",
    "show_upcoming",
    "show_why",
    "status_line",
    "task_line",
    "waiting",
    "watch",
]

# Loaded with the first thing that is shown: whoever asks for JSON does not wait for rich.
# No module may have the name of one of these: once imported, it would be found in its place.
_PLACES = {
    **dict.fromkeys(("cell", "screen", "waiting"), "terminal"),
    **dict.fromkeys(("WIDE", "show_status", "status_line", "watch"), "overview"),
    **dict.fromkeys(("bars", "show_report"), "benchmark"),
    **dict.fromkeys(("follow_task", "task_line"), "follow"),
    "show_findings": "findings",
    "show_flow": "family",
    "show_log": "log",
    "show_task": "detail",
    "show_schedule": "rule",
    "show_why": "answer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'lists')}"), name)
    return value
