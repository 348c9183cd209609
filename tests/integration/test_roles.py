"""Roles: made by an owner who is no superuser, twice and at once, refused clearly; and what works with them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from taskrunner import TaskStatus, db, janitor, reads, register_task, roles, schema
from taskrunner.cli import main
from taskrunner.errors import AccessDenied, Conflict, InvalidArgument, NotFound
from taskrunner.queue import TaskQueue
from taskrunner.scheduler import Scheduler
from taskrunner.settings import Settings
from taskrunner.store import enqueue
from taskrunner.task import Task
from taskrunner.testing.database import Database, Server
from tests.engine import WAIT, Engine
from tests.roles import Roles, connected, name_of, roles_of, url_as

pytestmark = pytest.mark.anyio


@pytest.fixture
def lent(taskrunner_db: Database) -> Iterator[Roles]:
    with roles_of(taskrunner_db) as made:
        yield made


@contextmanager
def plain(server: Server, options: str) -> Iterator[tuple[Roles, str]]:
    """Lend a migrated database of a plain login's own; yields its names and the owner's URL."""
    database = Database(server, "postgres")
    with roles_of(Database(server, "not_there")) as lent:
        url = lent.login(options=options)
        name = f"{lent.prefix}_db"
        make = sql.SQL("CREATE DATABASE {} OWNER {}")
        server.execute(make.format(sql.Identifier(name), sql.Identifier(name_of(url))))
        lent.database = database = Database(server, name)
        owner = url_as(database.url, name_of(url))
        schema.migrate(owner)
        try:
            yield lent, owner
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def owners(url: str) -> set[str]:
    """Return who owns the schema, its tables and functions."""
    with connected(url) as conn:
        rows = conn.execute(
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'taskrunner'::regnamespace"
            " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'taskrunner'::regnamespace"
            " UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'taskrunner'"
        )
        return {name for (name,) in rows}


def made(url: str, prefix: str) -> list[str]:
    with connected(url) as conn:
        rows = conn.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1",
            [[f"{prefix}_{kind}" for kind in roles.KINDS]],
        )
        return [name.removeprefix(f"{prefix}_") for (name,) in rows]


# ── made ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plain_owner_who_may_create_roles_makes_them_and_goes_on_working(taskrunner_server: Server) -> None:
    """SPEC HIS 53: no superuser is needed; what was his is the group's, and he is a member of it."""
    with plain(taskrunner_server, "CREATEROLE") as (lent, owner):
        roles.create(owner, lent.prefix)
        assert made(owner, lent.prefix) == sorted(roles.KINDS)
        assert owners(owner) == {f"{lent.prefix}_owner"}
        with connected(owner) as conn:
            assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
            assert db.run(conn, enqueue.add([enqueue.NewTask(*new("Mail"))]))[0].created
            assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (1,)
        roles.create(owner, lent.prefix)
        schema.downgrade(owner)
        schema.migrate(owner)
        roles.create(owner, lent.prefix)


def new(kind: str) -> tuple[Any, ...]:
    from uuid_utils.compat import uuid7

    return (uuid7(), kind, "{}", "default")


def test_without_the_right_to_create_roles_the_owner_is_told_what_to_hand_to_whom(taskrunner_server: Server) -> None:
    with plain(taskrunner_server, "") as (lent, owner):
        with pytest.raises(AccessDenied, match="give an administrator") as refusal:
            roles.create(owner, lent.prefix)
        assert f"`taskrunner migrate --roles --role-prefix {lent.prefix} --sql`" in str(refusal.value)
        assert made(owner, lent.prefix) == []
        with connected(lent.database.url) as administrator:
            administrator.execute(roles.script(lent.prefix).encode())
        assert owners(owner) == {f"{lent.prefix}_owner"}
        with connected(owner) as conn:
            assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)
        roles.create(owner, lent.prefix)  # there is nothing left that he may not do


def test_an_owner_without_rights_on_the_database_keeps_the_schema(taskrunner_server: Server) -> None:
    with plain(taskrunner_server, "CREATEROLE") as (lent, owner):
        name = sql.Identifier(lent.database.name)
        taskrunner_server.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(name))
        roles.create(owner, lent.prefix)
        assert owners(owner) == {f"{lent.prefix}_owner", name_of(owner)}


def test_roles_are_made_once_by_any_number_at_once(lent: Roles) -> None:
    with ThreadPoolExecutor(6) as pool:
        for one in [pool.submit(roles.create, lent.database.url, lent.prefix) for _ in range(6)]:
            one.result()
    assert made(lent.database.url, lent.prefix) == sorted(roles.KINDS)


def test_roles_are_made_in_many_databases_at_once(taskrunner_server: Server) -> None:
    with plain(taskrunner_server, "CREATEROLE") as one, plain(taskrunner_server, "CREATEROLE") as other:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(roles.create, owner, lent.prefix) for lent, owner in (one, other)]:
                done.result()
        for lent, owner in (one, other):
            assert owners(owner) == {f"{lent.prefix}_owner"}


def test_the_roles_of_another_database_of_the_server_are_not_taken(lent: Roles, taskrunner_server: Server) -> None:
    roles.create(lent.database.url, lent.prefix)
    with plain(taskrunner_server, "CREATEROLE") as (_, owner):
        with pytest.raises(Conflict, match="--role-prefix NAME"):
            roles.create(owner, lent.prefix)
        assert owners(owner) == {name_of(owner)}


def test_roles_may_be_given_other_names_later(lent: Roles, engine: Engine) -> None:
    roles.create(lent.database.url, lent.prefix)
    engine.add(tenant="acme")
    with roles_of(lent.database) as others:
        roles.create(lent.database.url, others.prefix)
        assert owners(lent.database.url) == {f"{others.prefix}_owner"}
        for url, rows in ((others.login("worker"), 1), (others.mapped("acme"), 1), (lent.login("worker"), 0)):
            with connected(url) as conn:
                assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (rows,)


@pytest.mark.parametrize("prefix", ["", "Upper", "pg_x", "x; DROP TABLE x", "x'y", "1x", "x" * 41, "ü"])
def test_a_prefix_that_is_no_plain_word_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidArgument, match="names begin with"):
        roles.script(prefix)


def test_a_transaction_that_holds_a_table_is_not_waited_for_for_long(lent: Roles) -> None:
    with psycopg.connect(lent.database.url) as holder:
        holder.execute("LOCK TABLE taskrunner.audit IN ACCESS SHARE MODE")
        with pytest.raises(Conflict, match="holds on to a table"):
            roles.create(lent.database.url, lent.prefix)
    assert "postgres" in owners(lent.database.url)


# ── mapped ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def installed(lent: Roles) -> Roles:
    roles.create(lent.database.url, lent.prefix)
    return lent


def test_a_login_is_mapped_anew_listed_and_unmapped(installed: Roles) -> None:
    name = name_of(installed.mapped("acme"))
    with installed.database.connect() as conn:
        db.run(conn, roles.map_login(name, "globex"))
        assert db.run(conn, roles.mappings()) == [roles.Mapping(name, "globex", able=True)]
        installed.database.server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
        assert db.run(conn, roles.mappings()) == [roles.Mapping(name, "globex", able=False)]
        assert db.run(conn, roles.unmap_login(name)) == "globex"
        with pytest.raises(NotFound, match="mapped to no tenant"):
            db.run(conn, roles.unmap_login(name))


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("worker", "", "member of"),
        ("owner", "", "owns the tables"),
        ("user", "", "trusted"),
        ("reader", "", "trusted"),
        (None, "SUPERUSER", "superuser"),
        (None, "BYPASSRLS", "BYPASSRLS"),
    ],
)
def test_a_login_that_would_see_more_than_its_tenant_is_not_mapped(
    installed: Roles, kind: str | None, options: str, why: str
) -> None:
    name = name_of(installed.login(kind, options))
    with installed.database.connect() as conn:
        with pytest.raises(Conflict, match=why):
            db.run(conn, roles.map_login(name, "acme"))
        assert db.run(conn, roles.mappings()) == []


def test_what_cannot_be_mapped_is_said(lent: Roles) -> None:
    nobody = f"{lent.prefix}_nobody"  # roles are the server's, and other databases' tests make theirs on it meanwhile
    with lent.database.connect() as conn:
        roles.create(lent.database.url, lent.prefix)
        with pytest.raises(NotFound, match=f"CREATE ROLE {nobody} LOGIN"):
            db.run(conn, roles.map_login(nobody, "acme"))
        with pytest.raises(InvalidArgument):
            db.run(conn, roles.map_login(nobody, ""))
        gone = [sql.Identifier(f"{lent.prefix}_{name}") for name in ("tenant", "gone")]
        conn.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(*gone))
        with pytest.raises(Conflict, match="migrate --roles"):
            db.run(conn, roles.map_login(nobody, "acme"))
        conn.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(*reversed(gone)))
    with connected(lent.login("worker")) as worker, pytest.raises(AccessDenied):
        db.run(worker, roles.mappings())


# ── at work ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def kinds(engine: Engine) -> None:
    @register_task("Works")
    class Works(Task):
        async def run(self) -> str:
            return "done"

    @register_task("Fails", max_retries=1)
    class Fails(Task):
        async def run(self) -> TaskStatus:
            return TaskStatus.FAILURE

        def next_try(self) -> float | None:
            return 0 if self.tries == 0 else None


async def test_a_runner_of_the_workers_role_runs_retries_buries_and_counts_for_all_tenants(
    engine: Engine, kinds: None, installed: Roles
) -> None:
    """Into partitions, and out of fair queues, without a grant on a partition."""
    await asyncio.to_thread(partitioned, engine.url)
    engine.add(3, type="Works", tenant="acme")
    ids = [*engine.add(2, type="Works", tenant="acme"), *engine.add(2, type="Fails", tenant="globex")]
    engine.conn.execute("INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('turns', true)")
    ids += engine.add(5, type="Works", queue="turns", tenant="acme")
    worker = Engine(Database(engine.db.server, engine.db.name), engine.registry)
    worker.url = installed.login("worker")
    async with worker.running() as running:
        views = await running.ended(*ids[:4])
    worker.close()
    assert [view.state for view in views] == ["succeeded", "succeeded", "dead", "dead"]
    assert [len(view.errors) for view in views] == [0, 0, 2, 2]
    assert engine.value("SELECT count(*) FROM ONLY taskrunner.task_history_default") == 0
    assert engine.do(reads.stats("globex"))["dead"] == 2
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats WHERE outcome = 'succeeded'") >= 5


def partitioned(url: str) -> janitor.Maintained:
    """Do the janitor's work by this login."""

    async def maintain() -> janitor.Maintained:
        link = db.Link(url, name="janitor")
        try:
            return await janitor.maintain(link, Settings())
        finally:
            await link.close()

    return asyncio.run(maintain())


async def test_a_task_of_a_mapped_login_is_run_by_a_worker_and_its_result_is_seen(
    engine: Engine, kinds: None, installed: Roles
) -> None:
    worker = Engine(Database(engine.db.server, engine.db.name), engine.registry)
    worker.url = installed.login("worker")
    kind = engine.registry.get("Works").cls

    def ask() -> Any:
        with TaskQueue.connect(installed.mapped("acme"), tenant="acme", registry=engine.registry) as door:
            return door.result(door.add(kind()).id, timeout=WAIT)

    async with worker.running():
        assert await asyncio.to_thread(ask) == "done"
    worker.close()


async def test_a_scheduler_of_the_workers_role_ticks_and_says_that_partitions_are_not_its_own(
    engine: Engine, installed: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    @register_task("Ticks", timedelta(hours=1))
    class Ticks(Task):
        async def run(self) -> None: ...

    scheduler = Scheduler(installed.login("worker"), engine.registry, Settings(poll=timedelta(milliseconds=20)))
    life = asyncio.create_task(scheduler.run())
    async with asyncio.timeout(WAIT):
        while not (engine.value("SELECT count(*) FROM taskrunner.task") and "maintenance" in caplog.text):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    scheduler.stop()
    await life
    assert engine.value("SELECT type FROM taskrunner.task") == "Ticks"


def test_a_member_of_the_owners_role_migrates_maintains_and_maps(installed: Roles) -> None:
    url = installed.login("owner")
    schema.migrate(url)
    done = partitioned(url)
    assert done.created
    other = installed.login("owner")
    for table in ("task_history_default", done.created[-1]):
        with connected(url) as conn:
            assert conn.execute(f"SELECT count(*) FROM taskrunner.{table}").fetchone() == (0,)  # type: ignore[arg-type]
    assert partitioned(other).blocked == []
    with connected(other) as conn:
        conn.execute(f"DROP TABLE taskrunner.{done.created[-1]}")  # type: ignore[arg-type]
        assert db.run(conn, roles.mappings()) == []


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(lent: Roles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run commands in this process."""
    monkeypatch.setenv("DATABASE_URL", lent.database.url)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_roles_are_made_and_logins_mapped_from_the_command_line(cli: Cli, lent: Roles) -> None:
    code, out, _ = cli("migrate", "--roles", "--role-prefix", lent.prefix, "--json")
    assert code == 0
    assert json.loads(out)["roles"] == [f"{lent.prefix}_{kind}" for kind in roles.KINDS]
    name = name_of(lent.login())
    assert cli("tenants", "list")[1].strip() == "no login is mapped to a tenant"
    assert cli("tenants", "map", name, "acme")[0] == 0
    assert json.loads(cli("tenants", "list", "--json")[1]) == [{"login": name, "tenant": "acme", "able": True}]
    assert name in cli("tenants", "list")[1]
    assert cli("tenants", "unmap", name)[0] == 0
    code, _, err = cli("tenants", "unmap", name)
    assert (code, "mapped to no tenant" in err) == (1, True)


def test_the_script_for_an_administrator_is_printed_and_changes_nothing(cli: Cli, lent: Roles) -> None:
    code, out, _ = cli("migrate", "--roles", "--role-prefix", lent.prefix, "--sql")
    assert (code, f"GRANT USAGE ON SCHEMA taskrunner TO {lent.prefix}_worker" in out) == (0, True)
    assert made(lent.database.url, lent.prefix) == []
    with connected(lent.database.url) as administrator:
        administrator.execute(out.encode())
    assert made(lent.database.url, lent.prefix) == sorted(roles.KINDS)


@pytest.mark.parametrize("who", ["owner", "trusted", "mapped"])
def test_the_status_and_the_lists_of_one_tenant_are_its_own(
    cli: Cli, lent: Roles, engine: Engine, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    roles.create(lent.database.url, lent.prefix)
    mine, _ = engine.add(tenant="acme", queue="mine"), engine.add(5, tenant="globex", queue="theirs")
    engine.conn.execute(
        "INSERT INTO taskrunner.queue_settings (queue, fair, weights) VALUES ('mine', true, %s)", ['{"globex": 9}']
    )
    url = {"owner": lent.database.url, "trusted": None, "mapped": None}[who] or (
        lent.mapped("acme") if who == "mapped" else lent.login("user")
    )
    monkeypatch.setenv("DATABASE_URL", url)
    code, out, err = cli("status", "--tenant", "acme", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["tasks"]["pending"], [queue["name"] for queue in found["queues"]]) == (1, ["mine"])
    assert (found["queues"][0]["fair"], found["queues"][0]["weights"], found["runners"]) == (True, {}, [])
    assert "globex" not in out
    listed = json.loads(cli("tasks", "list", "--tenant", "acme", "--json")[1])
    assert [task["id"] for task in listed] == [str(mine[0])]
    assert cli("status", "--tenant", "acme")[0] == 0
    assert json.loads(cli("dead", "list", "--tenant", "acme", "--json")[1]) == []


def test_a_login_that_may_not_gets_one_line(cli: Cli, lent: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    roles.create(lent.database.url, lent.prefix)
    monkeypatch.setenv("DATABASE_URL", lent.mapped("acme"))
    for command in (["tenants", "list"], ["status"], ["queues", "pause", "mail"]):
        code, _, err = cli(*command)
        assert (code, err.count("\n")) == (1, 1), err
        assert err.startswith("error: permission denied"), err
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("who", ["owner", "trusted", "mapped"])
def test_commands_for_one_tenant_do_not_find_anothers_task(
    cli: Cli, lent: Roles, engine: Engine, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    roles.create(lent.database.url, lent.prefix)
    (mine,), (theirs,) = engine.add(tenant="acme"), engine.add(tenant="globex")
    login = {"owner": lambda: engine.url, "trusted": lambda: lent.login("user"), "mapped": lambda: lent.mapped("acme")}
    monkeypatch.setenv("DATABASE_URL", login[who]())
    steering = [("show",), ("retry",), ("reschedule", "--delay", "1h"), ("delete",)]
    for word, *more in [*steering, ("cancel",)]:
        code, _, err = cli("tasks", word, str(theirs), *more, "--tenant", "acme")
        assert (code, "no task" in err) == (1, True), err
    for word in ("show", "requeue", "delete"):
        assert cli("dead", word, str(theirs), "--tenant", "acme", *(["--yes"] if word == "delete" else []))[0] == 1
    for word, *more in steering:
        assert cli("tasks", word, str(mine), *more, "--tenant", "acme")[0] == 0, word
    assert (engine.view(mine).state, engine.view(theirs).state) == ("cancelled", "pending")
