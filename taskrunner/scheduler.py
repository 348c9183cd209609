"""The process that turns schedules into tasks, and does the maintenance beside it. Any number may be at work."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

import psycopg

from taskrunner import declared, janitor
from taskrunner.db import Link
from taskrunner.duties import TROUBLE, Duties, complain
from taskrunner.errors import DatabaseUnreachable, SchemaBehind
from taskrunner.errortext import clean_text
from taskrunner.leases import Rescuer
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.store import declaration, runner, schedule
from taskrunner.store.declaration import Declaration
from taskrunner.store.schedule import Waiting

log = logging.getLogger(__name__)

ROOM = 100  # schedules looked at in one go
RESCUE_EVERY = timedelta(seconds=2)
MAINTAIN_EVERY = timedelta(hours=1)
CONTENDED = 0.1  # s, when all that is due is in other schedulers' hands
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s, after trouble with the database
LONGEST_HOLD = 30.0  # s, for a schedule whose ticks fail
_PARTING = (0.3, 0.05, 0.05)  # s, for what is under way when told to stop: to end, to heed a cancel, and another

_OUTAGE = (DatabaseUnreachable, SchemaBehind)
_PASSING = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


class Scheduler:
    """Ticks the schedules of the registry's types until it is stopped; outlives every trouble with the database."""

    def __init__(self, url: str, registry: Registry, settings: Settings) -> None:
        self._settings = settings
        self._known = declared.known(registry)
        self._undeclared = declared.declarations(registry)
        self._ended = declared.ended(registry)
        self._ticks = Link(url, name="taskrunner scheduler", prepare=settings.prepare)
        self._leases = Link(url, name="taskrunner scheduler leases", prepare=settings.prepare)
        self._maintenance = Link(url, name="taskrunner janitor", prepare=settings.prepare, patience=janitor.LONGEST)
        self._holds = Holds()
        self._stopping = asyncio.Event()
        self._duties = Duties()
        self.id: UUID | None = None

    async def run(self) -> None:
        """Tick, beat and maintain until `stop()`; then return within a second, whatever the database does."""
        loops = [
            asyncio.create_task(self._repeat("ticking", self._look)),
            asyncio.create_task(self._repeat("its lease", self._beat)),
        ]
        rescuer = Rescuer(self._leases.run, self._settings.crash_limit)
        self._duties.start({"rescue": (RESCUE_EVERY, rescuer.round), "maintenance": (MAINTAIN_EVERY, self._maintain)})
        try:
            await self._stopping.wait()
        finally:
            await _part(*loops, *self._duties.stop())
            await _part(asyncio.create_task(self._leave()))

    def stop(self) -> None:
        """Ask `run()` to return: the tick under way is finished, none is begun."""
        self._stopping.set()

    # ── ticks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> float:
        """Declare what is not declared yet, tick what is due; returns the seconds until the next look."""
        self._duties.follow_clock()
        await self._declare()
        line = await self._ticks.run(schedule.line(self._known.types, self._holds.ids(), ROOM))
        due = [waiting for waiting in line if waiting.due_in <= 0]
        done = 0
        for waiting in due:
            if self._stopping.is_set():
                break
            done += await self._tick(waiting)
        if due:
            return 0.0 if done else CONTENDED
        nearest = [waiting.due_in for waiting in line[:1]] + self._holds.left()
        return min([self._settings.poll.total_seconds(), *nearest])

    async def _tick(self, waiting: Waiting) -> bool:
        """Turn one due schedule into its tasks; a failure is kept beside it and holds up only itself."""
        work = schedule.tick(waiting.id, self._known, self._settings.catch_up_limit)
        try:
            ticked = await self._ticks.run(work)
        except _OUTAGE:
            raise
        except Exception as error:  # a class of the user's that checks a payload may raise anything
            await self._hold(waiting, error)
            return False
        self._holds.release(waiting.id)
        if ticked is None:
            return False
        if ticked.missed:
            log.info("schedule %s: missed ticks were skipped, as it asks for", waiting.name)
        log.debug("schedule %s: %d added, %d met a live task", waiting.name, ticked.added, ticked.skipped)
        return True

    async def _hold(self, waiting: Waiting, error: Exception) -> None:
        seconds = self._holds.hold(waiting.id)
        reason = clean_text(f"{type(error).__name__}: {error}")
        log.warning("schedule %s could not tick, next attempt in %.0f s: %s", waiting.name, seconds, reason)
        await self._ticks.run(schedule.fail(waiting.id, reason))

    async def _declare(self) -> None:
        """Declare the registry's schedules; those that a lock or a time limit keeps from it come with the next look."""
        left: list[Declaration] = []
        for one in self._undeclared:
            try:
                outcome = await self._ticks.run(declaration.declare(one))
            except _PASSING:
                left.append(one)
            except psycopg.Error as error:
                log.error("schedule %s is not declared, until the next start: %s", one.name, error)
            else:
                _report(one, outcome)
        self._undeclared = left
        if self._ended:
            with suppress(*_PASSING):
                for name in await self._ticks.run(declaration.end(self._ended)):
                    log.info("schedule %s ended: its type has no frequency any more", name)
                self._ended = {}

    # ── lease and maintenance ────────────────────────────────────────────────────────────────────────────────────────

    async def _beat(self) -> float:
        """Extend this process's lease, or join under a new id; returns the seconds until the next beat."""
        lease = self._settings.lease
        if self.id is not None and not (await self._leases.run(runner.beat([runner.Pulse(self.id)], lease))).alive:
            log.warning("the lease of scheduler %s had ended: it joins again under a new id", self.id)
            self.id = None
        if self.id is None:
            fresh = uuid4()
            types = tuple(self._known.types)
            process = runner.Process(
                fresh, "scheduler", socket.gethostname(), os.getpid(), (), types, 0, version("taskrunner")
            )
            await self._leases.run(runner.join(process, lease))
            self.id = fresh
        return self._settings.heartbeat.total_seconds()

    async def _leave(self) -> None:
        try:
            if self.id is not None:
                await self._leases.run(runner.leave([self.id]))
        except TROUBLE as error:
            log.debug("scheduler %s could not sign off; its lease ends by itself: %s", self.id, error)
        for link in (self._ticks, self._leases, self._maintenance):
            await link.close()

    async def _maintain(self) -> None:
        try:
            await janitor.partitions(self._maintenance, self._settings)
            await janitor.retention(self._maintenance, self._settings)
        finally:
            await self._maintenance.close()

    # ── outliving trouble ────────────────────────────────────────────────────────────────────────────────────────────

    async def _repeat(self, what: str, step: Callable[[], Awaitable[float]]) -> None:
        """Call `step` again and again, each time after the seconds that it returns, until stopped."""
        failures = 0
        while not self._stopping.is_set():
            try:
                wait = await step()
            except Exception as error:
                wait = min(SHORTEST_PAUSE * 2**failures, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                failures = min(failures + 1, 10)
                complain(what, error, first=failures == 1)
            else:
                if failures:
                    log.info("%s goes on: the database answers again", what)
                failures = 0
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


class Holds:
    """Schedules whose ticks failed a moment ago; each waits twice as long as the time before. Monotonic time."""

    def __init__(self) -> None:
        self._until: dict[UUID, float] = {}
        self._seconds: dict[UUID, float] = {}

    def hold(self, id_: UUID) -> float:
        """Leave the schedule alone for a while; returns for how many seconds."""
        seconds = min(self._seconds.get(id_, 0.5) * 2, LONGEST_HOLD)
        self._seconds[id_], self._until[id_] = seconds, time.monotonic() + seconds
        return seconds

    def release(self, id_: UUID) -> None:
        """Forget that it ever failed."""
        self._until.pop(id_, None)
        self._seconds.pop(id_, None)

    def ids(self) -> list[UUID]:
        """Return those whose time is not up."""
        now = time.monotonic()
        return [id_ for id_, until in self._until.items() if until > now]

    def left(self) -> list[float]:
        """Return the seconds that each of them still has."""
        now = time.monotonic()
        return [until - now for until in self._until.values() if until > now]


async def _part(*tasks: asyncio.Task[Any]) -> None:
    """Let tasks end by themselves, then cancel them: psycopg then asks the server, and a second cancel ends that."""
    waiting = set(tasks)
    for patience in _PARTING:
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=patience)
        for task in waiting:
            task.cancel()


def _report(one: Declaration, outcome: declaration.Declared) -> None:
    match outcome:
        case "added" | "changed":
            log.info("schedule %s %s: %s", one.name, outcome, one.trigger.describe())
        case "older":
            log.warning("schedule %s is as a newer release declares it: this code's frequency is not used", one.name)
        case "taken":
            log.error(
                "schedule %s is not declared: one made at run time has its name; "
                "remove that with `taskrunner schedules remove %s`, or rename the type",
                one.name,
                one.name,
            )
