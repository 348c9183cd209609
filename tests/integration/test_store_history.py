"""Partitions of history and retention: days in UTC, whatever anybody's time zone is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from taskrunner import db, reads
from taskrunner.db import run
from taskrunner.spans import Span, Unit, around
from taskrunner.store import history, retention
from taskrunner.testing.database import Database

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NO_WAIT = timedelta(milliseconds=1)

Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[Connection]:
    taskrunner_db.freeze(NOON)
    with db.connect(taskrunner_db.url) as fresh:
        yield fresh


def create_all(conn: Connection, ahead: int = 2, unit: Unit = "day") -> list[date]:
    spans = run(conn, history.wanted(ahead, unit))
    for span in spans:
        run(conn, history.create(span, NO_WAIT))
    return [span.begin for span in spans]


def outdated(conn: Connection, kept: timedelta) -> list[date]:
    return [partition.span.begin for partition, _ in run(conn, history.outdated(kept))]


def day(of: date) -> Span:
    return around(of, "day")


def finish(conn: Connection, at: datetime) -> None:
    """A terminal row, as FINISH writes one."""
    conn.execute(
        """INSERT INTO taskrunner.task_history (id, finished_at, maturity_at, created_at, claim_no, priority, tries,
                  crashes, max_retries, tenant, queue, type, state, payload, meta, errors)
           VALUES (%s, %s, %s, %s, 1, 100, 0, 0, 3, 'default', 'default', 'T', 'succeeded', '{}', '{}', '[]')""",
        [uuid4(), at, at, at],
    )


def places(conn: Connection) -> dict[str, int]:
    """How many rows are in which partition."""
    rows = conn.execute(
        "SELECT c.relname, count(*) FROM taskrunner.task_history h JOIN pg_class c ON c.oid = h.tableoid GROUP BY 1"
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Marquesas", "America/St_Johns"])
@pytest.mark.parametrize(
    "midnight", [datetime(2026, 3, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)]
)
def test_the_ends_of_days_months_and_years_land_right_in_any_zone(
    taskrunner_db: Database, midnight: datetime, zone: str
) -> None:
    """SPEC HIS 52, CLM 22."""
    with taskrunner_db.connect() as conn:
        conn.execute(f"ALTER DATABASE \"{taskrunner_db.name}\" SET timezone = '{zone}'")
    taskrunner_db.freeze(midnight - DAY / 2)
    # A session of its own, in the server's zone: nothing may hang on the one that our connections ask for.
    with taskrunner_db.connect() as conn:
        assert create_all(conn, ahead=1) == [midnight.date() - DAY, midnight.date()]
        for instant in (midnight - DAY, midnight - timedelta(microseconds=1), midnight, midnight + DAY / 2):
            finish(conn, instant)
        assert places(conn) == {history.name_of(midnight.date() - DAY): 2, history.name_of(midnight.date()): 2}
        conn.execute("DELETE FROM taskrunner.task_history")
        taskrunner_db.freeze(midnight + 31 * DAY - timedelta(microseconds=1))
        assert outdated(conn, 30 * DAY) == [midnight.date() - DAY]
        taskrunner_db.freeze(midnight + 31 * DAY)
        assert outdated(conn, 30 * DAY) == [midnight.date() - DAY, midnight.date()]


def test_partitions_are_made_from_today_on_and_only_once(conn: Connection) -> None:
    """SPEC HIS 52."""
    assert create_all(conn, ahead=30) == [date(2026, 3, 1) + DAY * n for n in range(31)]
    assert run(conn, history.wanted(30)) == []
    assert run(conn, history.create(day(date(2026, 3, 1)), NO_WAIT)).verdict == "before"


def test_a_partition_has_the_indexes_and_checks_of_history(conn: Connection) -> None:
    create_all(conn, ahead=0)
    made = conn.execute(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'taskrunner.task_history_p20260301'::regclass"
        " AND contype IN ('p', 'c')"
    ).fetchone()
    assert made == (2,)


def test_rows_that_found_no_partition_are_moved_into_it(conn: Connection) -> None:
    """SPEC HIS 52."""
    for instant in (NOON, NOON + timedelta(seconds=1), NOON - 3 * DAY):
        finish(conn, instant)
    assert places(conn) == {"task_history_default": 3}
    before = conn.execute("SELECT * FROM taskrunner.task_history ORDER BY id").fetchall()
    assert create_all(conn, ahead=1) == [date(2026, 2, 26), date(2026, 3, 1), date(2026, 3, 2)]
    assert places(conn) == {"task_history_p20260226": 1, "task_history_p20260301": 2}
    assert conn.execute("SELECT * FROM taskrunner.task_history ORDER BY id").fetchall() == before


def test_a_reader_that_comes_while_rows_are_moved_finds_them(conn: Connection, taskrunner_db: Database) -> None:
    """Planned before the partition is there and run after the rows have moved, a query would find them nowhere."""
    finish(conn, NOON)
    (id_,) = conn.execute("SELECT h.id FROM taskrunner.task_history h").fetchone() or ()
    found: list[Any] = []
    with db.connect(taskrunner_db.url) as reader, ThreadPoolExecutor(1) as pool:
        with conn.transaction():
            moving = history.create(day(NOON.date()), timedelta(seconds=5))
            op = next(moving)
            while "ATTACH" not in op.sql:
                op = moving.send(run(conn, op))
            reading = pool.submit(lambda: found.append(run(reader, reads.task_by_id(id_))))
            _await_blocked(taskrunner_db, reader.info.backend_pid)
            run(conn, op)
        reading.result()
    assert [view.id for view in found] == [id_]


def _await_blocked(database: Database, pid: int) -> None:
    with database.connect() as watch:
        while watch.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", [pid]).fetchone() is None:
            time.sleep(0.01)


def test_a_partition_that_cannot_be_had_leaves_its_rows_where_they_are(
    conn: Connection, taskrunner_db: Database
) -> None:
    finish(conn, NOON)
    with taskrunner_db.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM taskrunner.task_history")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run(conn, history.create(day(NOON.date()), NO_WAIT))
    assert places(conn) == {"task_history_default": 1}
    assert run(conn, history.create(day(NOON.date()), NO_WAIT)) == ("done", 1)


def test_only_one_janitor_works_at_a_time(conn: Connection, taskrunner_db: Database) -> None:
    """SPEC HIS 52."""
    with taskrunner_db.connect() as other, other.transaction():
        steps = history.create(day(NOON.date()), NO_WAIT)
        alone = next(steps)
        assert other.execute(alone.sql).fetchone() == (True,)
        assert run(conn, history.create(day(NOON.date()), NO_WAIT)).verdict == "busy"
    assert run(conn, history.create(day(NOON.date()), NO_WAIT)) == ("done", 0)


def test_a_dropped_partition_is_gone_and_dropping_it_again_does_nothing(conn: Connection) -> None:
    """SPEC HIS 52."""
    create_all(conn, ahead=0)
    finish(conn, NOON)
    assert run(conn, history.drop(day(NOON.date()), NO_WAIT)).verdict == "done"
    assert run(conn, history.drop(day(NOON.date()), NO_WAIT)).verdict == "before"
    assert places(conn) == {}


def test_tables_of_others_beside_ours_are_no_days(conn: Connection) -> None:
    conn.execute(
        "CREATE TABLE taskrunner.task_history_mine PARTITION OF taskrunner.task_history"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')"
    )
    assert outdated(conn, 30 * DAY) == []
    there = {partition.name: partition for partition in run(conn, history.partitions())}
    assert not there["task_history_mine"].ours


def test_the_transactions_that_hold_history_are_named_by_any_role(conn: Connection, taskrunner_db: Database) -> None:
    assert run(conn, history.holders()) == set()
    with taskrunner_db.connect() as reader, reader.transaction():
        reader.execute("SELECT 1 FROM taskrunner.task_history LIMIT 1")
        held = run(conn, history.holders())
        assert len(held) == 1
        assert run(conn, history.holders()) == held
    assert run(conn, history.holders()) == set()


def test_deletions_take_no_more_than_they_are_asked_to(conn: Connection) -> None:
    conn.execute(
        "INSERT INTO taskrunner.idempotency_key SELECT 'default', 'T', 'k' || n, gen_random_uuid(), %s"
        "  FROM generate_series(1, 25) n",
        [NOON - DAY],
    )
    assert [run(conn, retention.delete("keys", room=10)) for _ in range(4)] == [10, 10, 5, 0]
