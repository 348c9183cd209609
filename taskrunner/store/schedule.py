"""Schedules: the stored rules, and the ticks that turn their due times into tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple, Protocol
from uuid import UUID

from taskrunner.db import Op, Row, Steps, column, nothing
from taskrunner.statements import schedule as sql
from taskrunner.store import enqueue
from taskrunner.store.enqueue import NewTask
from taskrunner.triggers import Trigger, missed, parse_text


class Schedule(NamedTuple):
    """A row of `schedule`, in the order of SEEN; `now` is the database's clock when it was read.

    `orphaned`: no live process knows its type. A schedule without `next_tick_at` has ended; one that its code has given
    up has no `trigger` either. `payload` is JSON text.
    """

    id: UUID
    tenant: str
    name: str
    type: str
    trigger: str
    timezone: str
    start_at: datetime | None
    end_at: datetime | None
    jitter: timedelta | None
    key: str | None
    queue: str | None
    priority: int | None
    next_tick_at: datetime | None
    last_tick_at: datetime | None
    last_task_id: UUID | None
    last_error: str | None
    ticks: int
    skipped: int
    paused: bool
    catch_up: str
    payload: str
    declared_in: str
    declared_version: int
    created_at: datetime
    now: datetime
    orphaned: bool

    def rule(self) -> Trigger:
        """Return the trigger. Raises: `TriggerInvalid` if this release cannot read it."""
        return parse_text(self.trigger, self.timezone)

    def template(self) -> Template:
        """Return what it says of its tasks."""
        return Template(self.type, self.payload, self.tenant, self.key, self.queue, self.priority)


class Template(NamedTuple):
    """What a schedule says of the tasks it makes; `payload` is JSON text. None: what the type says."""

    type: str
    payload: str
    tenant: str
    key: str | None = None
    queue: str | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows of task types: all their names, how to make their tasks, their older names.

    `make` checks the payload, and raises `UnknownType`, `PayloadInvalid` or `InvalidArgument`.
    """

    types: Sequence[str]
    make: Callable[[Template], NewTask]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Waiting(NamedTuple):
    """A schedule and the seconds until its next tick (≤ 0: due)."""

    id: UUID
    name: str
    due_in: float


class Ticked(NamedTuple):
    """What one tick came to: tasks, due times that met a live unique task, and if catch-up gave all of them up."""

    added: int
    skipped: int
    missed: bool


def line(types: Sequence[str], held: Collection[UUID], room: int) -> Op[list[Waiting]]:
    """Return the first `room` schedules of these types in the order of their next ticks, without those `held`."""
    params = {"types": list(types), "held": list(held), "room": room}
    return Op(sql.LINE, params, lambda rows: [Waiting(*row) for row in rows])


def tick(id_: UUID, known: Known, limit: int) -> Steps[Ticked | None]:
    """Turn a schedule's due times into tasks and move it on to the first due time after now.

    `limit` bounds what catch_up="all" makes up for. None: it is not due any more, or somebody else is at it.
    Raises what `known.make` raises, `TriggerInvalid`, and psycopg's `LockNotAvailable` after 200 ms.
    """
    yield patience()
    taken = yield Op(sql.TAKE, {"id": id_, "types": list(known.types)}, read)
    if not taken:
        return None
    schedule: Schedule = taken[0]
    trigger = schedule.rule()
    dues = due_times(schedule, trigger, limit)
    added = yield from enqueue.add([_tick_task(schedule, known, due) for due in dues], aliases=known.aliases)
    created = [answer.id for answer in added if answer.created]
    yield Op(
        sql.ADVANCE,
        {
            "id": id_,
            "next_tick_at": _first_after(schedule, trigger),
            "last_tick_at": dues[-1] if dues else None,
            "last_task_id": created[-1] if created else None,
            "ticks": len(created),
            "skipped": len(dues) - len(created),
        },
        column,
    )
    return Ticked(len(created), len(dues) - len(created), missed=not dues)


def fail(id_: UUID, error: str) -> Steps[None]:
    """Keep why a tick failed, where people look for it."""
    yield patience()
    yield Op(sql.FAILED, {"id": id_, "error": error}, column)


def patience() -> Op[None]:
    """Wait for no lock longer than 200 ms, until the end of this transaction."""
    return Op(sql.PATIENCE, {}, nothing)


def due_times(schedule: Schedule, trigger: Trigger, limit: int) -> list[datetime]:
    """Return the due times up to now that become tasks, oldest first, as the catch-up rule says.

    `latest` takes the newest, `all` the newest `limit`. `skip` takes the newest, but nothing at all if the schedule
    was left waiting for its `grace` or longer: then nobody was there to tick.
    """
    if schedule.next_tick_at is None:
        return []
    until = min(schedule.now, schedule.end_at or schedule.now)
    if schedule.catch_up == "skip" and schedule.now - schedule.next_tick_at >= grace(trigger, schedule.next_tick_at):
        return []
    passed = missed(trigger, schedule.next_tick_at, until, limit if schedule.catch_up == "all" else 1)
    # A database clock that was set back must not tick again what it has ticked.
    return [due for due in passed if schedule.last_tick_at is None or due > schedule.last_tick_at]


def grace(trigger: Trigger, due: datetime) -> timedelta:
    """Return how late a tick at `due` is when it counts as missed.

    Half a period, at most a minute; but for short periods 2 s, or four periods where that is less: a scheduler looks
    once a second and may be slow, and one that was away for five periods is four of them late.
    """
    following = trigger.next_after(due, due)
    if following is None:
        return timedelta(minutes=1)
    period = following - due
    return max(min(period / 2, timedelta(minutes=1)), min(period * 4, timedelta(seconds=2)))


def task_of(schedule: Schedule, known: Known) -> NewTask:
    """Return a task as the schedule makes it, due now. Raises what `known.make` raises."""
    made = known.make(schedule.template())
    return replace(made, schedule_id=schedule.id)


def _tick_task(schedule: Schedule, known: Known, due: datetime) -> NewTask:
    return replace(task_of(schedule, known), tick_at=due, at=due + _delay(schedule, due))


def _delay(schedule: Schedule, due: datetime) -> timedelta:
    """Return the share of the jitter that this tick gets: the same whichever scheduler asks."""
    if schedule.jitter is None:
        return timedelta(0)
    digest = blake2b(f"{schedule.id} {due.timestamp():.6f}".encode(), digest_size=8).digest()
    return schedule.jitter * (int.from_bytes(digest) / 2**64)


def _first_after(schedule: Schedule, trigger: Trigger) -> datetime | None:
    if schedule.next_tick_at is None:
        return None
    return within(schedule, trigger.next_after(schedule.next_tick_at, schedule.now))


class Ending(Protocol):
    """What may end."""

    @property
    def end_at(self) -> datetime | None: ...


def within(schedule: Ending, due: datetime | None) -> datetime | None:
    """Return the due time, or None if it lies behind the schedule's end."""
    return None if due is None or (schedule.end_at is not None and due > schedule.end_at) else due


def read(rows: Sequence[Row]) -> list[Schedule]:
    """Read what SEEN selects."""
    return [Schedule(*row) for row in rows]
