"""History's daily partitions, in UTC, and what retention removes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg.sql import SQL, Composed, Identifier
from psycopg.sql import Literal as Value

from taskrunner.db import Op, Steps, column, nothing, scalar
from taskrunner.statements import history as sql

SCHEMA, TABLE, DEFAULT = "taskrunner", "task_history", "task_history_default"
PARTITION = re.compile(rf"{TABLE}_p(\d{{4}})(\d{{2}})(\d{{2}})")

DAY = timedelta(days=1)

_MOVE = SQL("""
WITH moved AS (
    DELETE FROM {default} d WHERE d.finished_at >= {begin} AND d.finished_at < {end} RETURNING d.*
), kept AS (
    INSERT INTO {new} SELECT m.* FROM moved m RETURNING 1
)
SELECT count(*) FROM kept
""")

Kind = Literal["stranded", "requeued", "keys", "stats", "logs", "effects"]
_DROPS: dict[Kind, str] = {
    "stranded": sql.DROP_STRANDED,
    "requeued": sql.DROP_REQUEUED,
    "keys": sql.DROP_EXPIRED_KEYS,
    "stats": sql.DROP_STATS,
    "logs": sql.DROP_LOGS,
    "effects": sql.DROP_EFFECTS,
}


class Outcome(NamedTuple):
    """What became of a partition's DDL: `done`, `before` (by somebody else), or `busy`: another janitor is at work.

    Who meets another one leaves all the rest to it. `moved` counts rows that were moved out of DEFAULT.
    """

    verdict: Literal["done", "before", "busy"]
    moved: int = 0


def name_of(day: date) -> str:
    """Return the name of a day's partition, as in `task_history_p20261122`."""
    return f"{TABLE}_p{day:%Y%m%d}"


def day_of(name: str) -> date | None:
    """Return the day of a partition by its name; None for DEFAULT and for what is not ours."""
    found = PARTITION.fullmatch(name)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def wanted(ahead: int) -> Steps[list[date]]:
    """Return the days without a partition: from today to `ahead` days on, and those whose rows are in DEFAULT."""
    today: date = yield Op(sql.TODAY, {}, scalar)
    there = yield Op(sql.PARTITIONS, {}, _days)
    stranded = yield Op(sql.STRANDED, {}, column)
    days = {today + DAY * step for step in range(ahead + 1)} | set(stranded)
    return sorted(days - set(there))


def outdated(retention: timedelta) -> Steps[list[date]]:
    """Return the days of partitions in which everything is older than `retention`."""
    limit: date = yield from cutoff(retention)
    there = yield Op(sql.PARTITIONS, {}, _days)
    return [day for day in there if day < limit]


def cutoff(retention: timedelta) -> Steps[date]:
    """Return the first day of which something is to be kept."""
    now: datetime = yield Op("SELECT taskrunner.clock()", {}, scalar)
    return (now.astimezone(UTC) - retention).date()


def create(day: date, patience: timedelta) -> Steps[Outcome]:
    """Make the day's partition and move its rows out of DEFAULT, if there are any.

    For days to come, tasks can end and be read meanwhile; for today and earlier both wait.
    Raises psycopg's `LockNotAvailable` after `patience`.
    """
    if (hindrance := (yield from _hindrance(day, patience, there=False))) is not None:
        return hindrance
    today: date = yield Op(sql.TODAY, {}, scalar)
    # A day more: whoever began to write before midnight may end after it.
    parent = sql.LOCK_PARENT_FROM_ALL if day <= today + DAY else sql.LOCK_PARENT
    for lock in (parent, sql.LOCK_DEFAULT):
        yield Op(lock, {}, nothing)
    yield _ddl(SQL("CREATE TABLE {new} (LIKE {parent} INCLUDING ALL)"), day)
    yield _ddl(SQL("ALTER TABLE {new} ENABLE ROW LEVEL SECURITY"), day)  # what is granted by mistake shows nothing
    moved: int = yield _ddl(_MOVE, day)
    yield _ddl(SQL("ALTER TABLE {parent} ATTACH PARTITION {new} FOR VALUES FROM ({begin}) TO ({end})"), day)
    return Outcome("done", moved)


def drop(day: date, patience: timedelta) -> Steps[Outcome]:
    """Drop the day's partition with all that is in it.

    Raises psycopg's `LockNotAvailable` after `patience`.
    """
    # DETACH … CONCURRENTLY would not need the parent's exclusive lock, but is not to be had beside a DEFAULT.
    if (hindrance := (yield from _hindrance(day, patience, there=True))) is not None:
        return hindrance
    yield _ddl(SQL("DROP TABLE {new}"), day)
    return Outcome("done")


def holders() -> Op[set[str]]:
    """Return the transactions that have history locked, in any way."""
    return Op(sql.HOLDERS, {}, lambda rows: {row[0] for row in rows})


def delete(kind: Kind, *, room: int, retention: timedelta = timedelta(0), before: datetime | None = None) -> Op[int]:
    """Delete up to `room` rows of a kind that are past their time; returns how many. Repeat it until that is fewer."""
    return Op(_DROPS[kind], {"room": room, "retention": retention, "before": before}, len)


def _hindrance(day: date, patience: timedelta, *, there: bool) -> Steps[Outcome | None]:
    """Say why there is nothing to do: another janitor is at work, or the partition is not as it was any more."""
    if not (yield Op(sql.ALONE, {}, scalar)):
        return Outcome("busy")
    milliseconds = max(round(patience / timedelta(milliseconds=1)), 1)  # 0 would mean: wait for ever
    yield Op(sql.PATIENCE, {"patience": f"{milliseconds}ms"}, nothing)
    exists: bool = yield Op(sql.EXISTS, {"name": f"{SCHEMA}.{name_of(day)}"}, scalar)
    return None if exists is there else Outcome("before")


def _ddl(statement: SQL, day: date) -> Op[Any]:
    """Fill in names and bounds: DDL takes no parameters."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    filled: Composed = statement.format(
        new=Identifier(SCHEMA, name_of(day)),
        parent=Identifier(SCHEMA, TABLE),
        default=Identifier(SCHEMA, DEFAULT),
        begin=Value(begin.isoformat()),
        end=Value((begin + DAY).isoformat()),
    )
    return Op(filled.as_string(), {}, scalar)


def _days(rows: Sequence[Sequence[str]]) -> list[date]:
    return [day for day in (day_of(name) for (name,) in rows) if day is not None]
