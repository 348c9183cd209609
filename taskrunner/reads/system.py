"""What the database says of itself: sizes, sessions, and how far back vacuum may clean."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from taskrunner.db import Op
from taskrunner.statements import system as sql


class TableSize(BaseModel):
    """A table with its indexes; `rows` is the planner's estimate."""

    name: str
    bytes: int
    rows: float
    dead_rows: int
    parts: int
    vacuumed_at: datetime | None


class Server(BaseModel):
    """The server and this database of it; what the login may not see of others is missing."""

    version: str
    bytes: int
    sessions: int
    most_sessions: int
    listeners: int
    horizon_age: int | None
    """Transactions since the oldest snapshot that is held."""
    oldest_transaction_seconds: float | None
    sees_all: bool
    """Whether this login is told since when others' transactions are open."""


def table_sizes() -> Op[list[TableSize]]:
    """Return every table, the largest first."""
    fields = tuple(TableSize.model_fields)
    return Op(sql.SIZES, {}, lambda rows: [TableSize(**dict(zip(fields, row, strict=True))) for row in rows])


def server() -> Op[Server]:
    """Return how the server is."""
    fields = tuple(Server.model_fields)
    return Op(sql.SERVER, {}, lambda rows: Server(**dict(zip(fields, rows[0], strict=True))))
