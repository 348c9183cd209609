"""Which tasks a bulk action means: how many, some of them, and their ids in order, a part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, column, scalar
from taskrunner.reads.conditions import conditions
from taskrunner.reads.tasks import views
from taskrunner.reads.views import TaskFilter, TaskView
from taskrunner.statements import matching as sql
from taskrunner.statements import reads
from taskrunner.states import State


class Pool(NamedTuple):
    """The table in which an action finds tasks, what they must be there, and what came too late for it."""

    select: str
    ids: str
    own: str


def live(states: Sequence[State]) -> Pool:
    """Tasks in these states, that were there when the action was asked for."""
    inside = ", ".join(f"'{state.value}'" for state in states)
    return Pool(reads.LIVE, reads.LIVE_IDS, f" AND t.state IN ({inside})" + sql.STORED_BY)


def dead() -> Pool:
    """Dead letters that nobody has requeued, and that were dead when the action was asked for."""
    return Pool(reads.DEAD, reads.DEAD_IDS, sql.OPEN + sql.DEAD_BY)


def count(pool: Pool, wanted: TaskFilter, before: datetime, most: int | None = None) -> Op[int]:
    """Return how many match, or `most` if they are more."""
    return _asked(sql.COUNT, pool.ids, pool, wanted, {"before": before, "limit": most}, scalar)


def sample(pool: Pool, wanted: TaskFilter, before: datetime, limit: int) -> Op[list[TaskView]]:
    """Return some that match, the newest first."""
    return _asked(sql.SAMPLE, pool.select, pool, wanted, {"before": before, "limit": limit}, views)


def ids(pool: Pool, wanted: TaskFilter, before: datetime, above: UUID, limit: int) -> Op[list[UUID]]:
    """Return the next ones that match, by their ids."""
    return _asked(sql.NEXT, pool.ids, pool, wanted, {"before": before, "above": above, "limit": limit}, column)


def _asked(shape: str, select: str, pool: Pool, wanted: TaskFilter, params: dict[str, Any], read: Any) -> Op[Any]:
    asked = conditions(wanted)
    text = select + pool.own + "".join(asked.texts)
    return Op(shape.replace("MATCHING", text), {**dict(wanted), **asked.params, **params}, read)
