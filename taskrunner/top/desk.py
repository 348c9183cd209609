"""What the screen looks at, and what its keys do: blocking, one at a time, by whatever connection there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from taskrunner import actions, reads
from taskrunner.actions import Action
from taskrunner.db import Work
from taskrunner.errors import DatabaseUnreachable
from taskrunner.reads import Queue, Recent, Schedule, Status, TaskFilter, TaskView, Why
from taskrunner.schedules import Planner
from taskrunner.states import State

T = TypeVar("T")

LIMIT = 200
"""Tasks in a list: what nobody scrolls to is not read each second."""


class Opened(Protocol):
    """A connection as the command line has it."""

    def run(self, work: Work[T]) -> T:
        """Execute a read."""
        ...

    def act(self, action: Action[T]) -> T:
        """Do something, noted in the audit trail."""
        ...


class Sight(NamedTuple):
    """One look: the figures, and the tasks of the tab that was asked for."""

    now: datetime
    status: Status
    recent: Recent
    tasks: Sequence[TaskView]
    took: float
    """Seconds that the look has taken."""


def _refuse() -> Opened:
    raise DatabaseUnreachable("the screen is closed")


class Desk:
    """Everything that touches the database; methods block, and may be called from any thread."""

    def __init__(self, opened: Callable[[], Opened], planner: Callable[[], Planner]) -> None:
        """`opened()` gives a connection that works, or raises; `planner()` one that knows the project's types."""
        self._opened, self._planner = opened, planner
        self._turn = threading.Lock()

    def close(self) -> None:
        """Wait for the look under way; whoever comes later is refused, and opens no connection that nobody closes."""
        with self._turn:
            self._opened = _refuse

    def look(self, tab: str) -> Sight:
        """Look at everything that `tab` shows. Raises: `DatabaseUnreachable`."""
        with self._turn:
            began, opened = time.monotonic(), self._opened()
            status, recent = opened.run(reads.status()), opened.run(reads.recent())
            tasks = self._tasks(opened, tab)
            return Sight(opened.run(reads.now()), status, recent, tasks, time.monotonic() - began)

    def why(self, id_: UUID) -> Why:
        """Say why a task is not running. Raises: `NotFound`."""
        with self._turn:
            return self._opened().run(reads.why(id_))

    def task(self, id_: UUID) -> TaskView | None:
        """Return a task in whatever state."""
        with self._turn:
            return self._opened().run(reads.task_by_id(id_))

    def act(self, action: Action[Any]) -> str:
        """Do it, and return the command that does the same. Raises: `TaskrunnerError`."""
        with self._turn:
            self._opened().act(action)
            return action.command

    def pause(self, row: Queue | Schedule) -> Action[Any]:
        """Make the action that pauses what runs, and resumes what is paused."""
        if isinstance(row, Queue):
            return actions.resume_queue(row.name) if row.paused else actions.pause_queue(row.name)
        make = actions.resume_schedule if row.paused else actions.pause_schedule
        return make(self._planner(), row.name, row.tenant)

    def run_schedule(self, row: Schedule) -> Action[Any]:
        """Make the action that adds a task as the schedule would."""
        return actions.run_schedule(self._planner(), row.name, row.tenant)

    def _tasks(self, opened: Opened, tab: str) -> Sequence[TaskView]:
        if tab == "running":
            return opened.run(reads.list_tasks(TaskFilter(state=State.RUNNING, limit=LIMIT))).items
        if tab == "retrying":
            return opened.run(reads.retrying(LIMIT))
        if tab == "dead":
            return opened.run(reads.dead_letters(TaskFilter(limit=LIMIT))).items
        return ()
