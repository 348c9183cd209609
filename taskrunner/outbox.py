"""Decisions on their way to the database: batched, fenced, and kept until it is known what became of each.

An ending whose row was not found is looked up: if somebody's lock was in the way it is tried again, if its end is in
history the first reply was lost, else the lease of that one task is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from taskrunner import events
from taskrunner.attempt import Attempt
from taskrunner.db import Op
from taskrunner.jsonvalue import dump_json
from taskrunner.leases import Pump
from taskrunner.outcome import Bury, Finish, Release, Retry, SnoozeFor, Transition
from taskrunner.store import task as store
from taskrunner.store.task import Due, Ending

log = logging.getLogger("taskrunner.runner")

BATCH = 1000
"""Endings written in one statement at most."""

_AGAIN = 0.5  # seconds until an ending that met somebody's lock is tried again


@dataclass(slots=True)
class _Letter:
    attempt: Attempt
    transition: Transition

    def ending(self) -> Ending:
        attempt, claim = self.attempt, self.attempt.claim
        times = (claim.id, claim.claim_no, attempt.run_seconds, attempt.age)
        match self.transition:
            case Finish(state, result):
                return Ending(*times, state=state, detail=result)
            case Retry(delay, error):
                return Ending(*times, detail=dump_json(error), delay=delay.total_seconds())
            case SnoozeFor(delay):
                return Ending(*times, delay=delay.total_seconds())
            case Bury(errors):
                return Ending(*times, detail=dump_json(list(errors)))
            case Release():
                return Ending(*times)


class Outbox:
    """What has been decided and is not known to be stored. `settled` is called with each attempt that is."""

    def __init__(self, settled: Callable[[Attempt], None]) -> None:
        self._settled = settled
        self._finishes: dict[UUID, _Letter] = {}
        self._others: dict[UUID, _Letter] = {}
        self._stuck: list[tuple[float, _Letter]] = []

    def __bool__(self) -> bool:
        return bool(self._finishes or self._others or self._stuck)

    def put(self, attempt: Attempt, transition: Transition) -> None:
        """Take a decision; one on an older claim of the task, whose fate took long to learn, gives way to the newer."""
        target = self._finishes if isinstance(transition, Finish) else self._others
        waiting = target.get(attempt.claim.id)
        if waiting is None or waiting.attempt.claim.claim_no <= attempt.claim.claim_no:
            target[attempt.claim.id] = _Letter(attempt, transition)

    def ready(self) -> bool:
        """Whether something is to be written now."""
        return bool(self._finishes or self._others) or any(at <= time.monotonic() for at, _ in self._stuck)

    def finishes(self) -> list[Ending]:
        """Return up to a batch of finishes for the next cycle; they stay here until `written`."""
        self._unstick()
        letters = list(self._finishes.values())[:BATCH]
        return [letter.ending() for letter in letters]

    async def written(
        self, pump: Pump, runner_id: UUID, sent: Sequence[Ending], left: Sequence[tuple[UUID, int]]
    ) -> None:
        """A cycle took the finishes it was `sent`, but for those `left`."""
        missing = {id_ for id_, _ in left}
        waiting = [(ending, self._finishes.get(ending.id)) for ending in sent]
        letters = [letter for ending, letter in waiting if letter and letter.attempt.claim.claim_no == ending.claim_no]
        _remove(self._finishes, letters)
        await self._sort(pump, runner_id, letters, missing)

    async def write_others(self, pump: Pump, runner_id: UUID) -> list[Due]:
        """Write retries, snoozes, burials and releases; returns what is pending again."""
        self._unstick()
        back: list[Due] = []
        for kind in (Retry, SnoozeFor, Bury, Release):
            letters = [letter for letter in self._others.values() if isinstance(letter.transition, kind)][:BATCH]
            if letters:
                back += await self._write(pump, runner_id, kind, letters)
        return back

    async def _write(self, pump: Pump, runner_id: UUID, kind: type, letters: list[_Letter]) -> list[Due]:
        endings = [letter.ending() for letter in letters]
        back: list[Due] = []
        events.fail_point("before_finish")
        if kind is Bury:
            won = set(await pump(store.bury(runner_id, endings)))
        else:
            back = await pump(_OPS[kind](runner_id, endings))
            won = {task.id for task in back}
        events.fail_point("after_finish")
        if kind is Release and back:
            await pump(store.announce(back))
        _remove(self._others, letters)
        missing = {ending.id for ending in endings} - won
        await self._sort(pump, runner_id, letters, missing)
        return back

    async def _sort(self, pump: Pump, runner_id: UUID, letters: list[_Letter], missing: set[UUID]) -> None:
        for letter in letters:
            if letter.attempt.claim.id not in missing:
                self._settled(letter.attempt)
        lost = [letter for letter in letters if letter.attempt.claim.id in missing]
        # Until their fate is known they are stuck: if the look-up fails too, they are simply written again.
        again = [(time.monotonic() + _AGAIN, letter) for letter in lost]
        self._stuck += again
        if not lost:
            return
        claims = [(letter.attempt.claim.id, letter.attempt.claim.claim_no) for letter in lost]
        fates = {fate.id: fate for fate in await pump(store.fates(runner_id, claims))}
        for entry in again:
            fate = fates[entry[1].attempt.claim.id]
            if not fate.held:
                self._stuck.remove(entry)
                self._settled(entry[1].attempt)
                _tell_lost(entry[1], ended=fate.ended)

    def _unstick(self) -> None:
        now = time.monotonic()
        for _, letter in [entry for entry in self._stuck if entry[0] <= now]:
            self.put(letter.attempt, letter.transition)
        self._stuck = [entry for entry in self._stuck if entry[0] > now]


def _remove(box: dict[UUID, _Letter], letters: Sequence[_Letter]) -> None:
    """Take out what was written; the decision on a newer claim of the task may have come while it was."""
    for letter in letters:
        if box.get(letter.attempt.claim.id) is letter:
            del box[letter.attempt.claim.id]


def _release(runner_id: UUID, endings: Sequence[Ending]) -> Op[list[Due]]:
    return store.release(runner_id, [(ending.id, ending.claim_no) for ending in endings])


_OPS: dict[type, Callable[[UUID, Sequence[Ending]], Op[list[Due]]]] = {
    Retry: store.retry,
    SnoozeFor: store.snooze,
    Release: _release,
}


def _tell_lost(letter: _Letter, *, ended: bool) -> None:
    claim = letter.attempt.claim
    if ended or not isinstance(letter.transition, Finish):
        log.debug("%s %s had been written before: the first reply was lost", claim.type, claim.id)
    else:
        log.warning(
            "%s %s (claim %d) ended, but it is no longer this runner's: its lease was lost and it runs again elsewhere",
            claim.type,
            claim.id,
            claim.claim_no,
        )
