"""The figures: how many tasks are in which state, in all and by type."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, func, select

from taskrunner.db import Steps
from taskrunner.models import DeadLetter, RunnerRow, ScheduleRow, TaskStats
from taskrunner.reads.fleet import alive_now, queues_with, runners, schedules
from taskrunner.reads.live import Waiting, longest, waiting
from taskrunner.reads.selects import ago, op, table
from taskrunner.reads.views import Counts, Status, TypeCounts
from taskrunner.states import HISTORY

_STATS, _DEAD, _RUNNER, _SCHEDULE = table(TaskStats), table(DeadLetter), table(RunnerRow), table(ScheduleRow)


def status() -> Steps[Status]:
    """Return the figures, queues, runners and schedules; each from its own statement, within one transaction."""
    live: list[Waiting] = yield waiting()
    types = yield from _types(live)
    return Status(
        tasks=_sum(types),
        types=types,
        queues=(yield from queues_with(live)),
        runners=(yield runners()),
        schedules=(yield schedules()),
    )


def stats() -> Steps[dict[str, int]]:
    """Return how many tasks are in which state, as `Counts` names and counts them."""
    return _sum((yield from _count((yield waiting()))).values()).model_dump()


def _types(live: list[Waiting]) -> Steps[list[TypeCounts]]:
    found = yield from _count(live)
    known: set[str] = yield op(_known(), lambda rows: {row[0] for row in rows})
    for name in known:
        _of(found, name)
    for name, next_tick_at in (yield op(_next_ticks(), list)):
        _of(found, name).next_tick_at = next_tick_at
    for row in live:
        found[row.type].unregistered = row.type not in known
    return sorted(found.values(), key=lambda counts: counts.type)


def _count(live: list[Waiting]) -> Steps[dict[str, TypeCounts]]:
    found: dict[str, TypeCounts] = {}
    for row in live:
        _add(_of(found, row.type), row)
    for name, outcome, count in (yield op(_ended(), list)):
        if outcome in HISTORY:
            setattr(_of(found, name), outcome, int(count))
    for name, count in (yield op(_dead(), list)):
        _of(found, name).dead = count
    return found


def _add(counts: TypeCounts, row: Waiting) -> None:
    for name in ("pending", "due", "running", "blocked", "retrying"):
        setattr(counts, name, getattr(counts, name) + getattr(row, name))
    counts.oldest_due_seconds = longest(counts.oldest_due_seconds, row.oldest_due_seconds)


def _of(found: dict[str, TypeCounts], name: str) -> TypeCounts:
    return found.setdefault(name, TypeCounts(type=name))


def _sum(types: Collection[TypeCounts]) -> Counts:
    return Counts(**{name: sum(getattr(counts, name) for counts in types) for name in Counts.model_fields})


def _ended() -> Select[Any]:
    return (
        select(_STATS.c.type, _STATS.c.outcome, func.sum(_STATS.c.count))
        .where(_STATS.c.minute >= func.date_trunc("minute", ago("24 hours")))
        .group_by(_STATS.c.type, _STATS.c.outcome)
    )


def _dead() -> Select[Any]:
    return select(_DEAD.c.type, func.count()).where(_DEAD.c.requeued_as.is_(None)).group_by(_DEAD.c.type)


def _known() -> Select[Any]:
    return select(func.unnest(_RUNNER.c.types)).where(alive_now()).distinct()


def _next_ticks() -> Select[Any]:
    return (
        select(_SCHEDULE.c.type, func.min(_SCHEDULE.c.next_tick_at))
        .where(~_SCHEDULE.c.paused, _SCHEDULE.c.next_tick_at.is_not(None))
        .group_by(_SCHEDULE.c.type)
    )
