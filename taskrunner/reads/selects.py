"""From a SQLAlchemy select to an `Op`: written for psycopg, with its parameters, run by no session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, DateTime, Dialect, Float, Interval, Select, Table, cast, func, select
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlmodel import SQLModel

from taskrunner.db import Op, Row, scalar
from taskrunner.models import metadata

T = TypeVar("T")

_DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy's constructor has no types


def op(statement: Select[Any], read: Callable[[Sequence[Row]], T]) -> Op[T]:
    """Return the `Op` that executes `statement`; `read` gets its rows."""
    compiled = statement.compile(dialect=_DIALECT)
    return Op(str(compiled), compiled.params, read)


def table(model: type[SQLModel]) -> Table:
    """Return the table of a model."""
    return metadata.tables[f"{metadata.schema}.{model.__tablename__}"]


def clock() -> ColumnElement[Any]:
    """Return the database's clock."""
    return func.taskrunner.clock(type_=DateTime(timezone=True))


def ago(interval: str) -> ColumnElement[Any]:
    """Return the instant that lies `interval`, as in `24 hours`, before the database's now."""
    return clock() - cast(interval, INTERVAL)


def now() -> Op[datetime]:
    """Return what the database's clock says: the one that ages and next ticks are shown by."""
    return op(select(clock()), scalar)


def seconds(duration: ColumnElement[Any]) -> ColumnElement[float]:
    """Return an interval as seconds."""
    return cast(func.extract("epoch", cast(duration, Interval)), Float(53))
