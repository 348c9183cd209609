"""Waiting for tasks' ends: who waits for which task, what to ask the database, and what to make of its answers.

A waiter marks its tasks as awaited; the statement that ends an awaited task tells by NOTIFY, which `awaiting` hears.
No wake-up can be missed: who begins to listen, or begins again, looks once at all that is waited for. Looks besides
those are for what should not happen: one a door every `SAFETY` seconds, for all its waiters together.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from uuid import UUID

from taskrunner import reads
from taskrunner.db import Op, Steps
from taskrunner.durations import as_delay
from taskrunner.errors import AccessDenied, InvalidArgument, NotFound, TaskDead, WaitTimeout
from taskrunner.intake import as_id
from taskrunner.reads import TaskView
from taskrunner.statements import waiting as sql
from taskrunner.store.enqueue import Enqueued
from taskrunner.task import Task

log = logging.getLogger("taskrunner.waiting")

Timeout = timedelta | float | None
"""Seconds, or as timedelta; None: for ever."""

CHANNEL = "taskrunner_ended"
"""NOTIFY channel: the id of an awaited task that has ended."""

SAFETY = 5.0
"""Seconds between two looks while notifications arrive."""

SHORTEST, LONGEST = 0.02, 1.0
"""Seconds between two looks without notifications: they grow from the one to the other."""

_LATE = 1.0  # s after a look has found an end until the notification of it counts as lost


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


def task_ids(given: Iterable[Any]) -> list[UUID]:
    """Return the ids of tasks given by id, or by what `add` or `get` returned."""
    if isinstance(given, UUID | str | Enqueued | Task):
        raise InvalidArgument("several tasks are waited for in a list; for one there are wait() and result()")
    return [as_id(getattr(one, "id", one)) for one in given]


def awaited(ids: Collection[UUID], tenant: str | None = None) -> Op[dict[UUID, bool]]:
    """Return the live ones of these tasks, of this tenant's if one is given, and of each whether its end is told."""
    return _told_of(sql.AWAIT, ids, tenant)


def _told_of(statement: str, ids: Collection[UUID], tenant: str | None) -> Op[dict[UUID, bool]]:
    return Op(statement, {"ids": list(ids), "tenant": tenant}, lambda rows: {row[0]: row[1] for row in rows})


class Board:
    """Who waits in one door, and when to look next. To be used from any thread; times are monotonic seconds."""

    def __init__(self, tenant: str | None = None) -> None:
        """With a `tenant` only his tasks are found."""
        self.tenant = tenant
        self._lock = threading.Lock()
        self._watches: dict[UUID, set[Watch]] = {}
        self._marked: set[UUID] = set()
        self._unheard: dict[UUID, float] = {}  # ends that a look has found, and since when
        self._listening = self._deaf = False
        self._may_mark = True
        self._pause = SHORTEST
        self._next_look = math.inf
        self._empty_since = -math.inf

    def enter(self, watch: Watch) -> None:
        """Let a watch be told of its tasks."""
        with self._lock:
            for id_ in watch.open:
                self._watches.setdefault(id_, set()).add(watch)
            self._pause = SHORTEST
            self._next_look = min(self._next_look, time.monotonic() + self._gap())

    def leave(self, watch: Watch, ids: Collection[UUID]) -> None:
        """A watch needs to hear no more of these tasks."""
        with self._lock:
            for id_ in ids:
                self._watches[id_].discard(watch)
                if not self._watches[id_]:
                    del self._watches[id_]
                    self._marked.discard(id_)
            if not self._watches:
                self._next_look = math.inf
                self._empty_since = time.monotonic()

    def idle_seconds(self) -> float:
        """Return for how long nobody has waited."""
        return 0.0 if self._watches else time.monotonic() - self._empty_since

    @property
    def next_look(self) -> float:
        """When somebody is to look at all that is waited for."""
        return self._next_look

    def look(self) -> set[UUID]:
        """Return all that is waited for if it is time to look; who is given them looks for all."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_look:
                return set()
            if self._listening and any(now - since > _LATE for since in self._unheard.values()):
                self._deafen()
            self._next_look = now + self._gap()
            return set(self._watches)

    def mark(self, ids: Collection[UUID]) -> Steps[dict[UUID, bool]]:
        """Return what `awaited` does; a login that may only read looks in pauses for what it cannot mark."""
        live: dict[UUID, bool]
        if self._may_mark:
            try:
                live = yield awaited(ids, self.tenant)
            except AccessDenied:
                self._may_mark = False
            else:
                return live
        live = yield _told_of(sql.LOOK, ids, self.tenant)
        return live

    def looked(self, asked: Collection[UUID], live: Mapping[UUID, bool]) -> None:
        """Take note of what a look has shown: of those that are live, whether their ends will be told."""
        with self._lock:
            now = time.monotonic()
            for id_ in asked:
                if id_ not in live:
                    if self._listening and id_ in self._marked:
                        self._unheard.setdefault(id_, now)
                    self._tell(id_, sure=True)
            self._marked.update(id_ for id_, told in live.items() if told and id_ in self._watches)
            if not all(live.values()):  # somebody's lock was in the way
                self._next_look = min(self._next_look, now + self._grown())

    def look_soon(self) -> None:
        """Look as if there were no notifications."""
        with self._lock:
            self._next_look = min(self._next_look, time.monotonic() + self._grown())

    def told(self, id_: UUID) -> None:
        """A notification says that a task has ended."""
        with self._lock:
            self._unheard.pop(id_, None)
            self._marked.discard(id_)  # a look that is under way must not expect it any more
            self._deaf = False
            self._tell(id_, sure=False)

    def collect(self, watch: Watch) -> set[UUID]:
        """Return what a watch was told since the last time."""
        with self._lock:
            return watch.collect()

    def listens(self, listening: bool) -> None:
        """Notifications arrive from now on, or do so no more: either way somebody has to look."""
        with self._lock:
            if listening or self._listening:
                self._unheard.clear()
                self._deaf = False
                self._pause = SHORTEST
                self._next_look = time.monotonic() if self._watches else math.inf
            self._listening = listening
            for watch in set().union(*self._watches.values()):
                watch.ring()

    def _tell(self, id_: UUID, *, sure: bool) -> None:
        for watch in self._watches.get(id_, ()):
            watch.tell(id_, sure=sure)

    def _gap(self) -> float:
        return SAFETY if self._listening and not self._deaf else self._grown()

    def _grown(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 1.5, LONGEST)
        return pause

    def _deafen(self) -> None:
        if not self._deaf:
            log.warning(
                "notifications of tasks' ends do not arrive: looking for them instead. Behind a transaction pooler "
                "set TASKRUNNER_LISTEN=false"
            )
        self._deaf = True
        self._pause = SHORTEST
        self._unheard.clear()


class Watch:
    """One call that waits for the ends of some tasks. `ring` is called, from any thread, when a turn may be worth it.

    The call takes turns until nothing is `open`, and between two of them waits for its bell, or `pause()` seconds.
    """

    def __init__(self, board: Board, ids: Iterable[UUID], timeout: Timeout, ring: Callable[[], object]):
        seconds = math.inf if timeout is None else as_delay(timeout, "timeout").total_seconds()
        self._until = time.monotonic() + seconds
        self._board = board
        self.ring = ring
        self.open = set(ids)
        self._doubted = set(self.open)  # to be looked at
        self._told: set[UUID] = set()  # somebody says that they have ended
        self._sure: set[UUID] = set()  # a look says that they are not live

    def __enter__(self) -> Watch:
        self._board.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.leave(self, self.open)

    def tell(self, id_: UUID, *, sure: bool) -> None:
        """Hear that a task has ended. The board's lock is held, as for `collect`."""
        self._told.add(id_)
        if sure:
            self._sure.add(id_)
        self.ring()

    def collect(self) -> set[UUID]:
        """Return what was told since the last time."""
        told, self._told = self._told, set()
        return told

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._until

    def pause(self) -> float:
        """Return the seconds until the next turn, if the bell does not ring before."""
        return 0.0 if self._doubted else max(0.0, min(self._until, self._board.next_look) - time.monotonic())

    def turn(self) -> Steps[list[TaskView]]:
        """Return the tasks that have ended since the last turn. Each statement is a transaction by itself.

        Raises: `NotFound`.
        """
        asked = self._board.look() | (self.open if self.late else self._doubted)
        self._doubted = set()
        if asked:
            self._board.looked(asked, (yield from self._board.mark(asked)))
        told = self._board.collect(self) & self.open
        if not told:
            return []
        tenant = self._board.tenant
        ended: list[TaskView] = yield reads.ended_tasks(told)
        views = [view for view in ended if tenant in (None, view.tenant)]
        missing = told - {view.id for view in views}
        behind: set[UUID] = set()  # wait behind a task of the same key, or were taken over by it
        for id_ in missing & self._sure:
            view = yield from reads.successor_by_id(id_)
            view = found(view if view is None or tenant in (None, view.tenant) else None, id_)
            if view.finished_at is None:
                behind.add(id_)
            else:
                views.append(view.model_copy(update={"id": id_}))
        if behind:
            self._board.look_soon()  # nobody tells of their coming
        missing -= {view.id for view in views}
        self._doubted = missing - behind  # anybody may send notifications
        self._board.leave(self, told - missing)
        self.open -= told - missing
        return sorted(views, key=lambda view: (view.finished_at, view.id))

    def too_late(self) -> Steps[WaitTimeout]:
        """Return the error for what has not ended in time, with what is known of the first of them."""
        id_ = min(self.open)
        view = (yield reads.task_by_id(id_)) or (yield from reads.successor_by_id(id_))
        state = _state(view) if view is not None else ""
        why = yield reads.unattended(id_)
        reason = "; ".join(part for part in (state, why) if part)
        if len(self.open) == 1:
            return WaitTimeout(f"task {id_} has not ended in time: {reason}")
        return WaitTimeout(f"{len(self.open)} tasks have not ended in time, the first is {id_}: {reason}")


def _state(view: TaskView) -> str:
    """Say in words what a live task is doing."""
    now = datetime.now(UTC)
    if view.state == "running":
        since = f" since {view.started_at:%H:%M:%S %Z}" if view.started_at else ""
        return f"it is running{since}"
    if view.state == "pending":
        when = f"due at {view.maturity_at.isoformat(' ', 'seconds')}" if view.maturity_at > now else "due"
        tries = f" after {view.tries} failed tries" if view.tries else ""
        return f"it is pending, {when}{tries}"
    return f"it is {view.state}"
