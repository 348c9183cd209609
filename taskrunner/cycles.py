"""Cycles on their way: what has ended, what has started and what is asked for goes to the server in one round trip.

Two are in flight at most, on two connections: while one batch of tasks runs, the next is fetched, and the claim is off
the tasks' path. Surveys run beside them, on a third.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from taskrunner import events
from taskrunner.attempt import Attempt
from taskrunner.crew import Crew
from taskrunner.db import Link, Op, Work
from taskrunner.outbox import REFUSED
from taskrunner.prospects import Plan, Prospects
from taskrunner.settings import Settings
from taskrunner.store import fair
from taskrunner.store import task as store
from taskrunner.store.task import Cycle, Cycled, Started

T = TypeVar("T")

_LANES = 2
_CLAIMS = 500  # in one cycle: with more of them each costs no less, but the reply keeps everybody waiting
_GATHER = 0.002  # seconds from one cycle to the next, unless there is much to do: a quiet runner does not wait
_LATE = 0.1  # seconds: a reply that takes longer is no longer waited for by what is less than a share
_MARK_AFTER = 0.25  # seconds: a run shorter than this never needs its start in the database
_MARK_EVERY = 0.1
_REST = 15.0  # seconds that a runner with nothing at all to do waits at most


class Cycles:
    """The lanes of one runner; all methods on its event loop, one caller at a time."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        prospects: Prospects,
        crew: Crew,
        *,
        claim_is_start: bool,
        may_start: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        """With `claim_is_start` the claim marks the start; `changed` is called when something has come back.

        Where `may_start` says no, or `refusing` is set, claims that still come are given back.
        """
        # Not behind a transaction pooler, where others would get the session's settings.
        own = settings.prepare and settings.listen
        self._lanes = [
            Link(url, name="taskrunner runner", prepare=settings.prepare, planned_once=own) for _ in range(_LANES)
        ]
        self._idle = list(self._lanes)
        self._prospects, self._crew, self._changed = prospects, crew, changed
        self._claim_is_start, self._may_start = claim_is_start, may_start
        self.refusing = False
        self._poll = settings.poll.total_seconds()
        self._sent_at = 0.0
        self._asked_for = 0  # claims that cycles in flight may bring
        self._leaving = False  # a cycle has been sent that has not yet taken its letters
        self._surveying = False
        self._marked_at = 0.0
        self._failure: BaseException | None = None
        self.flying: set[asyncio.Task[None]] = set()
        self.surveys: set[asyncio.Task[None]] = set()
        self.landed_well = 0

    def room(self) -> int:
        """Return how many claims the next cycle should ask for: a lane's share, or one takes all and one waits."""
        return min(self._crew.room() - self._asked_for, self._share())

    def take_off(self, runner_id: UUID, room: int) -> bool:
        """Send a cycle if there is a lane for it and enough to do: a lane's whole share, or anything after a while."""
        if not self._idle or self._leaving:
            return False
        least = self._share() if self._gathering() else 1
        writing = self._worth_writing(least)
        plan = self._prospects.take() if room >= least or (writing and room > 0) else None
        if plan is None and not writing:
            return False
        self._sent_at, self._leaving = time.monotonic(), True
        self._spawn(self._cycle(self._idle.pop(), runner_id, plan, room if plan else 0), self.flying)
        return True

    def look_out(self, link: Link, queues: Collection[str], types: Collection[str]) -> None:
        """Send a survey if it is time: one question for all queues, what is due, and when the next task matures."""
        if not self._surveying and time.monotonic() >= self._prospects.survey_at:
            self._surveying = True
            self._spawn(self._survey(link, queues, types), self.surveys)

    def idle_seconds(self, room: int) -> float:
        """Return how long there is nothing to send, if nothing happens."""
        # While claims are held: endings that met a lock, starts to be marked.
        waits = [_MARK_AFTER if self._crew.held else _REST]
        if self._idle:
            if self._crew.outbox:
                waits.append(self._gathering())
            if room > 0:
                waits.append(max(self._prospects.wait(), self._gathering()))
        if room > 0 and not self._surveying:
            waits.append(self._prospects.survey_at - time.monotonic())
        return max(0.0005, min(waits))

    def _gathering(self) -> float:
        """Return the seconds for which little things to do are left to become more: a cycle of one task costs most.

        Beside a cycle in flight, until its reply: it comes soon, unless somebody's lock holds it up.
        """
        gather = _GATHER if len(self._idle) == _LANES else _LATE
        return max(0.0, self._sent_at + gather - time.monotonic())

    def raise_failure(self) -> None:
        """Raise what the last failed flight failed of, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def land(self) -> None:
        """Wait until nothing is in flight: what was claimed is then known, or its reply was lost."""
        while self.flying:
            await asyncio.wait(set(self.flying))

    async def run(self, work: Work[T]) -> T:
        """Execute something else on a lane."""
        return await self._lanes[0].run(work)

    async def write_last(self, runner_id: UUID) -> None:
        """Write what is in the outbox, and claim nothing."""
        outbox = self._crew.outbox
        while letters := outbox.take():
            try:
                await outbox.write_last_words(self.run, runner_id, letters)
                asked = Cycle(runner_id, [letter.ending() for letter in letters])
                cycled = await self.run(store.cycle(asked))
            except REFUSED:
                outbox.refused(letters)
                continue
            except BaseException:
                outbox.put_back(letters)
                raise
            await outbox.written(self.run, runner_id, letters, cycled.left)
        await outbox.write_others(self.run, runner_id)

    async def close(self) -> None:
        """Close the lanes."""
        for lane in self._lanes:
            await lane.close()

    # ── one flight ───────────────────────────────────────────────────────────────────────────────────────────────

    def _share(self) -> int:
        return min(-(-self._crew.capacity() // _LANES), _CLAIMS)

    def _worth_writing(self, least: int) -> bool:
        outbox = self._crew.outbox
        return len(outbox) >= least or (least == 1 and (outbox.ready() or bool(self._unmarked())))

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(partial(self._landed, among))

    def _landed(self, among: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        among.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        elif among is self.flying:
            self.landed_well += 1
        self._changed()

    async def _cycle(self, lane: Link, runner_id: UUID, plan: Plan | None, room: int) -> None:
        outbox = self._crew.outbox
        letters, started = outbox.take(), self._unmarked()
        asked = Cycle(
            runner_id=runner_id,
            endings=[letter.ending() for letter in letters],
            started=[Started(attempt.claim.id, attempt.claim.claim_no, attempt.age) for attempt in started],
            queue=plan.queue if plan else "",
            fronts=plan.fronts if plan else (),
            room=room,
            suspects=self._crew.suspects_welcome,
            start=self._claim_is_start,
        )
        self._asked_for += room
        self._leaving = False
        self._changed()
        began = time.monotonic()
        try:
            if letters:
                events.fail_point("before_finish")
            try:
                await outbox.write_last_words(lane.run, runner_id, letters)
                cycled = await lane.run(_statement(asked, plan))
            except BaseException as error:
                (outbox.refused if isinstance(error, REFUSED) else outbox.put_back)(letters)
                if plan is not None:
                    self._prospects.failed(plan)
                raise
            finally:
                self._asked_for -= room
            events.emit(events.Cycled, time.monotonic() - began)
            if letters:
                events.fail_point("after_finish")
            if plan is not None:
                self._note(plan, cycled, room)
            for attempt in started:
                attempt.marked = True
            self._start(runner_id, cycled)
            await outbox.written(lane.run, runner_id, letters, cycled.left)
            for task in await outbox.write_others(lane.run, runner_id):
                self._prospects.heard(task.hint())
        finally:
            self._idle.append(lane)

    def _note(self, plan: Plan, cycled: Cycled, room: int) -> None:
        if cycled.turn is None:
            self._prospects.claimed(plan, cycled.claimed, room)
        else:
            self._prospects.went_round(plan, cycled.turn, got=bool(cycled.claimed), more=cycled.more)

    def _start(self, runner_id: UUID, cycled: Cycled) -> None:
        claims = cycled.claimed
        if not claims:
            return
        events.fail_point("after_claim")
        events.emit(events.Claimed, runner_id, tuple(claim.id for claim in claims))
        if self.refusing or not self._may_start():
            self._crew.refuse(claims)
        else:
            self._crew.take(claims, cycled.weights)

    async def _survey(self, link: Link, queues: Collection[str], types: Collection[str]) -> None:
        try:
            asked_at = time.monotonic()
            found = await link.run(store.survey(queues, types))
            self._prospects.surveyed(asked_at, found, every=self._poll)
        except BaseException:
            self._prospects.unsurveyed(self._poll)
            raise
        finally:
            self._surveying = False

    def _unmarked(self) -> list[Attempt]:
        """Return the attempts whose start is to be marked; looked for a few times a second."""
        if self._claim_is_start or time.monotonic() < self._marked_at + _MARK_EVERY:
            return []
        found = [attempt for attempt in self._crew.active if not attempt.marked and attempt.age > _MARK_AFTER]
        if not found:
            self._marked_at = time.monotonic()
        return found


def _statement(asked: Cycle, plan: Plan | None) -> Op[Cycled]:
    if plan is None or plan.turn is None:
        return store.cycle(asked)
    return fair.cycle(asked, plan.turn, strays=plan.strays)
