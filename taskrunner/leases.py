"""Leases of runner processes: heartbeats, what a runner knows of its own lease, and the rescue of the dead.

The lease belongs to the process, not to its tasks. Under a supervisor the supervisor beats for its children; a runner
inside a user's own program beats by a `Heart`, a thread with a connection of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg

from taskrunner import db
from taskrunner.backoff import Backoff
from taskrunner.db import Work, run
from taskrunner.errors import TaskrunnerError
from taskrunner.store import runner as store
from taskrunner.store.runner import Pulse, Rescued

log = logging.getLogger("taskrunner.leases")

_PATIENCE = 0.4  # seconds that a drain waits for a heartbeat that is on its way
# A claim still on its way when its runner's row goes leaves tasks of no runner: seconds between two looks for them,
# and seconds after a death in which every round looks.
_ORPHANS_EVERY, _WARY = 60.0, 20.0
_CHILDRENS_LOCKS = timedelta(milliseconds=200)  # that a rescue waits for the lock of a dead task's child


class Lease:
    """What a runner knows of its lease, by monotonic time: it is shorter than the database's, never longer."""

    def __init__(self, length: timedelta) -> None:
        self._length = length.total_seconds()
        self._until = self._renewed_at = 0.0
        self.lost = False

    def extended(self, asked_at: float) -> None:
        """A heartbeat sent at `asked_at` (monotonic) was granted: the lease runs from then."""
        self._until = max(self._until, asked_at + self._length)

    def renew(self, asked_at: float) -> None:
        """The runner has joined, by a statement sent at `asked_at` (monotonic)."""
        self.lost = False
        self._until = asked_at + self._length
        self._renewed_at = time.monotonic()

    def refused(self, asked_at: float) -> None:
        """A heartbeat sent at `asked_at` was not granted: the lease is lost, unless the runner has joined since."""
        if asked_at >= self._renewed_at:
            self.lost = True

    @property
    def seconds(self) -> float:
        """Seconds until it ends; below 0 when it has."""
        return self._until - time.monotonic()

    @property
    def ending(self) -> bool:
        """Whether tasks must be stopped now: the lease is lost, or over within a fifth of its length."""
        return self.lost or time.monotonic() > self._until - self._length / 5


class Member(Protocol):
    """A runner whose heart beats for it."""

    lease: Lease

    def pulse(self) -> Pulse:
        """Say who beats and how it is."""


class Heart:
    """A thread that beats for a runner inside a user's own program, whatever its event loop does."""

    def __init__(self, url: str, member: Member, *, every: timedelta, lease: timedelta) -> None:
        self._url, self._member = url, member
        self._every, self._lease = every.total_seconds(), lease
        self._stop = threading.Event()
        self._conn: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._beat_on, name="taskrunner-heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and wait for the thread: for one statement, or a moment if the server does not answer."""
        self._stop.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive() and self._conn is not None:
            db.hang_up(self._conn)
            self._thread.join(_PATIENCE)

    def _beat_on(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                self._conn = self._conn or db.connect(self._url, name="taskrunner heart")
                self._beat(self._conn)
                backoff.reset()
                self._stop.wait(self._every)
            except (TaskrunnerError, psycopg.Error) as error:
                if not self._stop.is_set():
                    log.warning("heartbeat failed: %s", error)
                self._close()
                self._stop.wait(backoff.pause())
        self._close()

    def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def _beat(self, conn: psycopg.Connection[Any]) -> None:
        asked_at, pulse = time.monotonic(), self._member.pulse()
        if pulse.id in run(conn, store.beat([pulse], self._lease)).alive:
            self._member.lease.extended(asked_at)
        elif pulse.id == self._member.pulse().id:  # not one that has rejoined meanwhile
            self._member.lease.refused(asked_at)


Pump = Callable[[Work[Any]], Awaitable[Any]]
"""`Link.run`, or anything that executes work on a connection."""


class Rescuer:
    """Takes back, round after round, what the dead have left; a round in which nobody has died is one statement."""

    def __init__(self, pump: Pump, crash_limit: int) -> None:
        self._pump, self._crash_limit = pump, crash_limit
        self._wary_until = self._looked_at = float("-inf")  # monotonic

    async def round(self, *, died: bool | None = None) -> list[Rescued]:
        """Take back the tasks of every runner whose lease has ended, and of those that have no row at all.

        `died`: whether there is such a lease, where that is known. Tasks of no runner at all are looked for at first,
        then once a minute, and in each round for a while after a death.
        """
        rescued: list[Rescued] = []
        if died is None:
            died = await self._pump(store.any_expired())
        if died:
            self._wary_until = time.monotonic() + _WARY
            await self._take_expired(rescued)
        now = time.monotonic()
        if now < self._wary_until or now - self._looked_at >= _ORPHANS_EVERY:
            for runner_id in await self._pump(store.orphaned()):
                await self._note(rescued, runner_id, await self._pump(store.rescue(runner_id, self._crash_limit)))
            self._looked_at = now
        return rescued

    async def _take_expired(self, rescued: list[Rescued]) -> None:
        seen: list[UUID] = []
        while (found := await self._pump(store.rescue_next(seen, self._crash_limit))) is not None:
            runner_id, tasks = found
            seen.append(runner_id)
            await self._note(rescued, runner_id, tasks)

    async def _note(self, rescued: list[Rescued], runner_id: UUID, tasks: Sequence[Rescued]) -> None:
        tasks = await _bury_special(self._pump, runner_id, tasks)
        _tell(runner_id, tasks)
        rescued += tasks


async def rescue_dead(pump: Pump, crash_limit: int) -> list[Rescued]:
    """Take back the tasks of every runner whose lease has ended, and of those that have no row at all."""
    return await Rescuer(pump, crash_limit).round()


async def rescue_of(pump: Pump, runner_id: UUID, started: Sequence[tuple[UUID, int]], crash_limit: int) -> None:
    """Take back the tasks of a process that is known to be dead; `started` is what its flight recorder says."""
    tasks: Sequence[Rescued] = await pump(store.rescue_of(runner_id, started, crash_limit))
    _tell(runner_id, await _bury_special(pump, runner_id, tasks))


async def _bury_special(pump: Pump, runner_id: UUID, tasks: Sequence[Rescued]) -> list[Rescued]:
    """Each in a transaction of its own: one that is refused, by a lock on a child or otherwise, holds up no other."""
    verdicts = []
    for task in tasks:
        if task.verdict != "special":
            verdicts.append(task)
            continue
        try:
            if await pump(store.bury(runner_id, [task.id], _CHILDRENS_LOCKS)):
                verdicts.append(task._replace(verdict="dead"))
        except psycopg.Error as error:
            log.warning("task %s, whose runner died too often, is left for the next round: %s", task.id, error)
    return verdicts


def _tell(runner_id: UUID, tasks: Sequence[Rescued]) -> None:
    if not tasks:
        return
    charged, released, dead = (
        sum(task.verdict == verdict for task in tasks) for verdict in ("charged", "released", "dead")
    )
    log.warning(
        "took back what dead runner %s held: %d with a crash counted, %d unchanged, %d dead",
        runner_id,
        charged,
        released,
        dead,
    )
    for task in tasks:
        if task.verdict == "dead":
            log.error("task %s is dead: its runner died too often", task.id)
