"""What a task has logged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from taskrunner.db import Op, Row
from taskrunner.statements import log as sql

LAST_LINES = 20
"""Lines that are shown of a task, where nobody asks for more."""


class LogLine(BaseModel):
    """One line; `claim_no` tells the runs of a task apart: a later one has a higher number."""

    id: int
    claim_no: int
    logged_at: datetime
    level: str
    message: str


class LogPage(BaseModel):
    """Some lines in the order in which they were written; `next` is the `after` of the next page, None on the last."""

    lines: list[LogLine]
    next: int | None = None


def log_lines(task_id: UUID, *, after: int = 0, limit: int = 200) -> Op[LogPage]:
    """Return what a task has logged, from all its runs, the earliest first; `after` is the last id of the page before.

    To follow a running task, ask again with the last id that you have seen.
    """

    def read(rows: Sequence[Row]) -> LogPage:
        lines = _lines(rows)
        return LogPage(lines=lines[:limit], next=lines[limit - 1].id if len(lines) > limit else None)

    return Op(sql.LINES, {"task_id": task_id, "after": after, "limit": limit + 1}, read)


def last_lines(task_id: UUID, limit: int = LAST_LINES) -> Op[list[LogLine]]:
    """Return the last lines that a task has logged, the earliest of them first."""
    return Op(sql.LAST_LINES, {"task_id": task_id, "limit": limit}, lambda rows: _lines(rows)[::-1])


def _lines(rows: Sequence[Row]) -> list[LogLine]:
    fields = tuple(LogLine.model_fields)
    return [LogLine(**dict(zip(fields, row, strict=True))) for row in rows]
