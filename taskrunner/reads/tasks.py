"""Tasks in all their states as one list: live ones, history and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskrunner.db import Op, Row
from taskrunner.reads.views import DeadView, TaskFilter, TaskView
from taskrunner.statements import reads as sql
from taskrunner.states import HISTORY, LIVE, State

_TASK_FIELDS, _DEAD_FIELDS = tuple(TaskView.model_fields), tuple(DeadView.model_fields)
_OPEN = " AND t.requeued_as IS NULL"
_PAGE = " ORDER BY t.id DESC LIMIT %(limit)s"

# What a filter asks of every table. The day an ended task was created is no later than that of its end: said of the
# end as well, it spares the partitions before that day.
_FILTERS = {
    "type": " AND t.type = %(type)s",
    "queue": " AND t.queue = %(queue)s",
    "tenant": " AND t.tenant = %(tenant)s",
    "since": " AND t.created_at >= %(since)s",
    "after": " AND t.id < %(after)s",
}
_STATE, _SINCE_END = " AND t.state = %(state)s", " AND t.finished_at >= %(since)s"


def task_by_id(id_: UUID) -> Op[TaskView | None]:
    """Return a task in whatever state it is, a dead letter that was requeued included; None if nobody knows it."""
    return Op(sql.ONE, {"id": id_}, lambda rows: _views(rows)[0] if rows else None)


def list_tasks(wanted: TaskFilter) -> Op[list[TaskView]]:
    """Return a page of tasks, the newest first; a dead letter that was requeued is its new task's business.

    The order is that of the ids, which for UUIDv7 is that of their creation. Each table gives at most a page, by its
    primary key; the partitions of history are merged, so that an unfiltered page reads no more rows than it shows.
    """
    pages = []
    if wanted.state is None or wanted.state in LIVE:
        pages.append(_page(sql.LIVE, wanted, _STATE))
    if wanted.state is None or wanted.state in HISTORY:
        pages.append(_page(sql.ENDED, wanted, _STATE, _SINCE_END))
    if wanted.state in (None, State.DEAD):
        pages.append(_page(sql.DEAD + _OPEN, wanted, "", _SINCE_END))
    return Op(pages[0] if len(pages) == 1 else _merged(pages), _params(wanted), _views)


def dead_letters(wanted: TaskFilter, *, requeued: bool = False) -> Op[list[DeadView]]:
    """Return a page of dead letters, the newest first; with `requeued` also those that a person has requeued."""
    source = sql.DEAD_LETTER if requeued else sql.DEAD_LETTER + _OPEN
    return Op(_page(source, wanted, "", _SINCE_END), _params(wanted), _dead_views)


def dead_letter_by_id(id_: UUID) -> Op[DeadView | None]:
    """Return a dead letter, requeued or not."""
    return Op(sql.ONE_DEAD_LETTER, {"id": id_}, lambda rows: _dead_views(rows)[0] if rows else None)


def _page(source: str, wanted: TaskFilter, state: str, since_end: str = "") -> str:
    """Put what is wanted behind the select of one table."""
    conditions = [text for name, text in _FILTERS.items() if getattr(wanted, name) is not None]
    if wanted.state is not None:
        conditions.append(state)
    if wanted.since is not None:
        conditions.append(since_end)
    return source + "".join(conditions) + _PAGE


def _merged(pages: Sequence[str]) -> str:
    return "(" + ")\nUNION ALL (".join(pages) + ")\n ORDER BY id DESC LIMIT %(limit)s"


def _params(wanted: TaskFilter) -> dict[str, Any]:
    """Return the filter's values; psycopg takes an enum for a type of the database's, and the states are text."""
    return {**dict(wanted), "state": wanted.state and wanted.state.value}


def _views(rows: Sequence[Row]) -> list[TaskView]:
    return [TaskView(**dict(zip(_TASK_FIELDS, row, strict=True))) for row in rows]


def _dead_views(rows: Sequence[Row]) -> list[DeadView]:
    return [DeadView(**dict(zip(_DEAD_FIELDS, row, strict=True))) for row in rows]
