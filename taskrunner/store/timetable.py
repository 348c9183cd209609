"""What people do to schedules: list, look ahead, add, change, pause, resume, run now, remove."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from uuid_utils.compat import uuid7

from taskrunner.db import Op, Steps, column, scalar
from taskrunner.errors import Conflict, InvalidArgument, NotFound
from taskrunner.jsonvalue import dump_json
from taskrunner.redaction import marks_of, pattern
from taskrunner.statements import schedule as sql
from taskrunner.store import enqueue
from taskrunner.store.enqueue import Enqueued, NewTask
from taskrunner.store.schedule import Known, Schedule, Template, read, task_of, within
from taskrunner.triggers import Trigger

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule as people want it; `payload` is JSON text, `start_at` and `end_at` are both included.

    None for `queue` or `priority` is what the type says. The id is the caller's, so that an add may be repeated.
    """

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
    queue: str | None = None
    priority: int | None = None
    id: UUID = field(default_factory=uuid7)

    def template(self) -> Template:
        """Return what it says of its tasks."""
        return Template(self.type, self.payload, self.tenant, self.key, self.queue, self.priority)


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


def forecast(new: NewSchedule, now: datetime, count: int) -> list[datetime]:
    """Return the first `count` due times in UTC of a schedule that would be added at `now`."""
    due = _first_tick(new, now)
    found: list[datetime] = []
    while due is not None and len(found) < count:
        found.append(due)
        due = within(new, new.trigger.next_after(due, due))
    return found


def add(new: NewSchedule, known: Known, *, overwrite: bool = False) -> Steps[Schedule]:
    """Store a schedule at run time, its payload checked as at an enqueue; the same one again changes nothing.

    With `overwrite`, one of that name becomes as this one is, with its place on the grid where the rule is the same.
    Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument` if it never fires, `Conflict` if the name is taken.
    """
    new = _marked(new, known.make(new.template()))
    now = yield Op(sql.NOW, {}, scalar)
    first = _first_tick(new, now)
    if first is None:
        raise InvalidArgument(f"schedule {new.name!r} would never fire: {new.trigger.describe()} from start to end")
    place = {"name": new.name, "tenant": new.tenant}
    # DO NOTHING waits for whoever inserts the same name; what that one has then taken away again is inserted after all.
    while (yield Op(sql.INSERT, _fresh(new, first), scalar)) is None:
        there = yield Op(sql.LOCK, place, read)
        if there and there[0].id != new.id:
            if not overwrite:
                raise Conflict(
                    f"there is a schedule {new.name!r} already: choose another name, or change, replace or remove it"
                )
            yield from _rewrite(there[0], new)
        if there:
            break
    return (yield from _one(sql.GET, new.name, new.tenant))


def change(name: str, tenant: str, edit: Callable[[Schedule], NewSchedule], known: Known) -> Steps[Schedule]:
    """Make a schedule what `edit` makes of it; its name and tenant stay.

    The grid stays where the rule and the start do. A new rule begins after now (an interval counts from the last tick),
    but what was due stays due: no tick is lost. Raises: what `add` raises, `NotFound`.
    """
    before = yield from _one(sql.LOCK, name, tenant)
    _refuse_code(before)  # first: its code may be gone, and nothing of it be known
    new = edit(before)
    new = _marked(new, known.make(new.template()))
    yield from _rewrite(before, new)
    return (yield from _one(sql.GET, name, tenant))


def _rewrite(before: Schedule, new: NewSchedule) -> Steps[None]:
    _refuse_code(before)
    due = _moved(before, new)
    if due is None and before.next_tick_at is not None:
        raise InvalidArgument(
            f"schedule {before.name!r} would never tick again ({new.trigger.describe()} until its end): "
            "pause or remove it instead"
        )
    yield Op(sql.CHANGE, {**_row(new), "id": before.id, "next_tick_at": due}, column)


def _refuse_code(before: Schedule) -> None:
    if before.declared_in == "code":
        raise Conflict(
            f"schedule {before.name!r} is declared in code: change it there, or pause it and add one of another name"
        )


def pause(name: str, tenant: str = "default") -> Steps[str]:
    """Let the schedule make no tasks until it is resumed. Raises: `NotFound`."""
    if not (yield Op(sql.PAUSE, {"name": name, "tenant": tenant}, column)):
        _missing(name)
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


def run_now(name: str, known: Known, tenant: str = "default", task_id: UUID | None = None) -> Steps[Enqueued]:
    """Add one task as the schedule would, now and beside its ticks; paused ones too. A live unique task answers.

    With a `task_id` it may be repeated. Raises: `NotFound`, `UnknownType`, `PayloadInvalid`.
    """
    schedule: Schedule = yield from _one(sql.GET, name, tenant)
    task = task_of(schedule, known)
    if task_id is not None:
        task = replace(task, id=task_id, fresh=False)
    [answer] = yield from enqueue.add([task], aliases=known.aliases)
    return answer


def remove(name: str, tenant: str = "default", *, repeated: bool = False) -> Steps[str]:
    """Delete a schedule; tasks that it has made stay.

    `repeated`: the reply to an earlier call was lost, so that it may be gone already.
    Raises: `NotFound`; `Conflict` for one that is declared in the code of a live process, which would declare it again.
    """
    found = yield Op(sql.LOCK, {"name": name, "tenant": tenant}, read)
    if not found and repeated:
        return name
    schedule: Schedule = found[0] if found else _missing(name)
    if schedule.declared_in == "code" and schedule.trigger and not schedule.orphaned:
        raise Conflict(
            f"schedule {name!r} is declared in code and would come back: take its frequency out there, or pause it"
        )
    yield Op(sql.REMOVE, {"id": schedule.id}, column)
    return name


def _one(text: str, name: str, tenant: str) -> Steps[Schedule]:
    found = yield Op(text, {"name": name, "tenant": tenant}, read)
    schedule: Schedule = found[0] if found else _missing(name)
    return schedule


def _missing(name: str) -> NoReturn:
    raise NotFound(f"no schedule {name!r}: `taskrunner schedules list` shows them")


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
    return within(new, due)


def _moved(before: Schedule, new: NewSchedule) -> datetime | None:
    """Return the next tick of a schedule that becomes `new`; None if it has none any more."""
    due, last, now = before.next_tick_at, before.last_tick_at, before.now
    started = new.start_at is None or new.start_at <= now
    same_start = before.start_at == new.start_at or (started and (before.start_at is None or before.start_at <= now))
    same_rule = (before.trigger, before.timezone) == (new.trigger.text(), new.trigger.timezone)
    owed = due is not None and due <= now and started and not before.paused
    if owed or (due is not None and same_rule and same_start):
        return within(new, due)
    if last is not None and started:
        return within(new, new.trigger.next_after(last, now))
    return _first_tick(new, now)


def _fresh(new: NewSchedule, first: datetime) -> dict[str, Any]:
    return {
        **_row(new),
        "id": new.id,
        "tenant": new.tenant,
        "name": new.name,
        "next_tick_at": first,
        "last_tick_at": None,
        "last_task_id": None,
        "ticks": 0,
        "skipped": 0,
        "paused": False,
        "declared_in": "runtime",
        "declared_version": 0,
    }


def _marked(new: NewSchedule, made: NewTask) -> NewSchedule:
    """Return the schedule with the paths of its secrets noted, as a task of it has them."""
    paths = marks_of(json.loads(made.meta))
    if not paths:
        return new
    payload = pattern(json.loads(new.payload), paths, json.loads(made.payload))
    return replace(new, payload=dump_json(payload, "payload"))


def _row(new: NewSchedule) -> dict[str, Any]:
    return {
        "type": new.type,
        "trigger": new.trigger.text(),
        "timezone": new.trigger.timezone,
        "start_at": new.start_at,
        "end_at": new.end_at,
        "jitter": new.jitter,
        "key": new.key,
        "queue": new.queue,
        "priority": new.priority,
        "catch_up": new.catch_up,
        "payload": new.payload,
    }
