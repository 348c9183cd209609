"""Tasks in all their states as one list: live ones, history and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, FromClause, Select, Text, cast, literal, null, select, union_all
from sqlalchemy.dialects.postgresql import JSONB

from taskrunner.db import Op, Row
from taskrunner.models import DeadLetter, HistoryRow, TaskRow
from taskrunner.reads.selects import op, table
from taskrunner.reads.views import DeadView, TaskFilter, TaskView
from taskrunner.states import HISTORY, LIVE, State

_FIELDS = tuple(TaskView.model_fields)
_LIVE, _HISTORY, _DEAD = table(TaskRow), table(HistoryRow), table(DeadLetter)
# What a table has no column for.
_CONSTANTS: dict[str, ColumnElement[Any]] = {
    "state": literal(State.DEAD.value, Text()),
    "finished_at": cast(null(), DateTime(timezone=True)),
    "result": literal(None, JSONB(none_as_null=True)),
}


def task_by_id(id_: UUID) -> Op[TaskView | None]:
    """Return a task in whatever state it is, a dead letter that was requeued included; None if nobody knows it."""
    parts = [_columns(source).where(source.c.id == id_) for source in (_LIVE, _HISTORY, _DEAD)]
    return op(select(union_all(*parts).subquery()), lambda rows: _views(rows)[0] if rows else None)


def list_tasks(wanted: TaskFilter) -> Op[list[TaskView]]:
    """Return a page of tasks, the newest first; a dead letter that was requeued is its new task's business.

    The order is that of the ids, which for UUIDv7 is that of their creation. Each table gives at most a page, by its
    primary key; the partitions of history are merged, so that an unfiltered page reads no more rows than it shows.
    """
    parts = [_page(source, wanted).subquery().select() for source in _sources(wanted.state)]
    merged = union_all(*parts).subquery()
    return op(select(merged).order_by(merged.c.id.desc()).limit(wanted.limit), _views)


def dead_letters(wanted: TaskFilter, *, requeued: bool = False) -> Op[list[DeadView]]:
    """Return a page of dead letters, the newest first; with `requeued` also those that a person has requeued."""
    page = _narrow(_columns(_DEAD).add_columns(_DEAD.c.requeued_as), _DEAD, wanted)
    return op(page if requeued else page.where(_DEAD.c.requeued_as.is_(None)), _dead_views)


def dead_letter_by_id(id_: UUID) -> Op[DeadView | None]:
    """Return a dead letter, requeued or not."""
    found = _columns(_DEAD).add_columns(_DEAD.c.requeued_as).where(_DEAD.c.id == id_)
    return op(found, lambda rows: _dead_views(rows)[0] if rows else None)


def _sources(state: State | None) -> list[FromClause]:
    if state is None:
        return [_LIVE, _HISTORY, _DEAD]
    return [_LIVE] if state in LIVE else [_HISTORY] if state in HISTORY else [_DEAD]


def _columns(source: FromClause) -> Select[Any]:
    return select(*((source.c[name] if name in source.c else _CONSTANTS[name]).label(name) for name in _FIELDS))


def _page(source: FromClause, wanted: TaskFilter) -> Select[Any]:
    page = _narrow(_columns(source), source, wanted)
    return page.where(_DEAD.c.requeued_as.is_(None)) if source is _DEAD else page


def _narrow(page: Select[Any], source: FromClause, wanted: TaskFilter) -> Select[Any]:
    for name in ("state", "type", "queue", "tenant"):
        value = getattr(wanted, name)
        if value is not None and name in source.c:
            page = page.where(source.c[name] == value)
    if wanted.since is not None:
        page = page.where(source.c.created_at >= wanted.since)
        if "finished_at" in source.c:  # implied; it spares the partitions before that day
            page = page.where(source.c.finished_at >= wanted.since)
    if wanted.after is not None:
        page = page.where(source.c.id < wanted.after)
    return page.order_by(source.c.id.desc()).limit(wanted.limit)


def _views(rows: Sequence[Row]) -> list[TaskView]:
    return [TaskView(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


def _dead_views(rows: Sequence[Row]) -> list[DeadView]:
    return [DeadView(**dict(zip((*_FIELDS, "requeued_as"), row, strict=True))) for row in rows]
