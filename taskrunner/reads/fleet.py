"""Runners, queues and schedules as people see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, func, select

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.errors import TriggerInvalid
from taskrunner.models import QueueSettings, RunnerRow, ScheduleRow, TaskRow
from taskrunner.reads.live import Waiting, longest, waiting
from taskrunner.reads.selects import clock, op, seconds, table
from taskrunner.reads.views import Queue, Runner, Schedule
from taskrunner.triggers import parse_text

_RUNNER, _SCHEDULE, _SETTINGS, _TASK = table(RunnerRow), table(ScheduleRow), table(QueueSettings), table(TaskRow)
_UNATTENDED = "no live runner knows {}: it waits until one starts (`taskrunner start all`)"


def runners() -> Op[list[Runner]]:
    """Return every registered process, the live ones first, by kind, host and pid."""
    lease = seconds(_RUNNER.c.lease_until - clock()).label("lease_seconds")
    names = [name for name in Runner.model_fields if name in _RUNNER.c]
    alive = alive_now().label("alive")
    order = (alive.desc(), _RUNNER.c.kind, _RUNNER.c.host, _RUNNER.c.pid, _RUNNER.c.id)
    statement = select(*(_RUNNER.c[name] for name in names), lease, alive).order_by(*order)
    return op(statement, lambda rows: [Runner(**dict(zip(Runner.model_fields, row, strict=True))) for row in rows])


def live_runners() -> Op[int]:
    """Return how many runners are alive: for readiness."""
    statement = select(func.count()).select_from(_RUNNER).where(alive_now(), _RUNNER.c.kind == "runner")
    return op(statement, scalar)


def unattended(id_: UUID) -> Op[str]:
    """Return why a pending task can only wait: no live runner knows its type; an empty text when one does."""
    knows = exists().where(alive_now(), _RUNNER.c.kind == "runner", _TASK.c.type == func.any(_RUNNER.c.types))
    statement = select(_TASK.c.type).where(_TASK.c.id == id_, _TASK.c.state == "pending", ~knows)
    return op(statement, lambda rows: _UNATTENDED.format(rows[0][0]) if rows else "")


def queues() -> Steps[list[Queue]]:
    """Return every queue that is known, by name."""
    return (yield from queues_with((yield waiting())))


def queues_with(rows: Iterable[Waiting]) -> Steps[list[Queue]]:
    """Return every queue that is known, by name, when the live tasks have been counted already."""
    found: dict[str, Queue] = {}
    for row in rows:
        _add(found.setdefault(row.queue, Queue(name=row.queue)), row)
    for name, paused, fair in (yield op(select(_SETTINGS.c.queue, _SETTINGS.c.paused, _SETTINGS.c.fair), list)):
        queue = found.setdefault(name, Queue(name=name))
        queue.paused, queue.fair = paused, fair
    for name, served in (yield op(_served(), list)):
        found.setdefault(name, Queue(name=name)).runners = served
    return sorted(found.values(), key=lambda queue: queue.name)


def _add(queue: Queue, row: Waiting) -> None:
    queue.pending += row.pending
    queue.due += row.due
    queue.running += row.running
    queue.oldest_due_seconds = longest(queue.oldest_due_seconds, row.oldest_due_seconds)


def schedules() -> Op[list[Schedule]]:
    """Return every schedule, the next to tick first, those without a next tick last."""
    order = (_SCHEDULE.c.next_tick_at.asc().nulls_last(), _SCHEDULE.c.name, _SCHEDULE.c.tenant)
    return op(_schedules().order_by(*order), _read_schedules)


def schedule_named(name: str, tenant: str = "default") -> Op[Schedule | None]:
    """Return the tenant's schedule of that name."""
    statement = _schedules().where(_SCHEDULE.c.name == name, _SCHEDULE.c.tenant == tenant)
    return op(statement, lambda rows: _read_schedules(rows)[0] if rows else None)


def alive_now() -> ColumnElement[bool]:
    """Whether a runner's lease still lasts."""
    return _RUNNER.c.lease_until > clock()


def _served() -> Select[Any]:
    takes = (
        select(func.unnest(_RUNNER.c.queues).label("queue")).where(alive_now(), _RUNNER.c.kind == "runner").subquery()
    )
    return select(takes.c.queue, func.count()).group_by(takes.c.queue)


def _schedules() -> Select[Any]:
    known = exists().where(alive_now(), _SCHEDULE.c.type == func.any(_RUNNER.c.types))
    names = [name for name in Schedule.model_fields if name in _SCHEDULE.c]
    return select(*(_SCHEDULE.c[name] for name in names), (~known).label("orphaned"))


def _read_schedules(rows: Sequence[Row]) -> list[Schedule]:
    names = [*(name for name in Schedule.model_fields if name in _SCHEDULE.c), "orphaned"]
    return [_schedule(dict(zip(names, row, strict=True))) for row in rows]


def _schedule(values: Mapping[str, Any]) -> Schedule:
    try:
        description = parse_text(values["trigger"], values["timezone"]).describe()
    except TriggerInvalid:  # a newer release's: it is shown as it is stored
        description = values["trigger"]
    return Schedule(**values, description=description)
