"""What the command line shows to people: plain values in, text with columns and colours out.

Nothing here reads the database or decides anything. Colours go to terminals only; a pipe gets lines of full width.
"""

from __future__ import annotations

from taskrunner.console.detail import show_task
from taskrunner.console.lists import (
    show_dead,
    show_instants,
    show_queues,
    show_runners,
    show_schedules,
    show_settings,
    show_tasks,
    show_upcoming,
)
from taskrunner.console.overview import WIDE, show_status, status_line, watch
from taskrunner.console.screen import cell, screen, waiting

__all__ = [
    "WIDE",
    "cell",
    "screen",
    "show_dead",
    "show_instants",
    "show_queues",
    "show_runners",
    "show_schedules",
    "show_settings",
    "show_status",
    "show_task",
    "show_tasks",
    "show_upcoming",
    "status_line",
    "waiting",
    "watch",
]
