"""The attempts in a runner's hands: start them, stop them, note what runs, let one suspect run at a time.

Invariant: a claim is held from its arrival until its ending is known to be stored (or to be somebody else's); so a row
that carries our id and is not held was claimed by a reply that never came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from taskrunner import events
from taskrunner.attempt import Attempt, Stop, tell
from taskrunner.durations import as_delay
from taskrunner.effects import Effects
from taskrunner.errors import LeaseLost
from taskrunner.executors import Call, CallEnd, Executors, Handle
from taskrunner.jsonvalue import dump_json
from taskrunner.outbox import Letter, Outbox, end_of
from taskrunner.outcome import Finish, Release, Transition
from taskrunner.pace import Pace
from taskrunner.recorder import Recorder
from taskrunner.registry import Registry
from taskrunner.runlog import level_number
from taskrunner.settings import Settings
from taskrunner.store.task import Claimed
from taskrunner.tasklog import TaskLog

log = logging.getLogger("taskrunner.runner")

_REST = 2.0  # seconds without claims after the system gave no thread or process

MarkSuspect = Callable[[Attempt], Coroutine[Any, Any, bool]]
"""Stores the start of a task that has seen a runner die; False when the claim is no longer ours."""


class Crew:
    """Attempts from claim to decision; decisions go to `outbox`. Lives on one event loop.

    Claims come ahead of need: those for which no slot is free wait in `_ready`, the urgent first, and are given back
    if that takes long.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        recorder: Recorder | None,
        effects: Effects,
        mark_suspect: MarkSuspect,
        changed: Callable[[], None],
        overrun: Callable[[], None],
    ) -> None:
        """`changed` is called when an attempt ends, `overrun` when too many stray threads go on."""
        self.registry, self.effects = registry, effects
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._settled, self.last_words)
        self.active: set[Attempt] = set()
        self.progress: dict[tuple[UUID, int], str] = {}
        self.lines, self.keep_level = TaskLog(settings.task_log_lines), level_number(settings.task_log)
        self.rests_until = 0.0
        self.ends = self.releases = 0
        self._held: dict[int, Attempt] = {}  # by the integer of the id: UUIDs hash in Python
        self._ready: deque[Attempt] = deque()
        self._filling = False
        self._suspect: Attempt | None = None
        self._marking: asyncio.Task[bool] | None = None
        self._waiting: deque[Attempt] = deque()
        self._slots = settings.concurrency
        self._pace = Pace()
        self._recorder, self._mark_suspect = recorder, mark_suspect
        self._changed, self._overrun = changed, overrun
        self._stray_limit = settings.stray_limit
        self._executors = Executors(
            concurrency=settings.concurrency,
            process_slots=settings.process_slots,
            stray_limit=settings.stray_limit,
            on_message=self._heed_child,
            on_request=self._answer_child,
            on_strays=self._heed_strays,
        )

    async def open(self) -> None:
        """Make ready to run."""
        await self._executors.start()

    async def close(self) -> int:
        """Stop what still runs; returns the number of stray threads, with which only `os._exit` leaves."""
        return await self._executors.close()

    def capacity(self) -> int:
        """How many claims there may be: one for each slot, and ahead of need as many as are done at once.

        Without a recorder nobody knows after our death which of the claims had started: none is taken ahead then.
        """
        return self._slots + (self._pace.ahead(self._slots) if self._recorder is not None else 0)

    def room(self) -> int:
        """How many claims more are wanted."""
        return self.capacity() - len(self.active) - len(self._waiting) - len(self._ready)

    @property
    def strays(self) -> int:
        """How many threads of stopped tasks still run."""
        return self._executors.strays

    @property
    def suspects_welcome(self) -> bool:
        """Whether a task that has seen a runner die may be claimed: one at a time is in our hands."""
        return self._suspect is None and not self._waiting

    @property
    def held(self) -> int:
        """How many tasks there are whose ending is not known to be stored."""
        return len(self._held)

    def held_ids(self) -> list[UUID]:
        """Return the tasks whose ending is not known to be stored."""
        return [attempt.claim.id for attempt in self._held.values()]

    def take(self, claims: Sequence[Claimed], weights: Mapping[str, int] | None = None) -> None:
        """Take claims, the urgent first, and start as many as there are slots.

        Those of a fair queue come with the `weights` of tenants that are not 1, and take turns with those that wait.
        """
        now = time.monotonic()
        waiting = bool(claims and self._ready)
        mixed = waiting and weights is None and claims[0].priority > _urgency(self._ready[-1])
        for claim in claims:
            attempt = Attempt(claim, self)
            attempt.taken_at = now
            if weights is not None:
                attempt.weight = weights.get(claim.tenant, 1)
            self._held[claim.id.int] = attempt
            if claim.cancel_requested:  # the runner that was asked to stop it died, or had sent it back by then
                self.ended(attempt, Finish("cancelled"))
            else:
                (self._waiting if claim.crashes else self._ready).append(attempt)
        if mixed:
            self._ready = deque(sorted(self._ready, key=lambda attempt: -_urgency(attempt)))
        if waiting and weights is not None:
            self._ready = _in_turn(self._ready)
        self._next_suspect()
        self._fill()

    def refuse(self, claims: Sequence[Claimed]) -> None:
        """Give claims back that came too late: nothing is to be started any more."""
        for claim in claims:
            self._held[claim.id.int] = attempt = Attempt(claim, self)
            self.ended(attempt, Release())

    def shed(self, waited: float) -> None:
        """Give back the claims that have waited for a slot for so many seconds."""
        before = time.monotonic() - waited
        while self._ready and self._ready[-1].taken_at <= before:
            self.ended(self._ready.pop(), Release())

    def give_back(self, transition: Transition | None) -> None:
        """Let this become of all that waits: nothing is to be started any more."""
        waiting = [*self._waiting, *self._ready]
        self._waiting.clear()
        self._ready.clear()
        for attempt in waiting:
            self.ended(attempt, transition)

    def stop(self, reason: Stop) -> None:
        """Stop everything; what waits is released, or forgotten with the lease."""
        self.give_back(None if reason is Stop.LOST else Release())
        for attempt in list(self.active):
            attempt.stop(reason)
            if self._marking is not None and attempt is self._suspect:
                self._marking.cancel()

    def cancel(self, id_: UUID) -> None:
        """Somebody asked for the stop of this task, which may be anybody's."""
        attempt = self._held.get(id_.int)
        if attempt is None or attempt.stop_reason is not None:
            return
        if attempt in self.active:
            attempt.stop(Stop.CANCEL)
        for waiting in (self._ready, self._waiting):
            if attempt in waiting:
                waiting.remove(attempt)
                self.ended(attempt, Finish("cancelled"))

    def forget(self) -> None:
        """Drop what is held and undelivered: it belongs to a lease that is gone."""
        self._held.clear()
        self.outbox = Outbox(self._settled, self.last_words)

    def names(self, current: asyncio.Task[Any] | None) -> list[str]:
        """Name the task that is in this asyncio task, else all that run, for the watchdog; called from its thread."""
        active = self.active.copy()
        named = [attempt for attempt in active if attempt.runs_in(current)] or active
        return [f"{attempt.claim.type} {attempt.claim.id}" for attempt in named]

    # ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self) -> None:
        if self._filling:
            return  # a task that ends while it is launched makes room in the loop below, not in one inside it
        self._filling = True
        try:
            while self._ready and len(self.active) < self._slots:
                attempt = self._ready.popleft()
                self.active.add(attempt)
                attempt.launch()
        finally:
            self._filling = False

    def ended(self, attempt: Attempt, transition: Transition | None, *, stored: bool = False) -> None:
        """Pass on what becomes of a claim, unless that is stored already, and give its slot to the next."""
        claim = attempt.claim
        if self._recorder is not None:
            self._recorder.end(claim.id)
        if attempt in self.active:
            self.active.discard(attempt)
            self._pace.ended()
        events.emit(events.Ended, claim.id, claim.claim_no, type(transition).__name__)
        if transition is not None:
            tell(attempt, transition)
            if isinstance(transition, Release):
                self.releases += 1
            else:
                self.ends += 1
        if transition is None or stored:
            if transition is not None and events.heard(events.Stored):
                events.emit(events.Stored, (end_of(attempt, transition),))
            self._settled(attempt)
        else:
            self.outbox.put(attempt, transition)
        if attempt is self._suspect:
            self._suspect = None
        self._next_suspect()
        self._fill()
        self._changed()

    def _next_suspect(self) -> None:
        """A task that has seen a runner die runs while no other such one does, and once its start is stored."""
        if self._suspect is None and self._waiting and len(self.active) < self._slots:
            self._suspect = self._waiting.popleft()
            self.active.add(self._suspect)
            self._marking = self.loop.create_task(self._mark_suspect(self._suspect))
            self._marking.add_done_callback(partial(self._marked, self._suspect))

    def _marked(self, attempt: Attempt, marking: asyncio.Task[bool]) -> None:
        """By a callback: an asyncio task that is cancelled before its first step runs no `finally`."""
        self._marking = None
        failed = marking.cancelled() or marking.exception() is not None
        if not failed and marking.result() and attempt.stop_reason is None:
            attempt.launch()
        else:
            self.ended(attempt, attempt.unrun())

    def _settled(self, attempt: Attempt) -> None:
        if self.progress:
            self.progress.pop((attempt.claim.id, attempt.claim.claim_no), None)
        if self._held.get(attempt.claim.id.int) is attempt:
            del self._held[attempt.claim.id.int]
            events.emit(events.Settled, attempt.claim.id, attempt.claim.claim_no)

    # ── what attempts and children need ──────────────────────────────────────────────────────────────────────────

    def execute(self, call: Call, done: Callable[[CallEnd], None]) -> Handle:
        """Start a call by its executor."""
        return self._executors.start_call(call, done)

    def began(self, attempt: Attempt) -> None:
        """Note in the flight recorder that the task's own code is next to run."""
        if self._recorder is not None:
            self._recorder.start(attempt.claim.id, attempt.claim.claim_no)

    def show_progress(self, attempt: Attempt, text: str) -> None:
        """Keep the latest word of a task on its progress, for the next write."""
        self.progress[attempt.claim.id, attempt.claim.claim_no] = attempt.veil.json(text)

    def shown(self, marks: Mapping[tuple[UUID, int], str], written: Collection[UUID]) -> None:
        """Forget what was written; what was not, since somebody held the row, is for the next write."""
        running = {(attempt.claim.id, attempt.claim.claim_no) for attempt in self.active}
        for claim, text in marks.items():
            if self.progress.get(claim) == text and (claim[0] in written or claim not in running):
                del self.progress[claim]

    def last_words(self, letters: Sequence[Letter]) -> dict[tuple[UUID, int], str]:
        """Return what the tasks of these letters said last: to be written before their ends are.

        Not those of others: whoever writes their ends would find nothing, and be quicker than what is under way.
        """
        if not self.progress:
            return {}
        claims = ((letter.attempt.claim.id, letter.attempt.claim.claim_no) for letter in letters)
        return {claim: self.progress[claim] for claim in claims if claim in self.progress}

    def exhausted(self) -> None:
        """Something that runs need cannot be had (a thread, a process, a mark): claim nothing for a while."""
        self.rests_until = time.monotonic() + _REST

    def _heed_strays(self, strays: int) -> None:
        if strays > self._stray_limit:
            log.error("%d threads of stopped tasks still run: draining, to start afresh", strays)
            self._overrun()

    def _heed_child(self, task_id: str, claim_no: int, kind: str, data: object) -> None:
        attempt = self._attempt_of(task_id, claim_no)
        if attempt is None or not isinstance(data, Mapping):
            return
        if kind == "progress":
            self.show_progress(attempt, dump_json(dict(data), "progress"))
        elif kind == "extend":
            attempt.extend(as_delay(data["seconds"], "extend"))
        elif kind == "session":
            attempt.its_effects().tell(data)

    async def _answer_child(self, task_id: str, claim_no: int, kind: str, data: object) -> object:
        attempt = self._attempt_of(task_id, claim_no)
        if attempt is None or not isinstance(data, Mapping):
            raise LeaseLost(f"task {task_id} (claim {claim_no}) is no longer this runner's")
        return await attempt.its_effects().answer(kind, data)

    def _attempt_of(self, task_id: str, claim_no: int) -> Attempt | None:
        attempt = self._held.get(UUID(task_id).int)
        return attempt if attempt is not None and attempt.claim.claim_no == claim_no else None


def _urgency(attempt: Attempt) -> int:
    """Return the priority; of a fair queue's tasks, where it orders only a tenant's own, the default one."""
    return 100 if attempt.weight else attempt.claim.priority


def _in_turn(ready: deque[Attempt]) -> deque[Attempt]:
    """Return what waits with the tenants of fair queues in turn, however long one's tasks have waited here.

    So a tenant's new task runs before the second one of a tenant of whom many were claimed ahead. They share the places
    that they have among those of ordinary queues.
    """
    places = [place for place, attempt in enumerate(ready) if attempt.weight]
    had: dict[tuple[str, str], int] = {}
    turns: list[tuple[int, int]] = []
    waiting = list(ready)
    for place in sorted(places, key=lambda place: -waiting[place].claim.priority):
        claim = waiting[place].claim
        tenant = claim.queue, claim.tenant
        number = had.get(tenant, 0)
        had[tenant] = number + 1
        turns.append((number // waiting[place].weight, place))
    for place, (_, taken) in zip(places, sorted(turns), strict=True):
        ready[place] = waiting[taken]
    return ready
