"""Schedules as people see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel

from taskrunner.db import Op, Row
from taskrunner.errors import TriggerInvalid
from taskrunner.reads.views import Schedule
from taskrunner.redaction import covered_pattern
from taskrunner.statements import reads as sql

PAGE = 100
"""Schedules on a page, unless another number is asked for."""

_FIELDS = tuple(name for name in Schedule.model_fields if name != "description")


class SchedulePage(BaseModel):
    """Some schedules, the next to tick first; `next` is the `after` of the next page, and None on the last.

    The pages go by tenant and name: every schedule is on one of them, whatever ticks meanwhile.
    """

    items: list[Schedule]
    next: str | None = None


def schedules(tenant: str | None = None) -> Op[list[Schedule]]:
    """Return every schedule, or a tenant's, the next to tick first, those without a next tick last."""
    return Op(sql.SCHEDULES, {"tenant": tenant}, _schedules)


def schedule_page(tenant: str | None = None, *, after: str | None = None, limit: int = PAGE) -> Op[SchedulePage]:
    """Return a page of all schedules, or of a tenant's."""
    past_tenant, _, past_name = (after or "").partition("/")
    past = {"past_tenant": unquote(past_tenant), "past_name": unquote(past_name)}

    def read(rows: Sequence[Row]) -> SchedulePage:
        found = _schedules(rows[:limit])
        return SchedulePage(items=sorted(found, key=_turn), next=_place(found[-1]) if len(rows) > limit else None)

    return Op(sql.SCHEDULE_PAGE, {"tenant": tenant, **past, "limit": limit + 1}, read)


def schedule_named(name: str, tenant: str = "default") -> Op[Schedule | None]:
    """Return the tenant's schedule of that name."""
    params = {"name": name, "tenant": tenant}
    return Op(sql.SCHEDULE, params, lambda rows: _schedules(rows)[0] if rows else None)


def _turn(one: Schedule) -> tuple[Any, ...]:
    return one.next_tick_at is None, one.next_tick_at or one.created_at, one.name, one.tenant


def _place(last: Schedule) -> str:
    return f"{quote(last.tenant, safe='')}/{quote(last.name, safe='')}"


def _schedules(rows: Sequence[Row]) -> list[Schedule]:
    return [_schedule(dict(zip(_FIELDS, row, strict=True))) for row in rows]


def _schedule(values: Mapping[str, Any]) -> Schedule:
    from taskrunner.triggers import parse_text  # where there are schedules

    try:
        description = parse_text(values["trigger"], values["timezone"]).describe()
    except TriggerInvalid:  # a newer release's: it is shown as it is stored
        description = values["trigger"]
    return Schedule(**covered_pattern(values), description=description)
