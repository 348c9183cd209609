"""History's partitions, of whole days in UTC: which there are, and how they come and go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple

from psycopg.sql import SQL, Composed, Identifier
from psycopg.sql import Literal as Value

from taskrunner.db import Op, Steps, column, nothing, scalar
from taskrunner.spans import DAY, Span, Unit, gap_at
from taskrunner.statements import history as sql

SCHEMA, TABLE, DEFAULT = "taskrunner", "task_history", "task_history_default"
PARTITION = re.compile(rf"{TABLE}_p\d{{8}}")

_MOVE = SQL("""
WITH moved AS (
    DELETE FROM {default} d WHERE d.finished_at >= {begin} AND d.finished_at < {end} RETURNING d.*
), kept AS (
    INSERT INTO {new} SELECT m.* FROM moved m RETURNING 1
)
SELECT count(*) FROM kept
""")


class Partition(NamedTuple):
    """A partition of history, its days (those it has a part of, if it is not ours), and its comment."""

    name: str
    span: Span
    note: str | None = None

    @property
    def ours(self) -> bool:
        """Whether the janitor has made it, and may drop it."""
        return PARTITION.fullmatch(self.name) is not None and self.name == name_of(self.span.begin)


class Outcome(NamedTuple):
    """What became of a partition's DDL: `done`, `before` (by somebody else), or `busy`: another janitor is at work.

    Who meets another one leaves all the rest to it. `changed`: it does not hold what was archived any more, and stays.
    `moved` counts rows that were moved out of DEFAULT.
    """

    verdict: Literal["done", "before", "busy", "changed"]
    moved: int = 0


def name_of(begin: date) -> str:
    """Return the name of the partition that begins on a day, as in `task_history_p20261122`."""
    return f"{TABLE}_p{begin:%Y%m%d}"


def partitions() -> Op[list[Partition]]:
    """Return the partitions but DEFAULT, the oldest first."""
    return Op(sql.PARTITIONS, {}, _partitions)


def today() -> Op[date]:
    """Return today in UTC, by the database's clock."""
    return Op(sql.TODAY, {}, scalar)


def wanted(ahead: int, unit: Unit = "day") -> Steps[list[Span]]:
    """Return what partitions are missing: from today to `ahead` days on, and for what is in DEFAULT."""
    first: date = yield today()
    taken = [partition.span for partition in (yield partitions())]
    stranded: list[date] = yield Op(sql.STRANDED, {}, column)
    days = [*(first + DAY * step for step in range(ahead + 1)), *stranded]
    return sorted({gap for day in days if (gap := gap_at(day, taken, unit)) is not None})


def outdated(shortest: timedelta) -> Steps[list[tuple[Partition, timedelta]]]:
    """Return the partitions of ours whose newest row is older than this, with that age, the oldest first."""
    now: datetime = yield Op("SELECT taskrunner.clock()", {}, scalar)
    there = yield partitions()
    ages = [(partition, now - _midnight(partition.span.end)) for partition in there if partition.ours]
    return [(partition, age) for partition, age in ages if age >= shortest]


def cutoff(retention: timedelta) -> Steps[date]:
    """Return the first day of which something is to be kept."""
    now: datetime = yield Op("SELECT taskrunner.clock()", {}, scalar)
    return (now.astimezone(UTC) - retention).date()


def create(span: Span, patience: timedelta) -> Steps[Outcome]:
    """Make a partition and move its rows out of DEFAULT, if there are any.

    For days to come, tasks can end and be read meanwhile; for today and earlier both wait.
    Raises psycopg's `LockNotAvailable` after `patience`.
    """
    if (busy := (yield from _begin(patience))) is not None:
        return busy
    there = yield partitions()
    overlaps = any(other.span.begin < span.end and span.begin < other.span.end for other in there)
    if overlaps or (yield _exists(span)):
        return Outcome("before")
    # A day more: whoever began to write before midnight may end after it.
    current = span.begin <= (yield today()) + DAY
    for lock in (sql.LOCK_PARENT_FROM_ALL if current else sql.LOCK_PARENT, sql.LOCK_DEFAULT):
        yield Op(lock, {}, nothing)
    yield _ddl(SQL("CREATE TABLE {new} (LIKE {parent} INCLUDING ALL)"), span)
    yield _ddl(SQL("ALTER TABLE {new} ENABLE ROW LEVEL SECURITY"), span)  # what is granted by mistake shows nothing
    moved: int = yield _ddl(_MOVE, span)
    yield _ddl(SQL("ALTER TABLE {parent} ATTACH PARTITION {new} FOR VALUES FROM ({begin}) TO ({end})"), span)
    return Outcome("done", moved)


def drop(span: Span, patience: timedelta, rows: int | None = None) -> Steps[Outcome]:
    """Drop a partition with all that is in it; given `rows`, only if it holds so many, because they are archived.

    Raises psycopg's `LockNotAvailable` after `patience`.
    """
    # DETACH … CONCURRENTLY would not need the parent's exclusive lock, but is not to be had beside a DEFAULT.
    if (busy := (yield from _begin(patience))) is not None:
        return busy
    if not (yield _exists(span)):
        return Outcome("before")
    if rows is not None:
        # Counted under a lock of its own, which holds up nobody: who ends a task now writes to another partition.
        yield _ddl(SQL("LOCK TABLE {new} IN SHARE MODE"), span)
        if (yield _ddl(SQL("SELECT count(*) FROM {new}"), span)) != rows:
            return Outcome("changed")
    yield _ddl(SQL("DROP TABLE {new}"), span)
    return Outcome("done")


def holders() -> Op[set[str]]:
    """Return the transactions that have history locked, in any way."""
    return Op(sql.HOLDERS, {}, lambda rows: {row[0] for row in rows})


def limit_waits(patience: timedelta) -> Op[None]:
    """Let the transaction's statements wait for locks for no longer than this."""
    milliseconds = max(round(patience / timedelta(milliseconds=1)), 1)  # 0 would mean: wait for ever
    return Op(sql.PATIENCE, {"patience": f"{milliseconds}ms"}, nothing)


def _begin(patience: timedelta) -> Steps[Outcome | None]:
    """Be the only janitor that changes partitions, or say that another one is at work."""
    if not (yield Op(sql.ALONE, {}, scalar)):
        return Outcome("busy")
    yield limit_waits(patience)
    return None


def _exists(span: Span) -> Op[bool]:
    return Op(sql.EXISTS, {"name": f"{SCHEMA}.{name_of(span.begin)}"}, scalar)


def _ddl(statement: SQL, span: Span) -> Op[Any]:
    """Fill in names and bounds: DDL takes no parameters."""
    filled: Composed = statement.format(
        new=Identifier(SCHEMA, name_of(span.begin)),
        parent=Identifier(SCHEMA, TABLE),
        default=Identifier(SCHEMA, DEFAULT),
        begin=Value(_midnight(span.begin).isoformat()),
        end=Value(_midnight(span.end).isoformat()),
    )
    return Op(filled.as_string(), {}, scalar)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _partitions(rows: Sequence[Sequence[Any]]) -> list[Partition]:
    return [Partition(name, _days(begins_at, ends_at), note) for name, begins_at, ends_at, note in rows]


def _days(begins_at: datetime, ends_at: datetime) -> Span:
    begin, end = begins_at.astimezone(UTC), ends_at.astimezone(UTC)
    return Span(begin.date(), end.date() if end.time() == time() else end.date() + DAY)
