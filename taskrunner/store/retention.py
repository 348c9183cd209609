"""What goes by its age, row by row, in small batches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from psycopg.sql import SQL, Composable, Composed, Identifier
from psycopg.sql import Literal as Value

from taskrunner.db import Op, Steps, nothing, scalar, schema_name
from taskrunner.keeping import Rule, described
from taskrunner.statements import history as sql
from taskrunner.store.history import SCHEMA, Partition, limit_waits

Kind = Literal["stranded", "requeued", "keys", "stats", "logs", "effects", "dependencies", "audit"]
_DROPS: dict[Kind, str] = {
    "stranded": sql.DROP_STRANDED,
    "requeued": sql.DROP_REQUEUED,
    "keys": sql.DROP_EXPIRED_KEYS,
    "stats": sql.DROP_STATS,
    "logs": sql.DROP_LOGS,
    "effects": sql.DROP_EFFECTS,
    "dependencies": sql.DROP_DEPENDENCIES,
    "audit": sql.DROP_AUDIT,
}

_SWEPT = "swept: "

# By the primary key from where the last batch ended, so that what is left is walked over once.
_SWEEP = SQL("""
WITH gone AS (
    DELETE FROM {table} d
     WHERE d.ctid = ANY(ARRAY(SELECT h.ctid FROM {table} h
            WHERE h.id > {after} AND {may_go} ORDER BY h.id LIMIT {room} FOR UPDATE SKIP LOCKED))
    RETURNING d.id
)
SELECT (SELECT count(*) FROM gone), (SELECT g.id FROM gone g ORDER BY g.id DESC LIMIT 1)
""")

NOWHERE = UUID(int=0)


class Swept(NamedTuple):
    """How many rows one batch deleted, and the id of the last."""

    rows: int
    last: UUID | None


def delete(kind: Kind, *, room: int, retention: timedelta = timedelta(0), before: datetime | None = None) -> Op[int]:
    """Delete up to `room` rows of a kind that are past their time; returns how many. Repeat it until that is fewer."""
    return Op(_DROPS[kind], {"room": room, "retention": retention, "before": before}, len)


def any_left(partition: Partition, rules: Sequence[Rule], *, may_go: bool) -> Op[bool]:
    """Say whether the partition has a row that may go, or one that must stay."""
    condition = _may_go(rules) if may_go else SQL("NOT ({})").format(_may_go(rules))
    statement = SQL("SELECT EXISTS (SELECT FROM {table} h WHERE {condition})")
    return Op(statement.format(table=_table(partition), condition=condition).as_string(), {}, scalar)


def sweep(partition: Partition, rules: Sequence[Rule], *, after: UUID, room: int) -> Op[Swept]:
    """Delete up to `room` rows that may go, by their ids from `after` on; those that somebody has locked stay."""
    statement = _SWEEP.format(table=_table(partition), may_go=_may_go(rules), after=Value(str(after)), room=Value(room))
    return Op(statement.as_string(), {}, lambda rows: Swept(*rows[0]))


def going(partition: Partition, rules: Sequence[Rule] | None) -> Composed:
    """Return the select of the rows that may go, all of them without rules, for an archive: always in one order."""
    condition = SQL(" WHERE {}").format(_may_go(rules)) if rules is not None else SQL("")
    table = Identifier(schema_name(), partition.name)  # COPY does not go through `db.run`, which would put it in
    return SQL("SELECT h.* FROM {}").format(table) + SQL(" h{} ORDER BY h.id, h.finished_at").format(condition)


def is_swept(partition: Partition, rules: Sequence[Rule]) -> bool:
    """Say whether these rules have been applied to the partition: its comment says so."""
    return partition.note == _SWEPT + described(list(rules))


def mark(partition: Partition, rules: Sequence[Rule], patience: timedelta) -> Steps[None]:
    """Remember that these rules have been applied. Raises psycopg's `LockNotAvailable` after `patience`."""
    yield limit_waits(patience)
    note = Value(_SWEPT + described(list(rules)))
    yield Op(SQL("COMMENT ON TABLE {} IS {}").format(_table(partition), note).as_string(), {}, nothing)


def _table(partition: Partition) -> Composable:
    return Identifier(SCHEMA, partition.name)


def _may_go(rules: Sequence[Rule]) -> Composed:
    """Return the condition on a row `h`: the first rule that fits counts."""
    whens = SQL(" ").join(_when(rule) for rule in rules[:-1])
    usual = Value(rules[-1].may_go)
    return SQL("CASE {} ELSE {} END").format(whens, usual) if len(rules) > 1 else Composed([usual])


def _when(rule: Rule) -> Composed:
    parts: list[Composable] = [
        SQL("h.{} = {}").format(Identifier(name), Value(value))
        for name, value in (("queue", rule.queue), ("state", rule.state))
        if value is not None
    ]
    return SQL("WHEN {} THEN {}").format(SQL(" AND ").join(parts), Value(rule.may_go))
