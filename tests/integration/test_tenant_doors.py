"""Doors that are bound to a tenant, by logins of all kinds, in transactions of others, and behind a pooler."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from taskrunner import fairness, group, register_task, roles
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.errors import AccessDenied, InvalidArgument, NotFound
from taskrunner.queue import TaskQueue
from taskrunner.store import task as store
from taskrunner.store.fresh import insert
from taskrunner.store.task import Ending
from taskrunner.task import Task
from taskrunner.tenancy import run_as
from tests.engine import Engine
from tests.pooler import pooler
from tests.roles import Roles, bound, connected, roles_of

pytestmark = pytest.mark.anyio

LOGINS = ["owner", "trusted", "mapped"]
BOUND = "SELECT current_setting('taskrunner.tenant', true)"


class AnyDoor:
    """Both doors by the same words: the test is written once."""

    def __init__(self, door: TaskQueue | AsyncTaskQueue) -> None:
        self._door = door

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._door, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        return call


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two doors."""
    return str(request.param)


@asynccontextmanager
async def opened(kind: str, url: str, engine: Engine, tenant: str | None) -> AsyncIterator[AnyDoor]:
    if kind == "sync":
        with TaskQueue.connect(url, tenant=tenant, registry=engine.registry) as queue:
            yield AnyDoor(queue)
    else:
        async with AsyncTaskQueue.connect(url, tenant=tenant, registry=engine.registry) as queue:
            yield AnyDoor(queue)


@pytest.fixture
def mail(engine: Engine) -> type[Task]:
    @register_task("Mail")
    class Mail(Task):
        to: str = "a@b.c"

        async def run(self) -> str:
            return self.to

    return Mail


@pytest.fixture
def once(engine: Engine) -> type[Task]:
    @register_task("Once", unique=True)
    class Once(Task):
        async def run(self) -> None: ...

    return Once


@pytest.fixture
def installed(engine: Engine) -> Iterator[Roles]:
    with roles_of(engine.db) as lent:
        roles.create(lent.database.url, lent.prefix)
        yield lent


def login(installed: Roles, kind: str, tenant: str = "acme") -> str:
    """Return the URL of a login that may work for the tenant."""
    if kind == "mapped":
        return installed.mapped(tenant)
    return installed.login("user") if kind == "trusted" else installed.database.url


# ── what a bound door does ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", LOGINS)
async def test_a_bound_door_adds_finds_and_steers_its_tenants_tasks(
    engine: Engine, mail: Any, once: Any, installed: Roles, kind: str, who: str
) -> None:
    """SPEC TEN 54."""
    engine.add(3, type="Mail", tenant="globex")
    async with opened(kind, login(installed, who), engine, "acme") as door:
        one = await door.add(mail())
        many = await door.add_many([mail(), mail()], spacing=60)
        first, second = await door.add(once()), await door.add(once())
        assert (first.created, second.created, second.id) == (True, False, first.id)
        keyed = [await door.add(mail(), idempotency_key="k") for _ in range(2)]
        assert [answer.created for answer in keyed] == [True, False]
        assert [(await door.get(added.id)).tenant for added in (one, *many, first, keyed[0])] == ["acme"] * 5
        assert (await door.stats())["pending"] == 5
        assert await door.cancel(one.id) == "cancelled"
        await door.delete(many[0].id)
        await door.reschedule(many[1].id, delay=0)
        assert await door.retry(first.id) == first.id
        assert (await door.stats()) == {**(await door.stats()), "pending": 3, "cancelled": 2}
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE tenant = 'globex'") == 3


@pytest.mark.parametrize("who", LOGINS)
async def test_a_bound_door_replaces_and_steers_by_key_what_is_its_tenants(
    engine: Engine, mail: Any, installed: Roles, kind: str, who: str
) -> None:
    """SPEC TEN 54, UNQ 15, 17."""
    engine.conn.execute("INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('fair', true)")
    (foreign,) = engine.add(type="Mail", tenant="globex", unique_key="key:k")
    runner = engine.join("Mail")
    async with opened(kind, login(installed, who), engine, "acme") as door:
        first = await door.add(mail(), key="k", delay=3600)
        for queue in ("fair", "default"):
            again = await door.add(mail(), key="k", on_conflict="replace", queue=queue)
            assert (again.id, again.replaced) == (first.id, True)
        assert engine.rows("SELECT fair_tenant FROM taskrunner.task WHERE id = %s", first.id) == [(None,)]
        assert len(engine.claim(runner, 2, types=("Mail",))) == 2
        successor = await door.add(mail(), key="k", on_conflict="replace")
        assert (await door.get(successor.id)).state == "pending"
        assert (await door.get_by_key("Mail", "k")).id == first.id
        assert await door.cancel(successor.id) == "cancelled"
        other = await door.add(mail(), key="k", on_conflict="replace")
        assert await door.cancel_by_key(mail, "k") == "requested"
        with pytest.raises(InvalidArgument):
            await door.get_by_key("Mail", "k", tenant="globex")
    async with opened(kind, engine.url, engine, "initech") as door:
        for id_ in (foreign, other.id):
            with pytest.raises(NotFound):
                await door.get(id_)
            with pytest.raises(NotFound):
                await door.cancel(id_)
        with pytest.raises(NotFound):
            await door.get_by_key("Mail", "k")


@pytest.mark.parametrize("who", LOGINS)
async def test_a_bound_door_requeues_its_tenants_dead(
    engine: Engine, mail: Any, installed: Roles, kind: str, who: str
) -> None:
    dead = bury(engine, "acme")
    async with opened(kind, login(installed, who), engine, "acme") as door:
        new = await door.retry(dead)
        assert (await door.get(new)).tenant == "acme"


@pytest.mark.parametrize("who", LOGINS)
@pytest.mark.parametrize("state", ["pending", "running", "cancelled", "dead"])
async def test_another_tenants_task_is_not_found_whatever_is_asked_of_it(
    engine: Engine, mail: Any, installed: Roles, kind: str, who: str, state: str
) -> None:
    """SPEC TEN 54: every method of the doors that takes an id, also those that are yet to be written."""
    foreign = in_state(engine, state)
    before = snapshot(engine)
    async with opened(kind, login(installed, who), engine, "acme") as door:
        for name, arguments in methods_by_id(foreign):
            with pytest.raises(NotFound):
                await all_of(await getattr(door, name)(**arguments))
            assert snapshot(engine) == before, name


async def all_of(answer: Any) -> None:
    """Take what an iterator has: only then does it ask."""
    if hasattr(answer, "__aiter__"):
        _ = [one async for one in answer]
    elif hasattr(answer, "__next__"):
        _ = list(answer)


def methods_by_id(foreign: UUID) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the doors' methods whose first parameter is an id, or several, with arguments."""
    found = []
    for name, method in inspect.getmembers(TaskQueue, inspect.isfunction):
        parameters = list(inspect.signature(method).parameters.values())[1:]
        if name.startswith("_") or not parameters or parameters[0].name not in ("id_", "ids"):
            continue
        required = {one.name: text_for(one) for one in parameters[1:] if one.default is one.empty}
        wait = {"timeout": 5} if any(one.name == "timeout" for one in parameters) else {}
        first = {parameters[0].name: [foreign] if parameters[0].name == "ids" else foreign}
        found.append((name, {**first, **required, **wait}))
    assert {"get", "cancel", "retry", "reschedule", "delete", "wait", "result"} <= {name for name, _ in found}
    return iter(found)


def text_for(parameter: inspect.Parameter) -> Any:
    choices = get_args(parameter.annotation)
    return choices[0] if choices and isinstance(choices[0], str) else "x"


def snapshot(engine: Engine) -> list[Any]:
    return [
        engine.rows(f"SELECT to_jsonb(r) - 'awaited' FROM taskrunner.{table} r ORDER BY r.id")
        for table in ("task", "task_history", "dead_letter")
    ]


def in_state(engine: Engine, state: str) -> UUID:
    """Return the id of a task of the other tenant."""
    if state == "dead":
        return bury(engine, "globex")
    if state == "cancelled":
        with engine.door() as door:
            (id_,) = engine.add(type="Mail", tenant="globex", delay=timedelta(hours=1))
            door.cancel(id_)
            return id_
    (id_,) = engine.add(type="Mail", tenant="globex")
    if state == "running":
        engine.claim(engine.join("Mail"), types=("Mail",))
    return id_


def bury(engine: Engine, tenant: str) -> UUID:
    engine.add(type="Mail", tenant=tenant, priority=1000)
    runner = engine.join("Mail")
    (claim,) = engine.claim(runner, types=("Mail",))
    (buried,) = engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
    return buried


@pytest.mark.parametrize("who", LOGINS)
async def test_flows_keys_and_schedules_are_a_tenants_own(
    engine: Engine, mail: Any, installed: Roles, kind: str, who: str
) -> None:
    """What a login may do to its tenant's rows is enough for all that a door does."""
    with TaskQueue.connect(engine.url, tenant="globex", registry=engine.registry) as foreign:
        foreign.schedules.add("nightly", mail(), timedelta(hours=1))
        theirs = foreign.add(mail(), key="k")
    async with opened(kind, login(installed, who), engine, "acme") as door:
        ids = await door.add_flow(group(mail(), mail()).then(mail()))
        assert set((await door.cancel_flow(ids[0])).values()) == {"cancelled"}
        dead = bury(engine, "acme")
        after = await door.add(mail(), after=[dead], on_parent_failure="wait")
        assert set(await door.retry_flow(dead)) == {dead}
        first = await door.add(mail(), key="k")
        (claim,) = [one for one in engine.claim(engine.join("Mail"), 10, ("Mail",)) if one.id == first.id]
        second = await door.add(mail(to="b@b.c"), key="k", on_conflict="replace")
        assert (await door.get(second.id)).payload == {"to": "b@b.c"}
        assert (await door.get_by_key("Mail", "k")).id == claim.id != theirs.id
        assert await door.cancel_by_key("Mail", "k") == "requested"
        await schedules_are_own(door._door, mail, kind)
        assert (await door.get(after.id)).tenant == "acme"
    assert engine.rows("SELECT name FROM taskrunner.schedule") == [("nightly",)]
    assert engine.view(theirs.id).state in ("pending", "running")


async def schedules_are_own(door: TaskQueue | AsyncTaskQueue, mail: Any, kind: str) -> None:
    own = AnyDoor(door.schedules)  # type: ignore[arg-type]
    assert [one.tenant for one in await own.list()] == []
    for call in (own.get, own.pause, own.remove, own.run):
        with pytest.raises(NotFound):
            await call("nightly")
    with pytest.raises(InvalidArgument):
        await own.get("nightly", tenant="globex")
    await own.add("nightly", mail(), timedelta(hours=2))
    assert (await own.pause("nightly")).paused
    assert not (await own.resume("nightly")).paused
    await own.change("nightly", payload={"to": "c@b.c"})
    assert (await own.run("nightly")).created
    assert [one.tenant for one in await own.list()] == ["acme"]
    await own.remove("nightly")


# ── what it refuses ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bound_door_adds_nothing_for_another_tenant(engine: Engine, mail: Any, kind: str) -> None:
    async with opened(kind, engine.url, engine, "acme") as door:
        for add in (door.add(mail(), tenant="globex"), door.add_many([mail()], tenant="globex")):
            with pytest.raises(InvalidArgument, match=r"acme's, not 'globex'"):
                await add
        assert (await door.add(mail(), tenant="acme")).created
    assert engine.rows("SELECT tenant FROM taskrunner.task") == [("acme",)]


async def test_queues_are_not_a_bound_doors_to_set(engine: Engine, kind: str) -> None:
    async with opened(kind, engine.url, engine, "acme") as door:
        for call in (door.set_fair("default"), door.set_weight("default", "acme", 1000)):
            with pytest.raises(InvalidArgument, match="queues are everybody's"):
                await call
    assert engine.rows("SELECT * FROM taskrunner.queue_settings") == []


async def test_an_open_door_makes_queues_fair_and_gives_weights(engine: Engine, kind: str) -> None:
    async with opened(kind, engine.url, engine, None) as door:
        assert await door.set_fair("mail")
        await door.set_weight("mail", "acme", 3)
        assert engine.rows("SELECT queue, fair, weights FROM taskrunner.queue_settings") == [
            ("mail", True, {"acme": 3})
        ]
        await door.set_fair("mail", False)
        assert engine.value("SELECT fair FROM taskrunner.queue_settings") is False
    assert fairness.HEAVIEST == 1000


@pytest.mark.parametrize("name", ["", "x" * 201, 7, "nul\0"])
async def test_a_tenant_that_cannot_be_one_is_refused_before_anything_is_opened(
    engine: Engine, kind: str, name: Any
) -> None:
    with pytest.raises(InvalidArgument, match="tenant"):
        async with opened(kind, "postgresql://nobody@nowhere.invalid/x", engine, name):
            pass


async def test_a_trusted_login_without_a_tenant_sees_and_adds_nothing(
    engine: Engine, mail: Any, installed: Roles, kind: str
) -> None:
    (there,) = engine.add(type="Mail")
    async with opened(kind, installed.login("user"), engine, None) as door:
        assert set((await door.stats()).values()) == {0}
        with pytest.raises(NotFound):
            await door.get(there)
        with pytest.raises(AccessDenied, match="tenant="):
            await door.add(mail())
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1


async def test_a_mapped_logins_door_is_its_tenants_whatever_it_says(
    engine: Engine, mail: Any, installed: Roles, kind: str
) -> None:
    (there,) = engine.add(type="Mail", tenant="globex")
    async with opened(kind, installed.mapped("acme"), engine, "globex") as door:
        assert set((await door.stats()).values()) == {0}
        for call in (door.add(mail()), door.add_many([mail()])):
            with pytest.raises(AccessDenied, match="row-level security"):
                await call
        with pytest.raises(NotFound):
            await door.cancel(there)
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1


# ── transactions of others ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", LOGINS)
def test_in_a_transaction_of_the_callers_the_door_is_bound_and_the_caller_is_as_before(
    engine: Engine, mail: Any, once: Any, installed: Roles, who: str
) -> None:
    url = login(installed, who)
    with TaskQueue.connect(url, tenant="acme", registry=engine.registry) as door, psycopg.connect(url) as conn:
        for before in (None, "globex"):
            if before is not None:
                bound(conn, before)
            door.add(mail(), connection=conn)
            door.add_many([mail(), once()], connection=conn)
            assert conn.execute(BOUND).fetchone() == (before or "",)
            conn.rollback()
        assert engine.value("SELECT count(*) FROM taskrunner.task") == 0
        added = door.add(mail(), connection=conn)
        conn.commit()
        assert conn.execute(BOUND).fetchone() in ((None,), ("",))
        assert door.get(added.id).tenant == "acme"


def test_in_a_transaction_of_the_callers_a_refusal_leaves_his_binding_and_his_transaction(
    engine: Engine, mail: Any, installed: Roles
) -> None:
    url = installed.mapped("acme")
    with TaskQueue.connect(url, tenant="globex", registry=engine.registry) as door, psycopg.connect(url) as conn:
        bound(conn, "acme")
        with pytest.raises(AccessDenied):
            door.add(mail(), connection=conn)
        assert conn.execute(BOUND).fetchone() == ("acme",)


def test_a_session_of_sqlalchemys_is_bound_for_the_add_alone(engine: Engine, mail: Any, installed: Roles) -> None:
    url = installed.login("user")
    made = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with TaskQueue.connect(url, tenant="acme", registry=engine.registry) as door, Session(made) as session:
        added = door.add(mail(), connection=session)
        assert session.execute(text(BOUND)).scalar() == ""
        assert session.execute(text("SELECT count(*) FROM taskrunner.task")).scalar() == 0
        session.commit()
        assert door.get(added.id).tenant == "acme"
    made.dispose()


async def test_an_asynchronous_transaction_of_the_callers_is_as_before(
    engine: Engine, mail: Any, installed: Roles
) -> None:
    url = installed.login("user")
    async with (
        AsyncTaskQueue.connect(url, tenant="acme", registry=engine.registry) as door,
        await psycopg.AsyncConnection.connect(url) as conn,
    ):
        added = await door.add(mail(), connection=conn)
        assert await (await conn.execute(BOUND)).fetchone() == ("",)
        await conn.commit()
        assert (await door.get(added.id)).tenant == "acme"


# ── what stays on a session ──────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_stays_bound_on_a_doors_own_connections(
    engine: Engine, mail: Any, once: Any, installed: Roles, kind: str
) -> None:
    """SPEC TEN 54: also where a statement has failed half-way."""
    async with opened(kind, installed.login("user"), engine, "acme") as door:
        await door.add(mail())
        await door.add_many([mail(), once()])
        await door.stats()
        with pytest.raises(NotFound):
            await door.cancel(uuid7())
        pool = door._door._pool
        for _ in range(4):
            if kind == "sync":
                with pool.connection() as conn:
                    assert conn.execute(BOUND).fetchone() in ((None,), ("",))
                    assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)
            else:
                async with pool.connection() as conn:
                    assert await (await conn.execute(BOUND)).fetchone() in ((None,), ("",))


async def test_behind_a_transaction_pooler_one_clients_binding_is_nobody_elses(
    engine: Engine, mail: Any, once: Any, installed: Roles, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC TEN 54: one server session is shared by two doors and by somebody who is unbound."""
    monkeypatch.setenv("TASKRUNNER_PREPARE", "false")
    monkeypatch.setenv("TASKRUNNER_LISTEN", "false")
    with pooler(engine.url, installed.login("user")) as url:
        async with opened(kind, url, engine, "acme") as ours, opened(kind, url, engine, "globex") as theirs:
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as unbound:
                (backend,) = unbound.execute("SELECT pg_backend_pid()").fetchone() or (0,)
                for _ in range(5):
                    mine, foreign = await ours.add(mail()), await theirs.add(mail())
                    await ours.add_many([mail()], spacing=1)
                    await ours.add(once(), idempotency_key="k")
                    assert unbound.execute("SELECT pg_backend_pid()").fetchone() == (backend,)
                    assert unbound.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)
                    for door, id_ in ((ours, foreign.id), (theirs, mine.id)):
                        with pytest.raises(NotFound):
                            await door.cancel(id_)
                        assert unbound.execute(BOUND).fetchone() == ("",)
                    assert unbound.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)
                assert (await ours.stats())["pending"] == 11
                assert (await theirs.stats())["pending"] == 5


def test_on_a_pooled_session_that_is_reset_by_nobody_a_rolled_back_binding_is_gone(installed: Roles) -> None:
    with connected(installed.login("user")) as conn:
        for statement in ("SELECT 1 / 0", "SELECT 1"):
            with pytest.raises(psycopg.errors.DivisionByZero) if "/" in statement else nothing(), conn.transaction():
                bound(conn, "acme")
                conn.execute(statement)  # type: ignore[arg-type]  # a literal
            assert conn.execute(BOUND).fetchone() == ("",)


@contextmanager
def nothing() -> Iterator[None]:
    yield


# ── what a bound door costs ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_binding_travels_with_the_work(engine: Engine, mail: Any) -> None:
    """A single statement is one round trip, bound or not: the client turns to the server once."""
    turns = {}
    for tenant in (None, "acme"):
        with TaskQueue.connect(engine.url, tenant=tenant, registry=engine.registry) as door:
            door.add(mail())
            with door._pool.connection() as conn, tempfile.TemporaryFile() as trace:
                conn.autocommit = True
                conn.pgconn.trace(trace.fileno())
                run_as(conn, insert(engine.new(type="Mail")), tenant)
                conn.pgconn.untrace()
                trace.seek(0)
                turns[tenant] = trace.read().count(b"ReadyForQuery")
    assert turns == {None: 1, "acme": 1}


async def test_a_bound_call_that_is_given_up_leaves_a_door_that_works(
    engine: Engine, mail: Any, once: Any, installed: Roles
) -> None:
    """One statement in a pipeline, and several in a transaction, both cancelled while they wait for a lock."""
    async with AsyncTaskQueue.connect(installed.login("user"), tenant="acme", registry=engine.registry) as door:
        await door.add(once())
        with engine.conn.transaction():
            engine.conn.execute("LOCK TABLE taskrunner.task IN ACCESS EXCLUSIVE MODE")
            for call in (door.add(mail()), door.add(once()), door.stats()):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, 0.3)
        assert (await door.stats())["pending"] == 1
        assert (await door.add(mail())).created
        for _ in range(4):
            async with door._pool.connection() as conn:
                assert await (await conn.execute(BOUND)).fetchone() in ((None,), ("",))
