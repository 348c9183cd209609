"""`context.session()` in its corners: lost replies at the commit, refused commits, misuse, parents, savepoints."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg
import pytest
from sqlalchemy import text

from taskrunner import AsyncTaskQueue, Task, events, register_task
from taskrunner.errors import TaskrunnerError
from tests.chaos.proxy import Proxy, Rule
from tests.engine import Engine

pytestmark = pytest.mark.anyio

NOTE = text("INSERT INTO ledger VALUES (:what)")
Made: TypeAlias = Callable[..., type[Task]]


@pytest.fixture
def made(engine: Engine) -> Made:
    """Return a function that registers a type by its `run()`, beside a ledger without constraints."""
    engine.conn.execute("CREATE TABLE ledger (what text)")

    def make(run: Any, *, next_try: Any = lambda _: None, **declared: Any) -> type[Task]:
        members = {"run": run, "next_try": next_try, "__module__": __name__, "__qualname__": "Made"}
        return register_task("Made", **declared)(type("Made", (Task,), members))

    return make


def ledger(engine: Engine) -> list[str]:
    return sorted(row[0] for row in engine.rows("SELECT what FROM ledger"))


async def _ended(engine: Engine, kind: type[Task], **settings: Any) -> Any:
    with engine.door() as door:
        async with engine.running(**settings) as running:
            (view,) = await running.ended(door.add(kind()).id)
    return view


async def on_loop(self: Task) -> str:
    async with self.context.session() as session:
        await session.execute(NOTE, {"what": "a"})
    return "well"


def in_thread(self: Task) -> str:
    with self.context.session() as session:
        session.execute(NOTE, {"what": "a"})
    return "well"


# ── the commit ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("run", [on_loop, in_thread])
@pytest.mark.parametrize("manner", ["before", "during", "after", "late"])
@pytest.mark.parametrize("statement", ["^COMMIT", "FOR UPDATE", "INSERT INTO ledger"])
async def test_a_lost_reply_neither_repeats_what_is_committed_nor_reports_what_is_not(
    engine: Engine, made: Made, run: Any, statement: str, manner: Any
) -> None:
    """SPEC ONC 56, CRA 36, FAULTS F15: `late` statements reach the server after the runner has given up on them."""
    kind = made(run, next_try=lambda _: 0.0)
    told = psycopg.conninfo.conninfo_to_dict(engine.url)
    with Proxy(f"{told['host']}/.s.PGSQL.{told.get('port', 5432)}") as proxy:
        way = {**told, "host": "127.0.0.1", "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
        direct, engine.url = engine.url, psycopg.conninfo.make_conninfo(**way)  # type: ignore[arg-type]
        proxy.rules.append(Rule("taskrunner runner session", statement, manner, most=1))
        try:
            with engine.door() as door:
                id_ = door.add(kind()).id
                async with engine.running() as running:
                    if manner == "late":
                        while not proxy.hits():  # noqa: ASYNC110 - the proxy is a thread
                            await asyncio.sleep(0.01)
                        await asyncio.to_thread(proxy.let_go)
                    (view,) = await running.ended(id_)
        finally:
            engine.url = direct
        assert proxy.hits() == 1
    assert (view.state, view.result) == ("succeeded", "well")
    assert ledger(engine) == ["a"]
    assert engine.ends(id_) == 1
    if statement == "^COMMIT" and manner == "after":
        assert running.runs(id_) == 1


@pytest.mark.parametrize("run", [on_loop, in_thread])
async def test_a_commit_that_the_database_refuses_is_a_failed_try(engine: Engine, made: Made, run: Any) -> None:
    engine.conn.execute("ALTER TABLE ledger ADD UNIQUE (what) DEFERRABLE INITIALLY DEFERRED")
    engine.conn.execute("INSERT INTO ledger VALUES ('a')")
    view = await _ended(engine, made(run, next_try=lambda task: 0.0 if task.tries < 1 else None))
    assert (view.state, view.tries) == ("dead", 2)
    assert "duplicate key value" in view.errors[-1]["message"]
    assert ledger(engine) == ["a"]


@pytest.mark.parametrize("run", [on_loop, in_thread])
async def test_a_parent_and_a_child_that_waits_for_it_go_on_in_the_same_commit(
    engine: Engine, made: Made, run: Any
) -> None:
    """SPEC ONC 56, FLO 57."""
    kind = made(run)
    with engine.door() as door:
        parent = door.add(kind()).id
        child = door.add(kind(), after=[parent]).id
        assert engine.view(child).state == "blocked"
        async with engine.running() as running:
            views = await running.ended(parent, child)
    assert [view.state for view in views] == ["succeeded", "succeeded"]
    assert ledger(engine) == ["a", "a"]


@pytest.mark.parametrize("run", [on_loop, in_thread])
async def test_a_connection_that_the_server_ended_while_nobody_had_it_is_replaced(
    engine: Engine, made: Made, run: Any
) -> None:
    kind = made(run)
    with engine.door() as door:
        async with engine.running() as running:
            await running.ended(door.add(kind()).id)
            engine.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'taskrunner runner session'"
            )
            (view,) = await running.ended(door.add(kind()).id)
    assert (view.state, view.tries) == ("succeeded", 0)
    assert ledger(engine) == ["a", "a"]


# ── what a task may do with it ───────────────────────────────────────────────────────────────────────────────────────


def _by_begin(session: Any) -> None:
    session.begin()


def _by_close(session: Any) -> None:
    session.close()


def _by_sql(session: Any) -> None:
    session.execute(text("COMMIT"))


def _by_sql_rollback(session: Any) -> None:
    session.execute(text(" rollback"))


@pytest.mark.parametrize("misuse", [_by_begin, _by_close, _by_sql, _by_sql_rollback])
async def test_whatever_would_end_the_transaction_is_refused(engine: Engine, made: Made, misuse: Any) -> None:
    """SPEC ONC 56."""

    def run(self: Task) -> str:
        with self.context.session() as session:
            session.execute(NOTE, {"what": "a"})
            with pytest.raises(TaskrunnerError, match=r"context\.session\(\)"):
                misuse(session)
            session.execute(NOTE, {"what": "b"})
            assert ledger(engine) == []
        return "well"

    assert (await _ended(engine, made(run))).result == "well"
    assert ledger(engine) == ["a", "b"]


async def test_a_commit_of_the_connection_beneath_is_refused_and_the_run_cannot_succeed(
    engine: Engine, made: Made
) -> None:
    """SPEC ONC 56: to SQLAlchemy the transaction is over by then."""

    def run(self: Task) -> None:
        with self.context.session() as session:
            session.execute(NOTE, {"what": "a"})
            with pytest.raises(TaskrunnerError, match=r"commit\(\) of context\.session\(\)"):
                session.connection().commit()

    assert (await _ended(engine, made(run))).state == "dead"
    assert ledger(engine) == []


async def test_a_savepoint_and_a_rollback_undo_effects_with_their_keys(engine: Engine, made: Made) -> None:
    def run(self: Task) -> list[int]:
        with self.context.session() as session:
            calls: list[int] = []

            def effect() -> int:
                session.execute(NOTE, {"what": f"effect {len(calls)}"})
                calls.append(1)
                return len(calls)

            savepoint = session.begin_nested()
            first = self.context.run_once("a", effect)
            savepoint.rollback()
            second = self.context.run_once("a", effect)
            session.rollback()
            third = self.context.run_once("a", effect)
            with session.begin_nested():
                session.execute(NOTE, {"what": "nested"})
            return [first, second, third, self.context.run_once("a", effect)]

    assert (await _ended(engine, made(run))).result == [1, 2, 3, 3]
    assert ledger(engine) == ["effect 2", "nested"]


async def test_an_error_out_of_the_block_undoes_it_though_the_task_goes_on(engine: Engine, made: Made) -> None:
    async def run(self: Task) -> str:
        for what in ("a", "b"):
            try:
                async with self.context.session() as session:
                    await session.execute(NOTE, {"what": what})
                    if what == "a":
                        raise KeyError(what)
            except KeyError:
                pass
        return "well"

    assert (await _ended(engine, made(run))).result == "well"
    assert ledger(engine) == ["b"]


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_what_is_enqueued_by_the_session_is_there_if_it_commits(engine: Engine, made: Made, way: str) -> None:
    """SPEC ENQ 11, ONC 56: a first try that fails leaves no task."""

    @register_task("Next")
    class Next(Task):
        tries_before: int

        async def run(self) -> int:
            return self.tries_before

    async def enqueue_on_loop(self: Task) -> None:
        async with (
            self.context.session() as session,
            AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door,
        ):
            await door.add(Next(tries_before=self.tries), connection=session)
        if self.tries == 0:
            raise RuntimeError("after the enqueue")

    def enqueue_in_thread(self: Task) -> None:
        with self.context.session() as session, engine.door() as door:
            door.add(Next(tries_before=self.tries), connection=session)
        if self.tries == 0:
            raise RuntimeError("after the enqueue")

    kind = made(enqueue_on_loop if way == "loop" else enqueue_in_thread, next_try=lambda _: 0.0)
    with engine.door() as door:
        async with engine.running() as running:
            await running.ended(door.add(kind()).id)
            (id_,) = (await running.until(events.Started, where=lambda event: running.runs(event.task_id) == 1))[-1:]
            await running.ended(id_.task_id)
    ended = engine.rows("SELECT type, result FROM taskrunner.task_history ORDER BY type DESC")
    assert ended == [("Next", 1), ("Made", None)]


async def test_run_once_after_the_block_is_stored_at_once(engine: Engine, made: Made) -> None:
    def run(self: Task) -> None:
        with self.context.session() as session:
            session.execute(NOTE, {"what": "a"})
        self.context.run_once("outside", lambda: 1)
        assert engine.value("SELECT count(*) FROM taskrunner.effect") == 1
        raise RuntimeError("all but the effect outside is undone")

    assert (await _ended(engine, made(run))).state == "dead"
    assert ledger(engine) == []
    assert engine.rows("SELECT key FROM taskrunner.effect") == [("outside",)]


async def test_a_session_that_does_nothing_costs_no_connection_and_a_run_has_one_only(
    engine: Engine, made: Made
) -> None:
    async def run(self: Task) -> bool:
        async with self.context.session() as session:
            pass
        return self.context.session() is session and not engine.backends("taskrunner runner session")

    assert (await _ended(engine, made(run))).result is True


async def test_the_session_is_sqlmodels_and_reads_committed_rows_whatever_the_default_is(
    engine: Engine, made: Made
) -> None:
    """FAULTS F20: progress and marks change the task's row while the session is open."""
    engine.conn.execute("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'serializable'")
    try:

        def run(self: Task) -> str:
            with self.context.session() as session:
                level = session.scalar(text("SHOW transaction_isolation"))
                engine.conn.execute("UPDATE taskrunner.task SET progress = '{}'")
                session.execute(NOTE, {"what": type(session).__mro__[1].__module__})
            return str(level)

        assert (await _ended(engine, made(run))).result == "read committed"
    finally:
        engine.conn.execute("ALTER ROLE CURRENT_USER RESET default_transaction_isolation")
    assert ledger(engine) == ["sqlmodel.orm.session"]


def test_who_asks_for_no_session_loads_no_orm() -> None:
    script = "import sys, taskrunner.runner, taskrunner.executors.child; print('sqlalchemy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )
