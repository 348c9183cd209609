"""What a caller asks of a schedule, checked and made into one: what is refused is refused before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypedDict, get_args

from taskrunner.durations import as_delay
from taskrunner.errors import InvalidArgument, TriggerInvalid
from taskrunner.intake import check_name
from taskrunner.payload import dump, dump_json
from taskrunner.registry import CatchUp, Registry
from taskrunner.store.schedule import Schedule
from taskrunner.store.timetable import NewSchedule
from taskrunner.task import Task
from taskrunner.triggers import Trigger, parse

Duration: TypeAlias = timedelta | float
Payload: TypeAlias = Mapping[str, Any] | str
"""The fields, or JSON text of them."""


class Changes(TypedDict, total=False):
    """What `change` takes: what is not given stays as it is, None takes it away."""

    task: Task | type[Task] | str
    payload: Payload | None
    frequency: Any
    timezone: str
    start_at: datetime | None
    end_at: datetime | None
    jitter: Duration | None
    key: str | None
    catch_up: CatchUp
    queue: str | None
    priority: int | None


class Rule(TypedDict, total=False):
    """What `preview` takes besides the frequency."""

    timezone: str
    start_at: datetime | None
    end_at: datetime | None


def wanted(registry: Registry, name: str, tenant: str, wishes: Changes) -> NewSchedule:
    """Return a new schedule; `wishes` have a task and a frequency.

    Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument` naming the argument.
    """
    check_name("a schedule's name", name)
    type_, payload = _work(registry, wishes, "", "{}")
    new = NewSchedule(name, type_, _trigger(wishes["frequency"], wishes.get("timezone", "UTC")), payload, tenant)
    return _with(new, wishes)


def ruled(frequency: Any, wishes: Rule) -> NewSchedule:
    """Return a schedule of nothing, whose due times can be looked at. Raises: `InvalidArgument`."""
    _refuse_unknown(wishes, Rule)
    new = NewSchedule("", "", _trigger(frequency, wishes.get("timezone", "UTC")))
    return _with(new, Changes(start_at=wishes.get("start_at"), end_at=wishes.get("end_at")))


def edited(registry: Registry, wishes: Changes) -> Callable[[Schedule], NewSchedule]:
    """Return what makes a stored schedule into the one that is wished for; raises what `wanted` raises.

    What can be refused without the stored one is refused at once.
    """
    _refuse_unknown(wishes, Changes)
    if not wishes:
        raise InvalidArgument(f"nothing to change is given: there are {', '.join(Changes.__annotations__)}")
    if "frequency" in wishes:
        _trigger(wishes["frequency"], wishes.get("timezone", "UTC"))

    def edit(before: Schedule) -> NewSchedule:
        type_, payload = _work(registry, wishes, before.type, before.payload)
        new = NewSchedule(
            before.name, type_, _changed_trigger(before, wishes), payload, before.tenant, before.key,
            before.start_at, before.end_at, before.catch_up, before.jitter, before.queue, before.priority,
        )  # fmt: skip
        return _with(new, wishes)

    return edit


def _refuse_unknown(wishes: Changes | Rule, kind: type) -> None:
    """Keywords that are typed one by one are not checked by Python."""
    known = kind.__annotations__
    if unknown := sorted(set(wishes) - set(known)):
        raise TypeError(f"no such argument: {', '.join(unknown)}; there are {', '.join(known)}")


def _work(registry: Registry, wishes: Changes, type_: str, payload: str) -> tuple[str, str]:
    """Return the type's name and the payload's text; a task brings both."""
    task = wishes.get("task", type_)
    if isinstance(task, Task):
        if wishes.get("payload") is not None:
            raise InvalidArgument("a task has its payload with it: give a task, or a type and its payload")
        return registry.of(task).name, dump(task)
    type_ = registry.canonical(task) if isinstance(task, str) else _class(registry, task)
    return type_, _text(wishes["payload"]) if "payload" in wishes else payload


def _class(registry: Registry, task: object) -> str:
    if isinstance(task, type) and issubclass(task, Task):
        return registry.of(task).name
    raise InvalidArgument(f"a schedule makes tasks: give one, its class or its type's name, not {task!r}")


def _text(payload: Payload | None) -> str:
    if payload is None:
        return "{}"
    return payload if isinstance(payload, str) else dump_json(dict(payload), "payload")


def _with(new: NewSchedule, wishes: Changes) -> NewSchedule:
    """Return the schedule with all that its trigger and its work do not decide."""
    begin = instant("start_at", wishes["start_at"]) if "start_at" in wishes else new.start_at
    end = instant("end_at", wishes["end_at"]) if "end_at" in wishes else new.end_at
    if begin is not None and end is not None and end < begin:
        raise InvalidArgument(f"end_at {end.isoformat()} lies before start_at {begin.isoformat()}")
    return replace(
        new,
        start_at=begin,
        end_at=end,
        jitter=_jitter(wishes["jitter"]) if "jitter" in wishes else new.jitter,
        key=wishes.get("key", new.key),
        catch_up=_catch_up(wishes.get("catch_up", new.catch_up)),
        queue=wishes.get("queue", new.queue),
        priority=wishes.get("priority", new.priority),
    )


def _changed_trigger(before: Schedule, wishes: Changes) -> Trigger:
    timezone = wishes.get("timezone", before.timezone)
    if "frequency" in wishes:
        return _trigger(wishes["frequency"], timezone)
    if timezone == before.timezone:
        return before.rule()
    moved = _guarded(lambda: before._replace(timezone=timezone).rule())
    if moved.timezone != timezone:
        raise InvalidArgument(f"its APScheduler trigger has a time zone of its own, {moved.timezone}: give a new one")
    return moved


def _trigger(frequency: Any, timezone: str) -> Trigger:
    return _guarded(lambda: parse(frequency, timezone=timezone))


def _guarded(read: Callable[[], Trigger]) -> Trigger:
    """In code a bad frequency is a fault of the project; here it is one of the call."""
    try:
        return read()
    except TriggerInvalid as error:
        raise InvalidArgument(str(error)) from None


def instant(name: str, value: object) -> datetime | None:
    """Return the instant or None. Raises: `InvalidArgument` naming the argument for one without a time zone."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidArgument(f"{name} must be a datetime with a time zone, not {value!r}")
    return value


def _jitter(value: object) -> timedelta | None:
    return None if value is None else as_delay(value, "jitter") or None


def _catch_up(value: str) -> str:
    if value not in get_args(CatchUp):
        raise InvalidArgument(f"catch_up must be {', '.join(get_args(CatchUp))}, not {value!r}")
    return value
