"""The figures: how many tasks are in which state, in all and by type."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from taskrunner.db import Op, Steps, column, scalar
from taskrunner.reads.fleet import queues_of, queues_with, runners
from taskrunner.reads.live import Waiting, longest, waiting
from taskrunner.reads.timetable import schedules
from taskrunner.reads.views import Counts, Recent, Status, TypeCounts
from taskrunner.statements import reads as sql
from taskrunner.states import HISTORY


def now() -> Op[datetime]:
    """Return what the database's clock says: the one that ages and next ticks are shown by."""
    return Op(sql.NOW, {}, scalar)


def recent(tenant: str | None = None) -> Op[Recent]:
    """Return what happened in the last minute and in what there is of this one."""
    return Op(sql.RECENT, {"tenant": tenant}, lambda rows: Recent(*rows[0]))


def known_types() -> Op[list[str]]:
    """Return the names of the task types that live processes know."""
    return Op(sql.KNOWN_TYPES, {}, column)


def status(tenant: str | None = None) -> Steps[Status]:
    """Return the figures, queues, runners and schedules; each from its own statement, within one transaction.

    Of one tenant: its tasks, the queues that they are in, its schedules; runners are not shown to tenants.
    """
    live: list[Waiting] = yield waiting(tenant)
    types = yield from _types(live, tenant)
    return Status(
        tasks=_sum(types),
        types=types,
        queues=(yield from (queues_with(live) if tenant is None else queues_of(live))),
        runners=(yield runners()) if tenant is None else [],
        schedules=(yield schedules(tenant)),
    )


def stats(tenant: str | None = None) -> Steps[dict[str, int]]:
    """Return how many tasks are in which state, as `Counts` names and counts them; of all tenants, or of one."""
    return _sum((yield from _count((yield waiting(tenant)), tenant)).values()).model_dump()


def _types(live: list[Waiting], tenant: str | None) -> Steps[list[TypeCounts]]:
    found = yield from _count(live, tenant)
    known: list[str] = yield known_types()
    for name in known if tenant is None else ():
        _of(found, name)
    for name, next_tick_at in (yield Op(sql.NEXT_TICKS, {"tenant": tenant}, list)):
        _of(found, name).next_tick_at = next_tick_at
    for row in live:
        found[row.type].unregistered = row.type not in known
    return sorted(found.values(), key=lambda counts: counts.type)


def _count(live: list[Waiting], tenant: str | None) -> Steps[dict[str, TypeCounts]]:
    found: dict[str, TypeCounts] = {}
    for row in live:
        _add(_of(found, row.type), row)
    for name, outcome, count in (yield Op(sql.COUNTED, {"tenant": tenant}, list)):
        if outcome in HISTORY:
            setattr(_of(found, name), outcome, count)
    for name, count in (yield Op(sql.DEAD_BY_TYPE, {"tenant": tenant}, list)):
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
