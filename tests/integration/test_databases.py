"""The tests' own databases: what one test has left, the next one cannot see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from taskrunner.testing.database import Server
from tests.databases import Databases

TRACE = "INSERT INTO taskrunner.queue_settings (queue, paused) VALUES ('mail', true)"
TRACES = "SELECT count(*) FROM taskrunner.queue_settings"


@pytest.fixture
def own(taskrunner_template: Server) -> Iterator[Databases]:
    """Databases that no other test has used."""
    made = Databases(taskrunner_template)
    yield made
    made.close()


def oid(conn: psycopg.Connection[tuple[int]]) -> int:
    row = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return row[0]


def test_a_database_is_lent_again_empty_on_time_and_under_another_name(own: Databases) -> None:
    with own.lent() as first:
        first.travel(timedelta(days=1))
        with first.connect() as conn:
            conn.execute(TRACE)
            conn.execute("ANALYZE taskrunner.queue_settings")
            before = oid(conn)
        stray = first.connect()
    with pytest.raises(psycopg.OperationalError):
        stray.execute("SELECT 1")
    with own.lent() as second, second.connect() as conn:
        assert (oid(conn), second.name != first.name) == (before, True)
        assert conn.execute(TRACES).fetchone() == (0,)
        assert conn.execute("SELECT taskrunner.clock() = now()").fetchone() == (True,)
        assert conn.execute("SELECT count(*) FROM pg_statistic WHERE starelid >= 16384").fetchone() == (0,)
        assert conn.execute(
            "SELECT reltuples FROM pg_class WHERE oid = 'taskrunner.queue_settings'::regclass"
        ).fetchone() == (-1,)


def test_who_comes_back_to_a_database_that_was_given_back_finds_it_no_more(own: Databases) -> None:
    with own.lent() as first, first.connect() as conn:
        before = oid(conn)
        conn.execute("SELECT nextval('taskrunner.audit_id_seq')")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        first.connect()
    with own.lent() as second, second.connect() as conn:
        assert oid(conn) == before
        assert conn.execute("SELECT is_called FROM taskrunner.audit_id_seq").fetchone() == (False,)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE ledger ()",
        "CREATE SCHEMA other",
        "CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TEMPORARY TABLE mine ()",
        "ALTER TABLE taskrunner.task ADD COLUMN more int",
        "ALTER TABLE taskrunner.task SET (fillfactor = 50)",
        "ALTER TABLE taskrunner.task DISABLE ROW LEVEL SECURITY",
        "CREATE INDEX ON taskrunner.task (created_at)",
        "ALTER TABLE taskrunner.task DROP CONSTRAINT task_pkey CASCADE",
        "CREATE OR REPLACE FUNCTION taskrunner.bound_tenant() RETURNS text LANGUAGE sql AS 'SELECT NULL'",
        "GRANT SELECT ON taskrunner.task TO PUBLIC",
        "GRANT SELECT (id) ON taskrunner.task TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = 1', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$",
        "UPDATE taskrunner.schema_version SET version_num = '9999'",
    ],
)
def test_a_database_that_was_altered_is_not_lent_again(own: Databases, change: str) -> None:
    with own.lent() as first, first.connect() as conn:
        before = oid(conn)
        conn.execute(change.encode())
    with own.lent() as second, second.connect() as conn:
        assert oid(conn) != before
