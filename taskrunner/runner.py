"""A runner: claims due tasks, runs them in its slots, and writes what became of them, cycle by cycle.

One loop sends all cycles (see `taskrunner.cycles`), so that, with none in flight, every claim is either held or unknown
to us (a lost reply), in which case it is released. User code never runs inside a transaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from taskrunner import events
from taskrunner.attempt import Attempt, Stop
from taskrunner.backoff import Backoff
from taskrunner.crew import Crew
from taskrunner.cycles import Cycles
from taskrunner.db import Link
from taskrunner.effects import Effects
from taskrunner.errors import TaskrunnerError
from taskrunner.leases import Heart, Lease, Rescuer
from taskrunner.outcome import Release
from taskrunner.parting import Drained, part
from taskrunner.prospects import Prospects
from taskrunner.recorder import Recorder
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.runner import Process, Pulse
from taskrunner.store.task import Hint
from taskrunner.wake import Listener
from taskrunner.watchdog import Watchdog

log = logging.getLogger("taskrunner.runner")

_WAIT = 0.5  # seconds that a claim waits for a slot, about: then it is better off elsewhere
_DOUBT_EVERY = 15.0  # seconds between two looks for rows that carry our id unknown to us
_RESCUE_EVERY = 5.0
_LINGER = 0.3  # seconds that the loop has to end by itself, when nothing is left to do
_FORCE = 0.4  # seconds that stopped tasks have to end and be released, once the grace period is over
_FAILURES = (TaskrunnerError, psycopg.Error, OSError)


@dataclass(slots=True)
class Ties:
    """A runner's ties to its supervisor; the defaults are those of a runner in a user's own program."""

    runner_id: UUID = field(default_factory=uuid7)
    recorder: Recorder | None = None
    beaten: bool = False
    rejoined: Callable[[UUID], None] = lambda _: None


class Runner:
    """Runs tasks of the registry's types until it is told to stop. One event loop, at most four connections.

    One more for `run_once`, and those of `session()`, when tasks use them: see `Effects`.

    In a program of your own it beats its heart from a thread (one connection more): Python code that blocks the loop
    keeps the lease, C code that holds the GIL for longer than the lease loses it.
    """

    def __init__(self, url: str, registry: Registry, settings: Settings, ties: Ties | None = None) -> None:
        self.lease = Lease(settings.lease)
        self.joined = asyncio.Event()
        self._url, self._registry, self._settings, self._ties = url, registry, settings, ties or Ties()
        self.id = self._ties.runner_id
        self._types = tuple(registry.names_and_aliases())
        self._queues = dict(settings.queues) or dict.fromkeys(sorted({kind.queue for kind in registry.all()}), 1)
        self._aside = Link(url, name="taskrunner runner aside", prepare=settings.prepare)
        # Log lines by one of their own, opened with the first: somebody's lock on their table holds up nothing else.
        self._scribe = Link(url, name="taskrunner runner log", prepare=settings.prepare)
        self._effects = Effects(url, settings, lambda: self.id)
        self._prospects = Prospects(self._queues, self._types)
        self._wake = asyncio.Event()
        self._draining = self._asked = False
        self._deadline = float("inf")  # of the drain, by monotonic time
        self._before: Drained | None = None
        self.drained = Drained()
        self._doubted = 0.0
        self._pulse = Pulse(self.id)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> int:
        """Run until stopped and drained; returns the number of stray threads, with which only `os._exit` leaves."""
        self._crew = Crew(
            self._registry,
            self._settings,
            recorder=self._ties.recorder,
            effects=self._effects,
            mark_suspect=self._mark_suspect,
            changed=self._wake.set,
            overrun=self._overrun,
        )
        await self._crew.open()
        self._cycles = Cycles(
            self._url,
            self._settings,
            self._prospects,
            self._crew,
            claim_is_start=not self._ties.beaten,
            may_start=lambda: not self.lease.ending,
            changed=self._wake.set,
        )
        heart = None if self._ties.beaten else self._heart()
        watchdog = Watchdog(running=self._crew.names)
        watchdog.start()
        helpers = [asyncio.create_task(work) for work in self._helpers()]
        working = asyncio.create_task(self._work())
        helpers.append(asyncio.create_task(self._end_in_time(working)))
        try:
            await asyncio.wait({working})
            if not working.cancelled():
                working.result()
        finally:
            await part([working, *self._cycles.flying, *self._cycles.surveys, *helpers])
            watchdog.stop()
            if heart is not None:
                heart.stop()
            await self._leave()
        if self._draining:
            log.info("runner %s has drained: %s", self.id, self.drained)
        return await self._crew.close()

    def stop(self, grace: timedelta | None = None) -> None:
        """Drain: claim nothing more, give running tasks the grace period, release the rest. Again: release at once."""
        again, self._asked, self._draining = self._asked, True, True
        length = self._settings.grace if grace is None else grace
        seconds = 0.0 if again else length.total_seconds()
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._drain()

    def _drain(self) -> None:
        """What waits for a slot goes back at once, and what still comes."""
        if self._before is None:
            self._before = self._so_far(Drained())
        if self.joined.is_set():
            self._cycles.refusing = True
            self._crew.give_back(Release())
        self._wake.set()

    def gauges(self) -> dict[str, float]:
        """Return how it is now, for its metrics; called from their thread."""
        crew: Crew | None = getattr(self, "_crew", None)
        if crew is None:  # it has not begun
            return {}
        return {
            "slots": self._settings.concurrency,
            "running": len(crew.active),
            "held": crew.held,
            "unwritten": len(crew.outbox),
            "stray_threads": crew.strays,
            "lease_seconds": self.lease.seconds,
        }

    def pulse(self) -> Pulse:
        """Say who this runner is and how busy; called from the heart's thread too."""
        return self._pulse

    def _overrun(self) -> None:
        """Drain as if asked to; the first signal that comes then is a first one, and keeps the grace period."""
        if not self._draining:
            self._draining = True
            self._deadline = time.monotonic() + self._settings.grace.total_seconds()
            self._drain()

    def _heart(self) -> Heart:
        heart = Heart(self._url, self, every=self._settings.heartbeat, lease=self._settings.lease)
        heart.start()
        return heart

    def _helpers(self) -> list[Coroutine[Any, Any, None]]:
        listener = Listener(self._url, who=lambda: self.id, on_due=self._heed_due, on_cancel=self._crew.cancel)
        listening = [listener.listen()] if self._settings.listen else []
        rescuing = [] if self._ties.beaten else [self._rescue_on()]  # a supervisor's heartbeat tells it who has died
        return [*listening, *rescuing, self._watch_lease(), self._look_after_tasks(), self._keep_lines()]

    def _so_far(self, before: Drained) -> Drained:
        crew: Crew | None = getattr(self, "_crew", None)  # a signal may come before it has begun
        return Drained(crew.ends - before.ended, crew.releases - before.released) if crew is not None else before

    async def _leave(self) -> None:
        self.drained = self._so_far(self._before or Drained())
        with suppress(*_FAILURES, TimeoutError):
            async with asyncio.timeout(0.5):
                if self.joined.is_set():
                    self.drained = self.drained.plus(0, await self._release_all())
                    await self._cycles.run(runner_store.leave([self.id]))
        with suppress(*_FAILURES, TimeoutError):
            async with asyncio.timeout(0.5):
                await self._crew.lines.store(self._scribe.run)
        await self._scribe.close()
        await self._effects.close()
        await self._cycles.close()
        await self._aside.close()

    async def _release_all(self) -> int:
        """Hand back what still carries our id: tasks that did not heed their stop, claims whose reply was lost."""
        return len(await self._cycles.run(store.release_unknown(self.id, ())))

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        backoff, landed_well = Backoff(), 0
        while not self._done():
            if self._cycles.landed_well > landed_well:
                landed_well = self._cycles.landed_well
                backoff.reset()
            try:
                await self._once()
            except _FAILURES as error:
                self._doubted = 0.0
                if self._draining and not self._crew.held:
                    return
                pause = backoff.pause()
                log.warning("%s; trying again in %.1f s", error, pause)
                await self._rest(pause)

    def _done(self) -> bool:
        if not self._draining:
            return False
        if time.monotonic() >= self._deadline:
            self._crew.stop(Stop.RELEASE)
        return not (self._crew.held or self._cycles.flying) or time.monotonic() > self._deadline + _FORCE

    async def _once(self) -> None:
        self._cycles.raise_failure()
        if not self.joined.is_set():
            await self._join()
        if self.lease.lost:
            self._cycles.refusing = True
            await self._cycles.land()
            await self._rejoin()
        if time.monotonic() - self._doubted >= _DOUBT_EVERY:
            await self._cycles.land()
            await self._dispel_doubt()
        room = self._room()
        if room > 0:
            self._cycles.look_out(self._aside, self._queues, self._types)
        if not self._cycles.take_off(self.id, room):
            pause = self._cycles.idle_seconds(room)
            await self._rest(pause if room > 0 else min(pause, self._settings.poll.total_seconds()))

    async def _rest(self, seconds: float) -> None:
        """Wait for a hint, an ending, a reply or a signal; a drain looks at its deadline often."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(seconds, 0.1) if self._draining else seconds)
        self._wake.clear()

    def _room(self) -> int:
        if self._draining or self.lease.ending or time.monotonic() < self._crew.rests_until:
            return 0
        return self._cycles.room()

    async def _dispel_doubt(self) -> None:
        """Release rows that carry our id though we hold no such claim: the reply of a claim was lost."""
        if await self._cycles.run(store.unknown(self.id, self._crew.held_ids())):
            released = await self._cycles.run(store.release_unknown(self.id, self._crew.held_ids()))
            if released:
                log.warning("released %d tasks that were claimed by a lost reply", len(released))
        if not self._doubted:  # something failed: a claim that was taken back may lie beneath a floor set since
            self._prospects.distrust()
        self._doubted = time.monotonic()

    # ── the lease ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _join(self) -> None:
        process = Process(
            id=self.id,
            kind="runner",
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=tuple(self._queues),
            types=self._types,
            slots=self._settings.concurrency,
            version=version("taskrunner"),
        )
        asked_at = time.monotonic()
        await self._cycles.run(runner_store.join(process, self._settings.lease))
        self.lease.renew(asked_at)
        self._pulse = Pulse(self.id)
        self._ties.rejoined(self.id)
        self.joined.set()
        events.emit(events.Joined, self.id)
        log.info("runner %s joined: queues %s, %d slots", self.id, ", ".join(self._queues), process.slots)

    async def _rejoin(self) -> None:
        """The lease was lost: stop everything, write and release what the fence still lets us, take a new id."""
        log.warning("runner %s has lost its lease: stopping its tasks and joining anew", self.id)
        events.emit(events.LeaseLost, self.id)
        self._crew.stop(Stop.LOST)
        while self._crew.active:
            await self._rest(0.2)
        await self._cycles.write_last(self.id)
        await self._release_all()
        await self._cycles.run(runner_store.leave([self.id]))
        self._crew.forget()
        self.id = uuid7()
        self.joined.clear()
        self._cycles.refusing = self._draining
        self.lease.renew(time.monotonic())

    async def _end_in_time(self, working: asyncio.Task[None]) -> None:
        """A server that swallows packets must not hold up a drain that has nothing left to write."""
        idle_since = float("inf")
        while True:
            await asyncio.sleep(0.1)
            idle = self._draining and not self._crew.held
            idle_since = min(idle_since, time.monotonic()) if idle else float("inf")
            if time.monotonic() > min(idle_since + _LINGER, self._deadline + 2 * _FORCE):
                working.cancel()

    def lose_lease(self) -> None:
        """The lease is lost: stop the tasks, join anew."""
        self.lease.lost = True
        self._crew.stop(Stop.LOST)
        self._wake.set()

    async def _watch_lease(self) -> None:
        """Stop the tasks before the lease ends, also when no heartbeat comes through.

        Seen twice: after a block of the loop, the heartbeats that came meanwhile may not have been read yet.
        """
        doubtful = False
        while True:
            await asyncio.sleep(0.25)
            ending = self.joined.is_set() and not self.lease.lost and self.lease.ending
            if ending and doubtful:
                log.warning("the lease of runner %s cannot be kept: stopping its tasks", self.id)
                self.lose_lease()
            doubtful = ending

    async def _rescue_on(self) -> None:
        """Take back what other runners have left; any process may, so that no one of them is needed."""
        rescuer = Rescuer(self._aside.run, self._settings.crash_limit)
        while True:
            await asyncio.sleep(_RESCUE_EVERY * random.uniform(0.8, 1.2))  # noqa: S311 - no secret depends on it
            try:
                await rescuer.round()
            except _FAILURES as error:
                log.debug("rescue failed: %s", error)

    # ── beside the loop ──────────────────────────────────────────────────────────────────────────────────────────

    async def _mark_suspect(self, attempt: Attempt) -> bool:
        """A task that has seen a runner die runs only once its start is stored: if we die, it alone is to blame."""
        claim = attempt.claim
        try:
            attempt.marked = await self._aside.run(store.mark_started(self.id, claim.id, claim.claim_no))
        except _FAILURES as error:
            log.warning("the start of %s %s cannot be stored, it is released: %s", claim.type, claim.id, error)
            self._crew.exhausted()
            return False
        return attempt.marked

    async def _look_after_tasks(self) -> None:
        """Twice a second, if anything runs: write progress, and look whether somebody asked for a stop."""
        while True:
            await asyncio.sleep(0.5)
            self._pulse = Pulse(self.id, len(self._crew.active), self._crew.strays)
            try:
                marks = dict(self._crew.progress)
                self._crew.shed(_WAIT)
                if marks:
                    written = await self._aside.run(store.progress(self.id, marks))
                    self._crew.shown(marks, written)
                if any(attempt.age > 1.0 for attempt in self._crew.active):
                    for id_ in await self._aside.run(store.cancel_requests(self.id)):
                        self._crew.cancel(id_)
            except _FAILURES as error:
                log.debug("looking after the running tasks failed: %s", error)

    async def _keep_lines(self) -> None:
        """Twice a second, store what tasks have logged."""
        while True:
            await asyncio.sleep(0.5)
            await self._crew.lines.store(self._scribe.run)

    def _heed_due(self, hint: Hint) -> None:
        self._prospects.heard(hint)
        self._wake.set()
