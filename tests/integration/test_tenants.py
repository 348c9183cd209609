"""Row security, attacked: by a mapped login, a trusted one, an unbound one, in SQL of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from uuid_utils.compat import uuid7

from taskrunner import db, reads, roles
from taskrunner.statements.pulse import STAMP
from taskrunner.store import history
from taskrunner.testing.database import Database
from tests.roles import Connection, Roles, bound, connected, name_of, roles_of

MINE, THEIRS = "acme", "globex"
NEVER_GRANTED = {"tenant_role"}

FILL = """
INSERT INTO taskrunner.task (id, tenant, type, payload, maturity_at, created_at)
VALUES (%(task)s, %(tenant)s, 'Secret', jsonb_build_object('whose', %(tenant)s::text), now(), now()),
       (%(child)s, %(tenant)s, 'Secret', '{}', now(), now());
INSERT INTO taskrunner.task_history (id, tenant, queue, type, state, payload, meta, errors, finished_at, maturity_at,
       created_at, claim_no, priority, tries, crashes, max_retries)
SELECT gen_random_uuid(), %(tenant)s, 'default', 'Secret', 'succeeded', '{}', '{}', '[]', at, at, at, 1, 1, 0, 0, 0
  FROM unnest(ARRAY[now(), now() - interval '400 days']) AS at;
INSERT INTO taskrunner.dead_letter (id, tenant, queue, type, payload, meta, errors, finished_at, maturity_at,
       created_at, claim_no, priority, tries, crashes, max_retries)
VALUES (%(dead)s, %(tenant)s, 'default', 'Secret', '{}', '{}', '[]', now(), now(), now(), 1, 1, 0, 0, 0);
INSERT INTO taskrunner.schedule (id, tenant, name, type, trigger, created_at)
VALUES (%(schedule)s, %(tenant)s, 'nightly', 'Secret', '0 0 * * *', now());
INSERT INTO taskrunner.dependency (parent_id, child_id, tenant) VALUES (%(task)s, %(child)s, %(tenant)s);
INSERT INTO taskrunner.effect (task_id, key, tenant, claim_no, done_at) VALUES (%(task)s, 'k', %(tenant)s, 1, now());
INSERT INTO taskrunner.idempotency_key (tenant, type, key, task_id, expires_at)
VALUES (%(tenant)s, 'Secret', 'k', %(task)s, now() + interval '1 day');
INSERT INTO taskrunner.task_log (task_id, tenant, claim_no, logged_at, level, message)
VALUES (%(task)s, %(tenant)s, 1, now(), 'info', 'secret');
INSERT INTO taskrunner.audit (acted_at, tenant, actor, action, target) VALUES (now(), %(tenant)s, 'a', 'b', 'c');
INSERT INTO taskrunner.task_stats (minute, runner_id, tenant, queue, type, outcome, count, run_seconds, wait_seconds,
       run_histogram, wait_histogram)
VALUES (now(), '00000000-0000-0000-0000-000000000000', %(tenant)s, 'default', 'Secret', 'cancelled', 1, 0, 0,
       '{}', '{}');
INSERT INTO taskrunner.queue_settings AS q (queue, fair, weights)
VALUES ('default', true, jsonb_build_object(%(tenant)s::text, 3))
ON CONFLICT (queue) DO UPDATE SET weights = q.weights || EXCLUDED.weights;
"""

IDS = {
    tenant: {name: uuid7() for name in ("task", "child", "dead", "schedule")} for tenant in (MINE, THEIRS, "default")
}

HELD = [
    "task",
    "task_history",
    "dead_letter",
    "schedule",
    "effect",
    "idempotency_key",
    "task_log",
    "audit",
    "task_stats",
]
"""Tables with a column `tenant` that logins may read."""


@pytest.fixture
def lent(taskrunner_db: Database) -> Iterator[Roles]:
    with roles_of(taskrunner_db) as made:
        yield made


@pytest.fixture
def filled(lent: Roles) -> Roles:
    """Rows of three tenants in every table, roles, and a runner; history in a partition and in DEFAULT."""
    roles.create(lent.database.url, lent.prefix)
    with lent.database.connect() as conn:
        today = next(iter(db.run(conn, history.wanted(0))))
        assert db.run(conn, history.create(today, timedelta(seconds=1))).verdict == "done"
        for tenant, ids in IDS.items():
            with psycopg.ClientCursor(conn) as cursor:
                cursor.execute(FILL, {"tenant": tenant, **ids})
        conn.execute("INSERT INTO taskrunner.tenant_role VALUES ('somebody', %s)", [THEIRS])
        conn.execute(
            "INSERT INTO taskrunner.runner (id, host, pid, version, started_at, lease_until)"
            " VALUES (gen_random_uuid(), 'h', 1, '1', now(), now())"
        )
        conn.execute("ANALYZE")
    return lent


@pytest.fixture
def mapped(filled: Roles) -> Iterator[Connection]:
    """A login that is mapped to a tenant and writes SQL of its own."""
    with connected(filled.mapped(MINE)) as conn:
        yield conn


def relations(roles: Roles) -> list[str]:
    """Return every table, partition and view of the schema, by the catalogue: new ones are attacked too."""
    with roles.database.connect() as conn:
        rows = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'taskrunner'::regnamespace"
            " AND relkind IN ('r', 'p', 'v', 'm') AND relname <> 'test_clock' ORDER BY relname"
        )
        return [name for (name,) in rows]


def seen(conn: Connection, relation: str) -> list[Any] | None:
    """Return what the whole rows are to this session, as JSON; None when it may not look."""
    try:
        query = sql.SQL("SELECT to_jsonb(r) FROM taskrunner.{} r").format(sql.Identifier(relation))
        return [row for (row,) in conn.execute(query)]
    except errors.InsufficientPrivilege:
        conn.rollback()
        return None


def check_only(conn: Connection, roles: Roles, tenant: str | None) -> None:
    """Look into everything: no row, and no word of a row, of another tenant."""
    foreign = [word for word in IDS if word != tenant]
    strange = [str(id_) for word in foreign for id_ in IDS[word].values()]
    found = {}
    for name in relations(roles):
        rows = seen(conn, name)
        found[name] = rows
        text = str(rows)
        assert not [word for word in [*foreign[:-1], *strange] if word in text], f"{name}: {text}"
        for row in rows or []:
            assert row.get("tenant", tenant) == tenant, f"{name}: {row}"
    if tenant is not None:
        assert all(found[name] for name in HELD), "it sees its own"
    else:
        assert not any(found[name] for name in HELD)
    assert found["tenant_role"] is None
    assert all(rows is None for name, rows in found.items() if name.startswith("task_history_"))


# ── who sees what ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mapped_login_sees_its_tenants_rows_in_every_table_partition_and_view(
    filled: Roles, mapped: Connection
) -> None:
    """SPEC TEN 54."""
    check_only(mapped, filled, MINE)


@pytest.mark.parametrize("kind", ["user", "reader"])
def test_a_trusted_login_sees_what_it_has_bound_and_nothing_before_and_after(filled: Roles, kind: str) -> None:
    """SPEC TEN 54."""
    with connected(filled.login(kind)) as conn:
        check_only(conn, filled, None)
        with conn.transaction():
            bound(conn, THEIRS)
            assert conn.execute("SELECT DISTINCT tenant FROM taskrunner.task").fetchall() == [(THEIRS,)]
        check_only(conn, filled, None)
        for tenant in ("", "nobody"):
            with conn.transaction():
                bound(conn, tenant)
                assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["user", "reader"])
def test_a_trusted_login_that_is_bound_sees_one_tenant_in_every_table(filled: Roles, kind: str) -> None:
    with psycopg.connect(filled.login(kind)) as conn:
        for name in HELD:
            bound(conn, MINE)
            assert {row["tenant"] for row in seen(conn, name) or []} == {MINE}, name
            conn.rollback()


@pytest.mark.parametrize("kind", ["tenant", None])
def test_a_login_that_is_neither_mapped_nor_trusted_sees_nothing_whatever_it_binds(
    filled: Roles, kind: str | None
) -> None:
    with connected(filled.login(kind)) as conn:
        conn.execute("SELECT set_config('taskrunner.tenant', %s, false)", [THEIRS])
        for name in relations(filled):
            assert not seen(conn, name) or name in ("queue_settings", "schema_version", "runner"), name


def test_who_was_mapped_sees_nothing_any_more_when_he_is_unmapped(filled: Roles) -> None:
    url = filled.mapped(MINE)
    with filled.database.connect() as owner, connected(url) as conn:
        assert seen(conn, "task")
        assert db.run(owner, roles.unmap_login(name_of(url))) == MINE
        conn.execute("SELECT set_config('taskrunner.tenant', %s, false)", [THEIRS])
        assert not seen(conn, "task")
        with connected(url) as again:
            assert not seen(again, "task")


def test_a_trusted_login_that_is_mapped_all_the_same_is_bound_by_that(filled: Roles) -> None:
    url = filled.login("user")
    with filled.database.connect() as owner:
        owner.execute("INSERT INTO taskrunner.tenant_role VALUES (%s, %s)", [name_of(url), MINE])
    with connected(url) as conn:
        conn.execute("SELECT set_config('taskrunner.tenant', %s, false)", [THEIRS])
        check_only(conn, filled, MINE)


def test_a_worker_sees_all_tenants_but_no_partition_and_no_mapping(filled: Roles) -> None:
    with connected(filled.login("worker")) as conn:
        for name in HELD:
            assert {row["tenant"] for row in seen(conn, name) or []} == {MINE, THEIRS, "default"}, name
        for name in relations(filled):
            if name.startswith("task_history_") or name == "tenant_role":
                assert seen(conn, name) is None, name


# ── a mapped login tries ─────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS = [
    f"SET taskrunner.tenant = '{THEIRS}'",
    f"SET SESSION taskrunner.tenant = '{THEIRS}'",
    f"SELECT set_config('taskrunner.tenant', '{THEIRS}', false)",
    "SET ROLE NONE",
    "SET row_security = on",
    "SET search_path = pg_temp, taskrunner",
    "SET session_replication_role = replica",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET ROLE {prefix}_tenant",
    "SET ROLE {prefix}_user",
    "SET ROLE {prefix}_worker",
    "SET ROLE {prefix}_owner",
    "SET ROLE somebody",
    "SET SESSION AUTHORIZATION somebody",
    "SET SESSION AUTHORIZATION {admin}",
    "SET ROLE {admin}",
    f"ALTER ROLE CURRENT_USER SET taskrunner.tenant = '{THEIRS}'",
    "GRANT {prefix}_worker TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE CURRENT_USER RENAME TO somebody",
    "ALTER TABLE taskrunner.task DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE taskrunner.task NO FORCE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON taskrunner.task USING (true)",
    "DROP POLICY tenant ON taskrunner.task",
    "ALTER FUNCTION taskrunner.bound_tenant() SECURITY INVOKER",
    "ALTER FUNCTION taskrunner.bound_tenant() OWNER TO CURRENT_USER",
    "CREATE OR REPLACE FUNCTION taskrunner.roles() RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
    f"CREATE OR REPLACE FUNCTION taskrunner.bound_tenant() RETURNS text LANGUAGE sql AS 'SELECT ''{THEIRS}'''",
    f"CREATE FUNCTION pg_temp.bound_tenant() RETURNS text LANGUAGE sql AS 'SELECT ''{THEIRS}'''",
    f"CREATE FUNCTION pg_temp.current_setting(text, bool) RETURNS text LANGUAGE sql AS 'SELECT ''{THEIRS}'''",
    f"CREATE TEMP TABLE tenant_role AS SELECT session_user::text AS role, '{THEIRS}' AS tenant",
    "CREATE TEMP VIEW task AS SELECT * FROM taskrunner.task",
    f"INSERT INTO taskrunner.tenant_role VALUES (session_user, '{THEIRS}')",
    f"UPDATE taskrunner.tenant_role SET tenant = '{THEIRS}'",
    "DELETE FROM taskrunner.tenant_role",
    "GRANT ALL ON ALL TABLES IN SCHEMA taskrunner TO CURRENT_USER",
    "CREATE TABLE taskrunner.x (id int)",
    (
        "CREATE TRIGGER spy BEFORE UPDATE ON taskrunner.task FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "CREATE RULE spy AS ON INSERT TO taskrunner.task DO ALSO NOTHING",
    "CREATE TEMP TABLE probe (id uuid REFERENCES taskrunner.task (id))",
    "CREATE STATISTICS taskrunner.spy ON tenant, type FROM taskrunner.task",
    "ALTER TABLE taskrunner.task_history DETACH PARTITION taskrunner.task_history_default",
    "CREATE TEMP TABLE heir () INHERITS (taskrunner.task)",
    "TRUNCATE taskrunner.task",
    "LOCK TABLE taskrunner.task IN ACCESS EXCLUSIVE MODE",
]


def test_whatever_a_mapped_login_sets_makes_or_alters_it_sees_its_own_tenant(filled: Roles) -> None:
    """SPEC TEN 54: each attempt by itself, then all in one session, which may have succeeded in some."""
    url = filled.mapped(MINE)
    with filled.database.connect() as owner:
        (admin,) = owner.execute("SELECT current_user").fetchone() or ("",)
        owner.execute(f"GRANT TEMPORARY ON DATABASE {filled.database.name} TO PUBLIC")  # type: ignore[arg-type]
    attempts = [one.format(prefix=filled.prefix, admin=admin) for one in SETTINGS]
    for attempt in attempts:
        with connected(url) as conn:
            tried(conn, attempt)
            assert own_only(conn), attempt
    with connected(url) as conn:
        for attempt in attempts:
            tried(conn, attempt)
            assert own_only(conn), attempt
        check_only(conn, filled, MINE)
    with connected(url) as conn:  # what it set for its next sessions
        check_only(conn, filled, MINE)


def tried(conn: Connection, attempt: str) -> None:
    try:
        conn.execute(attempt)  # type: ignore[arg-type]  # an attempt
    except psycopg.Error:
        conn.rollback()


def own_only(conn: Connection) -> bool:
    rows = conn.execute("SELECT tenant FROM taskrunner.task").fetchall()
    return {tenant for (tenant,) in rows} == {MINE}


def test_row_security_that_is_switched_off_is_an_error_and_no_row(mapped: Connection) -> None:
    mapped.execute("SET row_security = off")
    with pytest.raises(errors.InsufficientPrivilege):
        mapped.execute("SELECT * FROM taskrunner.task")


def test_copy_gives_the_tenants_own_rows(filled: Roles, mapped: Connection) -> None:
    for statement in ("COPY taskrunner.task TO STDOUT", "COPY (SELECT * FROM taskrunner.task) TO STDOUT"):
        with mapped.cursor().copy(statement) as copy:
            text = b"".join(bytes(part) for part in copy).decode()
        assert MINE in text
        assert THEIRS not in text
        assert "default\tSecret" not in text.replace("acme\tdefault", "")
    with (
        pytest.raises(errors.InsufficientPrivilege),
        mapped.cursor().copy("COPY taskrunner.task_history_default TO STDOUT"),
    ):
        pass


LEAKS = """
CREATE FUNCTION pg_temp.leak(t text, p jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0000000001
    AS $$ BEGIN RAISE NOTICE 'row of %%: %%', t, p; RETURN true; END $$;
CREATE FUNCTION pg_temp.like_leak(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000000001
    AS $$ BEGIN RAISE NOTICE 'row of %%', $1; RETURN true; END $$;
CREATE OPERATOR pg_temp.<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.like_leak, RESTRICT = eqsel);
"""

LEAKING = [
    "SELECT * FROM taskrunner.{table} WHERE pg_temp.leak(tenant, to_jsonb({table}))",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM taskrunner.{table} WHERE pg_temp.leak(tenant, '{{}}')",
    "SELECT * FROM taskrunner.{table} WHERE tenant OPERATOR(pg_temp.<<<) 'x'",
    "EXPLAIN SELECT * FROM taskrunner.{table} WHERE tenant OPERATOR(pg_temp.<<<) 'x'",
    "SELECT count(*) FROM taskrunner.{table} GROUP BY pg_temp.leak(tenant, '{{}}')",
    "SELECT * FROM taskrunner.{table} ORDER BY pg_temp.leak(tenant, '{{}}')",
    "SELECT * FROM taskrunner.{table} a JOIN taskrunner.{table} b ON pg_temp.leak(b.tenant, '{{}}')",
    "SELECT 1 / (CASE WHEN tenant = 'globex' THEN 0 ELSE 1 END) FROM taskrunner.{table}",
    "SELECT * FROM taskrunner.{table} WHERE 1 / (CASE WHEN tenant = 'globex' THEN 0 ELSE 1 END) = 1",
    "SELECT * FROM taskrunner.{table} TABLESAMPLE BERNOULLI (100) WHERE pg_temp.leak(tenant, '{{}}')",
]


def test_functions_that_tell_what_they_are_given_are_given_the_tenants_own_rows(filled: Roles) -> None:
    with connected(filled.mapped(MINE)) as conn:
        told: list[str] = []
        conn.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        for command in LEAKS.replace("%%", "%").split(";\n"):
            tried(conn, command)
        for table in HELD:
            for leak in LEAKING:
                conn.execute(leak.format(table=table))  # type: ignore[arg-type]  # an attempt
        assert any(MINE in line for line in told), "the functions do tell"
        assert not [line for line in told if f"row of {THEIRS}" in line or "row of default" in line]


def test_statistics_of_the_columns_are_not_shown(mapped: Connection) -> None:
    assert mapped.execute(
        "SELECT count(*) FROM pg_stats WHERE schemaname = 'taskrunner' AND attname = 'tenant'"
    ).fetchone() == (0,)
    with pytest.raises(errors.InsufficientPrivilege):
        mapped.execute("SELECT * FROM pg_statistic")


def test_what_the_dashboard_looks_at_is_a_tenants_own_too(mapped: Connection) -> None:
    """The stamp by which pages learn of changes, the groups of dead letters, the types that are known."""
    assert db.run(mapped, db.Op(STAMP, {}, db.scalar))
    assert [len(group.ids) for group in db.run(mapped, reads.dead_groups()).groups] == [1]
    db.run(mapped, reads.known_types())


def test_weights_hosts_and_how_busy_runners_are_are_not_a_tenants_to_see(mapped: Connection) -> None:
    for column in ("weights", "limits"):
        with pytest.raises(errors.InsufficientPrivilege):
            mapped.execute(f"SELECT {column} FROM taskrunner.queue_settings")  # type: ignore[arg-type]
    for column in ("host", "pid", "running", "id"):
        with pytest.raises(errors.InsufficientPrivilege):
            mapped.execute(f"SELECT {column} FROM taskrunner.runner")  # type: ignore[arg-type]
    assert mapped.execute("SELECT queue, fair FROM taskrunner.queue_settings").fetchall() == [("default", True)]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ENDED = """(id, tenant, queue, type, {state} payload, meta, errors, finished_at, maturity_at, created_at, claim_no,
    priority, tries, crashes, max_retries) VALUES (gen_random_uuid(), %s, 'q', 'T', {value} '{{}}', '{{}}', '[]', now(),
    now(), now(), 1, 1, 0, 0, 0)"""
TASK = "INSERT INTO taskrunner.task (id, maturity_at, created_at, type, tenant"
INSERTS = {
    "task": TASK + ") VALUES (gen_random_uuid(), now(), now(), 'T', %s)",
    "its turn": TASK + f", fair_tenant) VALUES (gen_random_uuid(), now(), now(), 'T', '{MINE}', %s)",
    "history": "INSERT INTO taskrunner.task_history" + ENDED.format(state="state,", value="'cancelled',"),
    "dead letter": "INSERT INTO taskrunner.dead_letter" + ENDED.format(state="", value=""),
    "schedule": "INSERT INTO taskrunner.schedule (id, tenant, name, type, trigger, created_at)"
    " VALUES (gen_random_uuid(), %s, 'x', 'T', '* * * * *', now())",
    "key": "INSERT INTO taskrunner.idempotency_key VALUES (%s, 'T', 'x', gen_random_uuid(), now())",
    "stats": "INSERT INTO taskrunner.task_stats"
    " VALUES (now(), '00000000-0000-0000-0000-000000000000', %s, 'q', 'T', 'cancelled', 1, 0, 0, '{}', '{}')",
    "audit": "INSERT INTO taskrunner.audit (acted_at, tenant, actor, action, target) VALUES (now(), %s, 'a', 'b', 'c')",
}


@pytest.fixture(params=["mapped", "trusted"])
def writer(request: pytest.FixtureRequest, filled: Roles) -> Iterator[Connection]:
    """A login that is mapped, or a trusted one that is bound, in a transaction."""
    url = filled.mapped(MINE) if request.param == "mapped" else filled.login("user")
    with connected(url) as conn, conn.transaction(force_rollback=True):
        bound(conn, MINE)
        yield conn


def refused(conn: Connection, query: str, *values: Any) -> None:
    with pytest.raises(errors.InsufficientPrivilege), conn.transaction():
        conn.execute(query, values)  # type: ignore[arg-type]  # an attempt


@pytest.mark.parametrize("table", INSERTS)
def test_rows_of_another_tenant_cannot_be_written_and_own_ones_can(writer: Connection, table: str) -> None:
    for foreign in (THEIRS, "default", ""):
        refused(writer, INSERTS[table], foreign)
    assert writer.execute(INSERTS[table], [MINE]).rowcount == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("table", ["task", "dead_letter", "schedule", "idempotency_key", "dependency", "effect"])
def test_rows_of_another_tenant_are_neither_deleted_nor_locked(writer: Connection, filled: Roles, table: str) -> None:
    locked = writer.execute(f"SELECT to_jsonb(r)::text FROM taskrunner.{table} r FOR UPDATE").fetchall()  # type: ignore[arg-type]
    assert not [row for (row,) in locked if THEIRS in row]
    with filled.database.connect() as owner:
        foreign = f"SELECT count(*) FROM taskrunner.{table} r WHERE NOT to_jsonb(r)::text ~ %s"
        mine = "|".join([MINE, str(IDS[MINE]["task"])])
        before = owner.execute(foreign, [mine]).fetchone()  # type: ignore[arg-type]
    deleted = writer.execute(f"DELETE FROM taskrunner.{table} r RETURNING to_jsonb(r)::text").fetchall()  # type: ignore[arg-type]
    assert deleted
    assert not [row for (row,) in deleted if THEIRS in row]
    writer.execute("SELECT")
    with filled.database.connect() as owner:
        assert owner.execute(foreign, [mine]).fetchone() == before != (0,)  # type: ignore[arg-type]


@pytest.mark.parametrize("column", ["tenant", "id", "schedule_id", "tick_at", "created_at"])
def test_whose_a_task_is_and_which_tick_is_never_changed(writer: Connection, column: str) -> None:
    refused(writer, f"UPDATE taskrunner.task SET {column} = DEFAULT")


@pytest.mark.parametrize("table", ["dead_letter", "schedule", "idempotency_key", "task_stats"])
def test_no_row_is_given_to_another_tenant(writer: Connection, table: str) -> None:
    refused(writer, f"UPDATE taskrunner.{table} SET tenant = %s", THEIRS)


def test_an_update_of_everything_changes_the_tenants_own(writer: Connection) -> None:
    changed = writer.execute("UPDATE taskrunner.task SET priority = 7 RETURNING tenant").fetchall()
    assert {tenant for (tenant,) in changed} == {MINE}
    conflicting = (
        INSERTS["task"].replace("gen_random_uuid()", f"'{IDS[THEIRS]['task']}'")
        + " ON CONFLICT (id) DO UPDATE SET priority = 9"
    )
    refused(writer, conflicting, MINE)


def test_history_that_says_a_task_has_run_is_not_a_tenants_to_write(writer: Connection) -> None:
    for state in ("succeeded", "ignored"):
        refused(writer, INSERTS["history"].replace("'cancelled'", f"'{state}'"), MINE)
    for statement in ("UPDATE taskrunner.task_history SET payload = '{}'", "DELETE FROM taskrunner.task_history"):
        refused(writer, statement)


def test_a_tick_of_somebodys_schedule_cannot_be_taken(writer: Connection) -> None:
    tick = TASK + ", schedule_id, tick_at) VALUES (gen_random_uuid(), now(), now(), 'T', %s, %s, now())"
    refused(writer, tick, MINE, IDS[THEIRS]["schedule"])
    assert writer.execute(tick, [MINE, IDS[MINE]["schedule"]]).rowcount == 1


def test_no_task_is_made_to_wait_for_another_tenants(writer: Connection) -> None:
    mine, theirs = IDS[MINE], IDS[THEIRS]
    wait = "INSERT INTO taskrunner.dependency (parent_id, child_id, tenant) VALUES (%s, %s, %s)"
    for parent in (theirs["task"], theirs["dead"]):
        refused(writer, wait, parent, mine["child"], MINE)
    refused(writer, wait, mine["task"], theirs["child"], MINE)
    refused(writer, wait, mine["child"], mine["task"], THEIRS)
    for parent in (mine["child"], mine["dead"], uuid7()):
        assert writer.execute(wait, [parent, mine["task"], MINE]).rowcount == 1


def test_no_effect_is_put_into_another_tenants_task(writer: Connection) -> None:
    move = "UPDATE taskrunner.effect SET task_id = %s"
    for foreign in (IDS[THEIRS]["task"], IDS[THEIRS]["dead"]):
        refused(writer, move, foreign)
    refused(writer, "UPDATE taskrunner.effect SET value = '1'")
    assert writer.execute(move, [IDS[MINE]["child"]]).rowcount == 1


@pytest.mark.parametrize("table", ["runner", "queue_settings", "tenant_role", "schema_version", "task_log"])
def test_what_is_everybodys_or_the_runners_is_not_written_by_a_tenant(writer: Connection, table: str) -> None:
    refused(writer, f"DELETE FROM taskrunner.{table}")


def test_partitions_are_reached_through_their_parent_alone(writer: Connection, filled: Roles) -> None:
    partitions = [name for name in relations(filled) if name.startswith("task_history_")]
    assert len(partitions) == 2
    for name in partitions:
        for statement in ("SELECT FROM {}", "DELETE FROM {}", "INSERT INTO {} SELECT * FROM taskrunner.task_history"):
            refused(writer, statement.format(f"taskrunner.{name}"))


def test_a_grant_on_all_tables_by_mistake_lets_nobody_into_a_partition(filled: Roles) -> None:
    url = filled.mapped(MINE)
    with filled.database.connect() as owner:
        grant = sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA taskrunner TO {}").format(sql.Identifier(name_of(url)))
        owner.execute(grant)
    with connected(url) as conn:
        for name in relations(filled):
            if name.startswith("task_history_") or name == "tenant_role":
                assert seen(conn, name) == [], name


def test_a_reader_writes_nothing(filled: Roles) -> None:
    with connected(filled.login("reader")) as conn, conn.transaction(force_rollback=True):
        bound(conn, MINE)
        for name in [*HELD, "queue_settings", "runner"]:
            refused(conn, f"DELETE FROM taskrunner.{name}")
        for insert in INSERTS.values():
            refused(conn, insert, MINE)


# ── what row security costs those that it does not bind ──────────────────────────────────────────────────────────────


def test_every_table_that_holds_a_tenants_rows_is_under_row_security(filled: Roles) -> None:
    with filled.database.connect() as conn:
        without = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'taskrunner'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relrowsecurity ORDER BY relname"
        )
        assert {name for (name,) in without} - {"test_clock"} == {"queue_settings", "runner", "schema_version"}


def test_the_owners_plans_know_nothing_of_policies_and_a_tenants_ask_once_a_statement(
    filled: Roles, mapped: Connection
) -> None:
    query = "EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM taskrunner.task"
    plan: Callable[[Connection], str] = lambda conn: "\n".join(line for (line,) in conn.execute(query))  # type: ignore[arg-type,misc]  # noqa: E731
    assert "bound_tenant" in plan(mapped)
    assert "InitPlan" in plan(mapped)
    with filled.database.connect() as owner:
        owner.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{filled.prefix}_owner")))
        assert "bound_tenant" not in plan(owner)


def test_whose_a_login_is_is_found_by_the_key_among_ten_thousand(filled: Roles) -> None:
    with filled.database.connect() as owner:
        owner.execute(
            "INSERT INTO taskrunner.tenant_role SELECT 'login' || i, 't' || i FROM generate_series(1, 10000) i"
        )
        owner.execute("ANALYZE taskrunner.tenant_role")
    looked = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'tenant_role'"
    for url in (filled.login("user"), filled.mapped(MINE)):
        with psycopg.connect(url) as conn:
            conn.execute("SELECT count(*) FROM taskrunner.task")
            assert conn.execute(looked).fetchone() == (0, 1), "once a statement"
