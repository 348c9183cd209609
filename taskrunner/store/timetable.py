"""What people do to schedules: list, look ahead, pause, resume, run now, add, remove."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from uuid_utils.compat import uuid7

from taskrunner.db import Op, Steps, column, scalar
from taskrunner.errors import Conflict, InvalidArgument, NotFound
from taskrunner.statements import schedule as sql
from taskrunner.store import enqueue
from taskrunner.store.enqueue import Enqueued
from taskrunner.store.schedule import Known, Schedule, Template, read, task_of, within
from taskrunner.triggers import Trigger

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to be added at run time; `payload` is JSON text, `start_at` and `end_at` are both included."""

    name: str
    type: str
    trigger: Trigger
    payload: str = "{}"
    tenant: str = "default"
    key: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    catch_up: str = "latest"
    jitter: timedelta | None = None


def listing(tenant: str | None = None) -> Op[list[Schedule]]:
    """Return the schedules of a tenant, or all, by name."""
    return Op(sql.LIST, {"tenant": tenant}, read)


def get(name: str, tenant: str = "default") -> Steps[Schedule]:
    """Return one schedule. Raises: `NotFound`."""
    return (yield from _one(sql.GET, name, tenant))


def ahead(schedule: Schedule, count: int) -> list[datetime]:
    """Return the next `count` due times in UTC; of a paused schedule, those after a resume now.

    The first lies in the past when a tick is due, or missed. Raises: `TriggerInvalid`.
    """
    due = _next_after_resume(schedule) if schedule.paused else schedule.next_tick_at
    found: list[datetime] = []
    while due is not None and len(found) < count:
        found.append(due)
        due = within(schedule, schedule.rule().next_after(due, max(due, schedule.now)))
    return found


def pause(name: str, tenant: str = "default") -> Steps[str]:
    """Let the schedule make no tasks until it is resumed. Raises: `NotFound`."""
    if not (yield Op(sql.PAUSE, {"name": name, "tenant": tenant}, column)):
        raise _unknown(name)
    return name


def resume(name: str, tenant: str = "default") -> Steps[datetime | None]:
    """Let a paused schedule go on with its first due time after now, which is returned; None if it has ended.

    What it would have made while it was paused is not made up for. Raises: `NotFound`.
    """
    schedule: Schedule = yield from _one(sql.LOCK, name, tenant)
    if not schedule.paused:
        return schedule.next_tick_at
    due = _next_after_resume(schedule)
    yield Op(sql.RESUME, {"id": schedule.id, "next_tick_at": due}, column)
    return due


def run_now(name: str, known: Known, tenant: str = "default") -> Steps[Enqueued]:
    """Add one task as the schedule would, now and beside its ticks; paused ones too. A live unique task answers.

    Raises: `NotFound`, `UnknownType`, `PayloadInvalid`.
    """
    schedule: Schedule = yield from _one(sql.GET, name, tenant)
    [answer] = yield from enqueue.add([task_of(schedule, known)], aliases=known.aliases)
    return answer


def add(new: NewSchedule, known: Known) -> Steps[Schedule]:
    """Store a schedule at run time, its payload checked as at an enqueue.

    Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument` if it never fires, `Conflict` if the name is taken.
    """
    known.make(Template(new.type, new.payload, new.tenant, new.key))
    if not 1 <= len(new.name) <= 200:
        raise InvalidArgument(f"a schedule's name has 1 to 200 characters, not {len(new.name)}")
    now = yield Op(sql.NOW, {}, scalar)
    first = _first_tick(new, now)
    if first is None:
        raise InvalidArgument(f"schedule {new.name!r} would never fire: {new.trigger.describe()} from start to end")
    if (yield Op(sql.INSERT, _row(new, first), scalar)) is None:
        raise Conflict(f"there is a schedule {new.name!r} already: choose another name, or remove it first")
    return (yield from _one(sql.GET, new.name, new.tenant))


def remove(name: str, tenant: str = "default") -> Steps[str]:
    """Delete a schedule; tasks that it has made stay.

    Raises: `NotFound`; `Conflict` for one that is declared in the code of a live process, which would declare it again.
    """
    schedule: Schedule = yield from _one(sql.LOCK, name, tenant)
    if schedule.declared_in == "code" and schedule.trigger and not schedule.orphaned:
        raise Conflict(f"schedule {name!r} is declared in code: take its frequency out there, or pause it")
    yield Op(sql.REMOVE, {"id": schedule.id}, column)
    return name


def _one(text: str, name: str, tenant: str) -> Steps[Schedule]:
    found = yield Op(text, {"name": name, "tenant": tenant}, read)
    if not found:
        raise _unknown(name)
    schedule: Schedule = found[0]
    return schedule


def _unknown(name: str) -> NotFound:
    return NotFound(f"no schedule {name!r}: `taskrunner schedules list` shows them")


def _next_after_resume(schedule: Schedule) -> datetime | None:
    due = schedule.next_tick_at
    if due is None or due > schedule.now:
        return due
    return within(schedule, schedule.rule().next_after(due, schedule.now))


def _first_tick(new: NewSchedule, now: datetime) -> datetime | None:
    """Return the first due time from now or the start on, both included."""
    begin = max(now, new.start_at or now)
    due = new.trigger.first_after(begin - _TICK)
    if due is not None and due < begin:  # an interval is due at once
        due = new.trigger.first_after(begin)
    return None if due is None or (new.end_at is not None and due > new.end_at) else due


def _row(new: NewSchedule, first: datetime) -> dict[str, Any]:
    return {
        "id": uuid7(),
        "tenant": new.tenant,
        "name": new.name,
        "type": new.type,
        "trigger": new.trigger.text(),
        "timezone": new.trigger.timezone,
        "start_at": new.start_at,
        "end_at": new.end_at,
        "jitter": new.jitter,
        "key": new.key,
        "next_tick_at": first,
        "last_tick_at": None,
        "last_task_id": None,
        "ticks": 0,
        "skipped": 0,
        "paused": False,
        "catch_up": new.catch_up,
        "payload": new.payload,
        "declared_in": "runtime",
        "declared_version": 0,
    }
