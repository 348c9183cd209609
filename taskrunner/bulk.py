"""One action on all tasks that a filter finds: first how many and which, then a thousand at a time.

Both are generators of pieces of work, each a transaction of its own, which `drive` and `adrive` execute: what
has been done stays done when a later piece fails, and nobody waits for a lock of the whole.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from taskrunner import search
from taskrunner.db import Op, Steps, Work
from taskrunner.errors import Conflict, InvalidArgument, suggest
from taskrunner.reads import TaskFilter, TaskView, matching
from taskrunner.reads.matching import Pool
from taskrunner.states import LIVE, State
from taskrunner.store import audit
from taskrunner.store import bulk as store
from taskrunner.store.bulk import LOCKED, Batch, When, Worker

T = TypeVar("T")

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

Make = Callable[[], Work[Any]]
Pieces = Generator[Make, Any, T]
"""Works that are executed one by one; a statement that was given up comes back as its error."""

# What a transaction gives up, and may be tried again with less.
_GIVEN_UP = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


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
        shown += (yield from _tried(_timed(order, work))) or []
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
    """Do the action to all that match, noted once in the audit trail as done by `actor`.

    `progress` is told how many of how many have been met. It cannot be undone: what it did is in each task's history.
    Raises: `Conflict` where more match than `expected` or `most`, or where they are too many to be counted; then
    nothing was done.
    """
    found, exact = yield from _count(order)
    _check(order, found, exact, expected=expected, most=most)
    run = _Run(order, actor, found, progress)
    for pool, worker in order.pools():
        yield from run.all_of(pool, worker)
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
        while True:
            work = matching.ids(pool, self.order.wanted, self.order.before, above, CHUNK)
            ids = yield from _tried(_timed(self.order, work))
            if ids is None:
                raise Conflict(
                    f"{self.done} are done; the rest could not be found in {self.order.patience.total_seconds():g} s: "
                    "go on with the same search, or with a narrower one"
                )
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

    def _batch(self, ids: Sequence[UUID], worker: Worker) -> Pieces[dict[UUID, str]]:
        """Do one batch; where a lock beyond these rows is in the way, its halves."""
        batch: Batch | None = yield from _tried(lambda: self._noted(worker(ids, self.order.when)))
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
        yield store.patient(LOCK_PATIENCE, self.order.patience)
        batch = yield from work
        if not self.noted:
            yield self._entry()
        return batch

    def _entry(self) -> Op[Any]:
        order = self.order
        told = {"filter": order.text, "found": self.found, "before": order.before.isoformat(), **_told(order)}
        target = order.text[: audit.LONGEST]
        return audit.record(
            self.actor, f"bulk.{order.action}", target, details=told, request=order.request, tenant=order.wanted.tenant
        )


def drive(run: Callable[[Make], Any], pieces: Pieces[T]) -> T:
    """Execute the pieces by what executes one."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            make = pieces.throw(error) if error is not None else pieces.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        try:
            value, error = run(make), None
        except _GIVEN_UP as given_up:
            error = given_up


async def adrive(run: Callable[[Make], Awaitable[Any]], pieces: Pieces[T]) -> T:
    """Execute the pieces by what executes one."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            make = pieces.throw(error) if error is not None else pieces.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        try:
            value, error = await run(make), None
        except _GIVEN_UP as given_up:
            error = given_up


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
        counted = yield from _tried(_timed(order, work))
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


def _tried(make: Make) -> Pieces[Any]:
    """Return what the work brings; None where the server gave it up."""
    try:
        return (yield make)
    except _GIVEN_UP:
        return None


def _pool(part: Part, state: State | None) -> Pool:
    if part.states == (State.DEAD,):
        return matching.dead()
    return matching.live(part.states if state is None else (state,))


def _told(order: Order) -> dict[str, Any]:
    if order.action != "reschedule":
        return {}
    return {"at": order.when.at.isoformat()} if order.when.at else {"delay": order.when.delay.total_seconds()}
