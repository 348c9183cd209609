"""One look at the live tasks, from which both the types' and the queues' figures are made."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select

from taskrunner.db import Op
from taskrunner.models import TaskRow
from taskrunner.reads.selects import clock, op, seconds, table

_TASK = table(TaskRow)


class Waiting(NamedTuple):
    """The live tasks of one type in one queue; `pending` includes `due` and `retrying`."""

    type: str
    queue: str
    pending: int
    due: int
    running: int
    blocked: int
    retrying: int
    oldest_due_seconds: float | None


def waiting() -> Op[list[Waiting]]:
    """Count the live tasks by type and queue: one pass over the hot table, which holds no task that has ended."""
    counted, state = func.count(), _TASK.c.state
    figures = (
        counted.filter(state == "pending"),
        counted.filter(_is_due()),
        counted.filter(state == "running"),
        counted.filter(state == "blocked"),
        counted.filter(state == "pending", _TASK.c.tries > 0),
        seconds(clock() - func.min(_TASK.c.maturity_at).filter(_is_due())),
    )
    by_type = select(_TASK.c.type, _TASK.c.queue, *figures).group_by(_TASK.c.type, _TASK.c.queue)
    return op(by_type, lambda rows: [Waiting(*row) for row in rows])


def longest(first: float | None, second: float | None) -> float | None:
    """Return the longer of two waits, either of which may not be."""
    return max((wait for wait in (first, second) if wait is not None), default=None)


def _is_due() -> ColumnElement[bool]:
    return (_TASK.c.state == "pending") & (_TASK.c.maturity_at <= clock())
