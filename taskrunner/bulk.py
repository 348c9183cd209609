"""One action on all tasks that a filter finds: first how many and which, then a thousand at a time.

Both are generators of pieces of work, each a transaction of its own, which `drive` and `adrive` execute: what
has been done stays done when a later piece fails, and nobody waits for a lock of the whole.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel
from uuid_utils.compat import uuid7

from taskrunner import search
from taskrunner.db import Op, Steps
from taskrunner.errors import Conflict, DatabaseUnreachable, InvalidArgument, suggest
from taskrunner.pieces import GIVEN_UP, STOPS, Pieces, tried, within
from taskrunner.pieces import adrive as adrive
from taskrunner.pieces import drive as drive
from taskrunner.reads import TaskFilter, TaskView, matching
from taskrunner.reads.matching import Pool
from taskrunner.states import LIVE, State
from taskrunner.store import audit
from taskrunner.store import bulk as store
from taskrunner.store.bulk import CHANGED, LOCKED, Batch, When, Worker

T = TypeVar("T")

MOST = 100_000
"""Tasks of one form or one request, some ten seconds; the command line has no such limit."""

BATCH = 1000
"""Tasks of one transaction: some 100 ms."""

CHUNK = 10_000
"""Ids that are held in memory at once."""

SAMPLE = 10
"""Tasks that a preview shows."""

PATIENCE = timedelta(seconds=3)
"""What one statement may take; a count that takes longer is no exact one."""

LOCK_PATIENCE = timedelta(seconds=1)

NOW = When()

AT_LEAST = 10_000
"""How far is counted where there are too many, or they are too hard to find, to count them all."""


class Part(NamedTuple):
    """What an action does to the tasks of one table that are in one of its states."""

    states: tuple[State, ...]
    worker: Worker


PARTS: Mapping[str, tuple[Part, ...]] = {
    "cancel": (Part(LIVE, store.cancel),),
    "retry": (Part((State.PENDING,), store.reschedule), Part((State.DEAD,), store.requeue)),
    "reschedule": (Part((State.PENDING,), store.reschedule),),
    "requeue": (Part((State.DEAD,), store.requeue),),
    "delete": (Part((State.DEAD,), store.delete_dead),),
}
"""The actions: `delete` is for dead letters alone, for good."""


@dataclass(frozen=True, slots=True)
class Order:
    """An action on all that a filter finds, of what was there at `before`. Raises: `InvalidArgument`."""

    action: str
    wanted: TaskFilter
    before: datetime
    when: When = NOW
    patience: timedelta = PATIENCE
    request: UUID = field(default_factory=uuid7)

    def __post_init__(self) -> None:
        if self.action not in PARTS:
            raise InvalidArgument(f"there is no bulk action {self.action!r}{suggest(self.action, PARTS)}")
        if search.empty(dict(self.wanted)):
            raise InvalidArgument(f"{self.action} what? Give a search, as state:{self.states[0]} or type:SendEmail")
        if self.wanted.state is not None and self.wanted.state not in self.states:
            raise InvalidArgument(
                f"{self.action} is for tasks that are {' or '.join(self.states)}, not for those that are "
                f"{self.wanted.state}"
            )
        if self.when != NOW and self.action != "reschedule":
            raise InvalidArgument(f"{self.action} takes no new maturity: that is for reschedule")

    @property
    def states(self) -> list[State]:
        """The states that tasks have to be in."""
        return [state for part in PARTS[self.action] for state in part.states]

    @property
    def text(self) -> str:
        """The filter as a search."""
        return search.spell(dict(self.wanted))

    @property
    def command(self) -> str:
        """The command that does the same."""
        when = []
        if self.action == "reschedule":
            later = ["--delay", f"{self.when.delay.total_seconds():g}s"]
            when = ["--at", self.when.at.isoformat()] if self.when.at else later
        return shlex.join(["taskrunner", "tasks", "bulk", self.action, self.text, *when])

    def pools(self) -> list[tuple[Pool, Worker]]:
        """Return where its tasks are looked for, and what is done to them there."""
        state = self.wanted.state
        chosen = [part for part in PARTS[self.action] if state is None or state in part.states]
        return [(_pool(part, state), part.worker) for part in chosen]


class Preview(BaseModel):
    """What an action would be done to; `count` is exact, or (`exact` is false) at least so many match.

    `before` is the instant up to which tasks are meant: to be given with the action, so that later ones are not met.
    """

    action: str
    filter: str
    count: int
    exact: bool
    before: datetime
    sample: list[TaskView]
    command: str


class Outcome(BaseModel):
    """What an action has done; `requested` are running tasks that were asked to stop.

    `skipped` counts by reason: `changed` (had ended, begun or been requeued by then), `locked` (by somebody's open
    transaction: try again), `key taken` (by a live task).
    """

    action: str
    filter: str
    found: int
    done: int
    requested: int
    skipped: dict[str, int]


def preview(order: Order) -> Pieces[Preview]:
    """Count what the action would be done to, and show some of it."""
    count, exact = yield from _count(order)
    shown: list[TaskView] = []
    for pool, _ in order.pools():
        work = matching.sample(pool, order.wanted, order.before, SAMPLE)
        shown += (yield from tried(_timed(order, work))) or []
    return Preview(
        action=order.action,
        filter=order.text,
        count=count,
        exact=exact,
        before=order.before,
        sample=shown[:SAMPLE],
        command=order.command,
    )


def apply(
    order: Order,
    actor: str,
    *,
    expected: int | None = None,
    most: int | None = None,
    progress: Callable[[int, int], object] = lambda met, found: None,
) -> Pieces[Outcome]:
    """Do the action to all that match, and to no more than are counted first; `progress` is told how many were met.

    Noted in the audit trail as done by `actor`: with the first batch what was asked for, at the end, also an early
    one, what was done. It cannot be undone.
    Raises: `Conflict` where more match than `expected` or `most`, or where they are too many to be counted: then
    nothing was done; or where it had to stop early, with the number of what was done.
    """
    found, exact = yield from _count(order)
    _check(order, found, exact, expected=expected, most=most)
    run = _Run(order, actor, found, progress)
    try:
        for pool, worker in order.pools():
            yield from run.all_of(pool, worker)
    except STOPS as error:
        yield from run.close(stopped=str(error) or type(error).__name__)
        raise
    yield from run.close()
    run.progress(found, found)
    return Outcome(
        action=order.action,
        filter=order.text,
        found=found,
        done=run.done,
        requested=run.requested,
        skipped=dict(run.skipped),
    )


@dataclass
class _Run:
    order: Order
    actor: str
    found: int
    progress: Callable[[int, int], object]
    done: int = 0
    requested: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    met: int = 0
    noted: bool = False

    def all_of(self, pool: Pool, worker: Worker) -> Pieces[None]:
        above = UUID(int=0)
        while self.met < self.found:  # others may match by now: no more are met than were counted
            room = min(CHUNK, self.found - self.met)
            work = matching.ids(pool, self.order.wanted, self.order.before, above, room)
            try:
                ids = yield from tried(_timed(self.order, work))
            except DatabaseUnreachable as error:
                raise self._stopped(str(error)) from error
            if ids is None:
                raise self._stopped(f"the rest could not be found in {self.order.patience.total_seconds():g} s")
            if not ids:
                return
            above = ids[-1]
            yield from self._chunk(ids, worker)

    def _chunk(self, ids: Sequence[UUID], worker: Worker) -> Pieces[None]:
        again: list[UUID] = []
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            skipped = yield from self._batch(part, worker)
            again += [id_ for id_, why in skipped.items() if why == LOCKED]
            self.skipped.update(why for why in skipped.values() if why != LOCKED)
            self.met += len(part)
            self.progress(min(self.met, self.found), self.found)
        for start in range(0, len(again), BATCH):
            self.skipped.update((yield from self._batch(again[start : start + BATCH], worker)).values())

    def close(self, **more: str) -> Pieces[None]:
        """Note what was done, if anything was begun; what was done stays done where that cannot be noted."""
        if not self.noted:
            return
        told = {"found": self.found, "done": self.done, "requested": self.requested, "skipped": dict(self.skipped)}
        entry = self._entry(f"bulk.{self.order.action}.done", {**told, **more}, uuid7())
        with suppress(DatabaseUnreachable, *GIVEN_UP):
            yield lambda: entry

    def _stopped(self, why: str) -> Conflict:
        return Conflict(f"{self.done} are done; {why}: go on with the same search, or with a narrower one")

    def _batch(self, ids: Sequence[UUID], worker: Worker) -> Pieces[dict[UUID, str]]:
        """Do one batch; where a lock beyond these rows is in the way, or it takes too long, its halves."""
        ended: list[Batch] = []

        def steps() -> Steps[Batch]:
            ended.append((yield from self._noted(worker(ids, self.order.when))))
            return _repeated(ended)

        try:
            batch: Batch | None = yield from tried(steps)
        except DatabaseUnreachable as error:
            raise self._stopped(f"of {len(ids)} more it is not known, since {error}") from error
        if batch is None and len(ids) == 1:
            return {ids[0]: LOCKED}
        if batch is None:
            middle = len(ids) // 2
            first = yield from self._batch(ids[:middle], worker)
            return {**first, **(yield from self._batch(ids[middle:], worker))}
        self.noted = True
        self.done += batch.done
        self.requested += batch.requested
        return batch.skipped

    def _noted(self, work: Steps[Batch]) -> Steps[Batch]:
        # Half of it for the statements before the last, half for the last: an API's door waits little longer for all.
        patience, order = self.order.patience / 2, self.order
        yield store.patient(min(LOCK_PATIENCE, patience), patience)
        batch = yield from within(patience, work)
        if not self.noted:
            told = {"filter": order.text, "found": self.found, "before": order.before.isoformat(), **_told(order)}
            yield self._entry(f"bulk.{order.action}", told, order.request)
        return batch

    def _entry(self, action: str, told: Mapping[str, Any], request: UUID) -> Op[Any]:
        target = self.order.text[: audit.LONGEST]
        return audit.record(self.actor, action, target, details=told, request=request, tenant=self.order.wanted.tenant)


def _count(order: Order) -> Pieces[tuple[int, bool]]:
    """Return how many match, and whether that is exact; what takes too long is counted as far as one gets."""
    pools = [pool for pool, _ in order.pools()]
    found = yield from _counted(order, pools, None)
    if found is not None:
        return found, True
    return (yield from _counted(order, pools, AT_LEAST)) or 0, False


def _counted(order: Order, pools: Sequence[Pool], most: int | None) -> Pieces[int | None]:
    found = 0
    for pool in pools:
        work = matching.count(pool, order.wanted, order.before, most)
        counted = yield from tried(_timed(order, work))
        if counted is None:
            return None
        found += counted
    return found


def _check(order: Order, found: int, exact: bool, *, expected: int | None, most: int | None) -> None:
    if not exact:
        raise Conflict(
            f"at least {found:,} tasks match, and they cannot be counted in {order.patience.total_seconds():g} s: "
            "make the search narrower"
        )
    if expected is not None and found > expected:
        raise Conflict(f"{found:,} tasks match now, and {expected:,} were expected: look at the preview again")
    if most is not None and found > most:
        raise Conflict(
            f"{found:,} tasks match, and at most {most:,} are done at once here: make the search narrower, or run "
            f"`{order.command}`"
        )


def _timed(order: Order, work: Op[T]) -> Callable[[], Steps[T]]:
    def steps() -> Steps[T]:
        yield store.patient(LOCK_PATIENCE, order.patience)
        value: T = yield work
        return value

    return steps


def _repeated(ended: Sequence[Batch]) -> Batch:
    """Return the last of the batches that came to their end, each but for a COMMIT whose reply was lost.

    What the last found changed, and an earlier one did not skip, was done by that one.
    """
    last = ended[-1]
    skipped = {
        id_: why
        for id_, why in last.skipped.items()
        if why != CHANGED or all(id_ in before.skipped for before in ended[:-1])
    }
    return last._replace(done=last.done + len(last.skipped) - len(skipped), skipped=skipped)


def _pool(part: Part, state: State | None) -> Pool:
    if part.states == (State.DEAD,):
        return matching.dead()
    return matching.live(part.states if state is None else (state,))


def _told(order: Order) -> dict[str, Any]:
    if order.action != "reschedule":
        return {}
    return {"at": order.when.at.isoformat()} if order.when.at else {"delay": order.when.delay.total_seconds()}
