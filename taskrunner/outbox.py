"""Decisions on their way to the database: batched, fenced, and kept until it is known what became of each.

An ending whose row was not found is looked up: if the task has children or a successor it takes the slow way, if
somebody's lock was in the way it is tried again, if its end is in history the first reply was lost, else the lease of
that one task is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable

from taskrunner import events
from taskrunner.attempt import Attempt
from taskrunner.db import Op
from taskrunner.errors import TaskrunnerError
from taskrunner.jsonvalue import dump_json
from taskrunner.leases import Pump
from taskrunner.outcome import Bury, Finish, Release, Retry, SnoozeFor, Transition, outcome_of
from taskrunner.store import ending as slow
from taskrunner.store import task as store
from taskrunner.store.ending import Closed
from taskrunner.store.task import Due, Ending

log = logging.getLogger("taskrunner.runner")

BATCH = 1000
"""Endings written in one statement at most."""

REFUSED = (psycopg.DataError, psycopg.IntegrityError)
"""What a batch fails with for one row's values: somebody's hand in the tables, for what we write is checked before."""

_SOON = 2.0  # seconds: what is due later is found by the polls in time
_AGAIN = 0.5  # seconds until an ending that met somebody's lock is tried again
_LONGEST = 60.0  # seconds until an ending that the database refuses is tried again
_PATIENCE = timedelta(milliseconds=100)  # that a slow ending waits for the lock of a child


@dataclass(slots=True, eq=False)
class Letter:
    """One decision and the attempt that it ends."""

    attempt: Attempt
    transition: Transition
    special: bool = False  # takes the slow way
    hurried: bool = False  # and does not wait for a child's lock again
    refusals: int = 0  # times that the database would not have it, alone

    def ending(self) -> Ending:
        """Return what is written of it."""
        attempt, claim, transition = self.attempt, self.attempt.claim, self.transition
        detail, delay = None, 0.0
        match transition:
            case Finish(state, result):
                return Ending(claim.id, claim.claim_no, attempt.run_seconds, attempt.age, state, result)
            case Retry(after, error):
                detail, delay = dump_json(error), after.total_seconds()
            case SnoozeFor(after):
                delay = after.total_seconds()
            case Bury(errors):
                detail = dump_json(list(errors))
                return Ending(claim.id, claim.claim_no, attempt.run_seconds, attempt.age, "dead", detail)
        return Ending(claim.id, claim.claim_no, attempt.run_seconds, attempt.age, detail=detail, delay=delay)


Words = Callable[[Sequence[Letter]], Mapping[tuple[UUID, int], str]]
_Write = Callable[[Sequence[Ending]], Awaitable[Closed]]


class Outbox:
    """What has been decided and is not known to be stored. `settled` is called with each attempt that is.

    Whoever writes letters takes them, so that no two cycles write the same one, and puts them back if it failed.
    """

    def __init__(self, settled: Callable[[Attempt], None], last_words: Words = lambda letters: {}) -> None:
        """`last_words` returns what the runs of some letters said last of their progress, if it is not written yet."""
        self._settled = settled
        self._last_words = last_words
        self._finishes: dict[int, Letter] = {}
        self._others: dict[int, Letter] = {}
        self._special: dict[int, Letter] = {}
        self._at_once = BATCH  # slow endings in one transaction: fewer while it meets locks
        self._stuck: list[tuple[float, Letter]] = []
        self._back: list[tuple[float, Due]] = []  # pending again, due at this time, and nobody has been told

    def __len__(self) -> int:
        """How many letters wait to be taken."""
        return len(self._finishes) + len(self._others) + len(self._special)

    def put(self, attempt: Attempt, transition: Transition) -> None:
        """Take a decision."""
        self._put(Letter(attempt, transition))

    def put_back(self, letters: Sequence[Letter]) -> None:
        """What was taken could not be written, as far as is known."""
        for letter in letters:
            self._put(letter)

    def _put(self, letter: Letter) -> None:
        """A decision on an older claim of the task, whose fate took long to learn, gives way to the newer."""
        target = self._finishes if isinstance(letter.transition, Finish) else self._others
        target = self._special if letter.special else target
        claim = letter.attempt.claim
        waiting = target.get(claim.id.int)
        if waiting is None or waiting.attempt.claim.claim_no <= claim.claim_no:
            target[claim.id.int] = letter

    def ready(self) -> bool:
        """Whether something is to be written now."""
        return bool(self) or any(at <= time.monotonic() for at, _ in self._stuck)

    def take(self) -> list[Letter]:
        """Return up to a batch of finishes, for the cycle that is about to be sent."""
        self._unstick()
        return _take(self._finishes, list(self._finishes.values())[:BATCH])

    async def written(
        self, pump: Pump, runner_id: UUID, sent: Sequence[Letter], left: Sequence[tuple[UUID, int]]
    ) -> None:
        """A cycle took the letters it was `sent`, but for those `left`."""
        await self._sort(pump, runner_id, sent, {id_ for id_, _ in left})

    async def write_last_words(self, pump: Pump, runner_id: UUID, letters: Sequence[Letter]) -> None:
        """Write what was said last by those whose letters these are: afterwards their rows are gone."""
        if words := self._last_words(letters):
            await pump(store.progress(runner_id, words))

    async def write_others(self, pump: Pump, runner_id: UUID) -> list[Due]:
        """Write retries, snoozes, burials and releases; returns what is pending again, and tells the runners."""
        self._unstick()
        for kind in (Retry, SnoozeFor, Bury, Release) if self._others else ():
            chosen = [letter for letter in self._others.values() if isinstance(letter.transition, kind)][:BATCH]
            if chosen:
                await self._write(pump, runner_id, kind, _take(self._others, chosen))
        while self._special:
            chosen = [letter for letter in self._special.values() if not letter.hurried] or list(self._special.values())
            await self._write_special(pump, runner_id, _take(self._special, chosen[: self._at_once]))
        return await self._tell_back(pump)

    async def _tell_back(self, pump: Pump) -> list[Due]:
        """Tell the runners what is pending again and return it; a word that cannot be sent is not missed: they look."""
        now = time.monotonic()
        back = [task._replace(due_in=due_at - now) for due_at, task in self._back]
        self._back.clear()
        if soon := [task for task in back if task.due_in < _SOON]:
            try:
                await pump(store.announce_alone(soon))
            except (TaskrunnerError, psycopg.Error) as error:
                log.debug("the runners could not be told of %d tasks that are pending again: %s", len(soon), error)
        return back

    async def _write(self, pump: Pump, runner_id: UUID, kind: type, letters: Sequence[Letter]) -> None:
        async def write(endings: Sequence[Ending]) -> Closed:
            if kind is Bury:
                return Closed(list(await pump(store.bury(runner_id, endings))), [])
            due = await pump(_OPS[kind](runner_id, endings))
            return Closed([task.id for task in due], due)

        await self._send(pump, runner_id, letters, write)

    async def _write_special(self, pump: Pump, runner_id: UUID, letters: Sequence[Letter]) -> None:
        """End what has children or a successor. A lock on a child is waited for once, by the batch that meets it."""
        work = slow.end_free if letters[0].hurried else slow.end_many

        async def write(endings: Sequence[Ending]) -> Closed:
            closed: Closed = await pump(work(runner_id, endings, patience=_PATIENCE))
            return closed

        try:
            await self._send(pump, runner_id, letters, write)
        except (LockNotAvailable, DeadlockDetected):
            self._at_once = max(1, len(letters) // 2)
        else:
            self._at_once = min(BATCH, 2 * self._at_once)

    async def _send(self, pump: Pump, runner_id: UUID, letters: Sequence[Letter], write: _Write) -> None:
        """Write a batch; where the database refuses a value of it, halves, until the task that it is of is alone.

        What is pending again with a part is told of also if a later part fails: with the next call then.
        """
        waiting = [letters]
        while waiting:
            batch = waiting.pop()
            endings = [letter.ending() for letter in batch]
            events.fail_point("before_finish")
            try:
                await self.write_last_words(pump, runner_id, batch)
                closed = await write(endings)
            except REFUSED as error:
                if half := len(batch) // 2:
                    waiting += [batch[half:], batch[:half]]
                else:
                    self._set_aside(batch[0], error)
                continue
            except BaseException as error:
                unwritten = [letter for rest in [batch, *waiting] for letter in rest]
                locked = isinstance(error, LockNotAvailable | DeadlockDetected) and batch[0].special
                (self._stick if locked else self.put_back)(unwritten)
                raise
            events.fail_point("after_finish")
            self._back += [(time.monotonic() + task.due_in, task) for task in closed.due]
            del self._back[:-BATCH]  # of more the runners' own looks find out
            try:
                await self._sort(pump, runner_id, batch, {ending.id for ending in endings} - set(closed.ids))
            except BaseException:
                self.put_back([letter for rest in waiting for letter in rest])
                raise

    def refused(self, letters: Sequence[Letter]) -> None:
        """Of what a cycle took the database refuses a value: the slow way finds out of which task."""
        for letter in letters:
            letter.special = True
        self.put_back(letters)

    def _set_aside(self, letter: Letter, error: psycopg.Error) -> None:
        claim = letter.attempt.claim
        pause = min(_AGAIN * 2**letter.refusals, _LONGEST)
        letter.refusals += 1
        log.error("the end of %s %s is refused, trying again in %.1f s: %s", claim.type, claim.id, pause, error)
        self._stuck.append((time.monotonic() + pause, letter))

    def _stick(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            letter.hurried = letter.special
            self._stuck.append((time.monotonic() + _AGAIN, letter))

    async def _sort(self, pump: Pump, runner_id: UUID, letters: Sequence[Letter], missing: set[UUID]) -> None:
        if events.heard(events.Stored):
            _tell_stored([letter for letter in letters if letter.attempt.claim.id not in missing])
        if not missing:
            for letter in letters:
                self._settled(letter.attempt)
            return
        lost = []
        for letter in letters:
            if letter.attempt.claim.id in missing:
                lost.append(letter)
            else:
                self._settled(letter.attempt)
        claims = [(letter.attempt.claim.id, letter.attempt.claim.claim_no) for letter in lost]
        try:
            fates = {fate.id: fate for fate in await pump(store.fates(runner_id, claims))}
        except BaseException:
            self._stick(lost)  # they are simply written again
            raise
        for letter in lost:
            fate = fates[letter.attempt.claim.id]
            if fate.held and fate.special and not letter.special:
                letter.special = True
                self._put(letter)
            elif fate.held:
                self._stick([letter])
            else:
                self._settled(letter.attempt)
                _tell_lost(letter, ended=fate.ended)

    def _unstick(self) -> None:
        if not self._stuck:
            return
        now = time.monotonic()
        self.put_back([letter for at, letter in self._stuck if at <= now])
        self._stuck = [entry for entry in self._stuck if entry[0] > now]


def _tell_stored(letters: Sequence[Letter]) -> None:
    events.emit(events.Stored, tuple(end_of(letter.attempt, letter.transition) for letter in letters))


def end_of(attempt: Attempt, transition: Transition) -> events.StoredEnd:
    """Return what is told of an end that is stored."""
    ran = None if attempt.started is None else attempt.run_seconds
    return events.StoredEnd(attempt.claim.queue, attempt.claim.type, outcome_of(transition), ran)


def _take(box: dict[int, Letter], letters: list[Letter]) -> list[Letter]:
    for letter in letters:
        del box[letter.attempt.claim.id.int]
    return letters


def _release(runner_id: UUID, endings: Sequence[Ending]) -> Op[list[Due]]:
    return store.release(runner_id, [(ending.id, ending.claim_no) for ending in endings])


_OPS: dict[type, Callable[[UUID, Sequence[Ending]], Op[list[Due]]]] = {
    Retry: store.retry,
    SnoozeFor: store.snooze,
    Release: _release,
}


def _tell_lost(letter: Letter, *, ended: bool) -> None:
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
