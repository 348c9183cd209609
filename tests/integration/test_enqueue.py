"""The doors: what they store, what they refuse, and with whose transaction it stays or goes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlmodel import Session as SQLModelSession
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelAsyncSession

from taskrunner import register_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.errors import (
    Conflict,
    DatabaseUnreachable,
    InvalidArgument,
    NotFound,
    PayloadInvalid,
    SchemaBehind,
    UnknownType,
    WaitTimeout,
)
from taskrunner.payload import load_payload
from taskrunner.queue import TaskQueue
from taskrunner.store import enqueue
from taskrunner.store import task as store
from taskrunner.task import Task
from tests.engine import WAIT, Engine

HOUR = timedelta(hours=1)


class Address(BaseModel):
    street: str
    tags: list[str] = []


@pytest.fixture
def kinds(engine: Engine) -> Kinds:
    @register_task("Mail", queue="mail", max_retries=5)
    class Mail(Task):
        to: str = "a@b.c"

        async def run(self) -> None: ...

    @register_task("Typed")
    class Typed(Task):
        address: Address
        amount: Decimal
        at: datetime
        number: int
        blob: str = ""
        anything: Any = None

        async def run(self) -> None: ...

    return Kinds(Mail, Typed)


@dataclass
class Kinds:
    mail: Any
    typed: Any


class AnyDoor:
    """Both doors by the same words: the test is written once."""

    def __init__(self, door: TaskQueue | AsyncTaskQueue) -> None:
        self._door = door

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._door, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            return await value if isinstance(self._door, AsyncTaskQueue) else value

        return call


@pytest.fixture(params=["sync", "async"])
async def door(
    engine: Engine, kinds: Kinds, request: pytest.FixtureRequest, anyio_backend: Any
) -> AsyncIterator[AnyDoor]:
    if request.param == "sync":
        with TaskQueue.connect(engine.url, registry=engine.registry) as queue:
            yield AnyDoor(queue)
    else:
        async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue:
            yield AnyDoor(queue)


pytestmark = pytest.mark.anyio


# ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_is_stored_with_the_defaults_of_its_type_and_the_databases_now(
    engine: Engine, kinds: Kinds, door: AnyDoor
) -> None:
    """SPEC ENQ 7."""
    frozen = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
    engine.db.freeze(frozen)
    task = kinds.mail(to="x@y.z")
    added = await door.add(task)
    view = engine.view(added.id)
    assert (added.id, added.created) == (task.id, True)
    assert (view.type, view.queue, view.tenant, view.state, view.priority) == (
        "Mail",
        "mail",
        "default",
        "pending",
        100,
    )
    assert (view.tries, view.crashes, view.payload) == (0, 0, {"to": "x@y.z"})
    assert view.maturity_at == view.created_at == frozen
    assert engine.value("SELECT max_retries FROM taskrunner.task") == 5


async def test_one_task_object_is_not_two_tenants_task(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC TEN 54: nothing is stored, and nothing is said to be."""
    task = kinds.mail()
    added = await door.add(task, tenant="acme")
    assert (await door.add(task, tenant="acme")) == (added.id, False)
    with pytest.raises(InvalidArgument, match="added for tenant 'acme': make a new one for 'globex'"):
        await door.add(task, tenant="globex")
    with pytest.raises(InvalidArgument, match="added for tenant 'acme'"):
        await door.add_many([kinds.mail(), task], tenant="globex")
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1


async def test_an_id_that_is_another_tenants_is_refused_without_end_of_tries(engine: Engine) -> None:
    """SPEC TEN 54: a row that cannot be seen is in the way as long as it likes."""
    theirs = enqueue.NewTask(uuid4(), "Mail", "{}", "mail", tenant="acme")
    assert engine.do(enqueue.add([theirs])) == [(theirs.id, True)]
    ours = enqueue.NewTask(theirs.id, "Mail", "{}", "mail", tenant="globex")
    with pytest.raises(Conflict, match="another tenant's task has its id"):
        engine.do(enqueue.add([ours]))
    assert engine.value("SELECT array_agg(tenant) FROM taskrunner.task") == ["acme"]


async def test_what_add_is_told_wins_over_the_types_defaults(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    added = await door.add(
        kinds.mail(), priority=-7, queue="slow", tenant="acme", max_retries=0, meta={"trace": "é"}, delay=90
    )
    view = engine.view(added.id)
    assert (view.priority, view.queue, view.tenant, view.meta) == (-7, "slow", "acme", {"trace": "é"})
    assert view.maturity_at - view.created_at == timedelta(seconds=90)
    assert engine.value("SELECT max_retries FROM taskrunner.task") == 0


async def test_an_instant_is_kept_to_the_microsecond_whatever_its_zone(
    engine: Engine, kinds: Kinds, door: AnyDoor
) -> None:
    """SPEC ENQ 7."""
    at = datetime(2040, 7, 1, 12, 30, 0, 123457, tzinfo=ZoneInfo("Asia/Kathmandu"))
    added = await door.add(kinds.mail(), at=at)
    assert engine.view(added.id).maturity_at == at


@pytest.mark.parametrize(
    ("value", "anything"),
    [
        ({"address": Address(street="Zażółć 🦊 " * 3, tags=["a", "b"])}, {"n": [1, 2.5, None, True, "x"]}),
        ({"number": 2**53 + 1}, 2**53 + 1),
        ({"number": -(10**40)}, 10**40),
        ({"amount": Decimal("0.10")}, 1.0),
        ({"amount": Decimal("123456789012345678901234567890.123456789")}, 1e300),
        ({"at": datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=UTC)}, 5e-324),
        ({"blob": "x" * 1_000_000}, "\u2028\ufffd\x01"),
    ],
    ids=["nested and unicode", "2^53+1", "big", "cents", "long decimal", "instant", "1 MB"],
)
async def test_a_payload_comes_back_equal(
    engine: Engine, kinds: Kinds, door: AnyDoor, value: dict[str, Any], anything: Any
) -> None:
    """SPEC ENQ 8: through jsonb and back into the class."""
    fields = {"address": Address(street="s"), "amount": Decimal(1), "at": datetime(2026, 1, 1, tzinfo=UTC), "number": 1}
    task = kinds.typed(**{**fields, **value, "anything": anything})
    await door.add(task)
    (claim,) = engine.claim(engine.join("Typed"), types=("Typed",))
    again = load_payload(kinds.typed, claim.payload)
    assert again == task
    assert str(again.amount) == str(task.amount)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "nul \0 inside", "\ud800", {"deep": [{"x": math.nan}]}])
async def test_what_json_cannot_keep_is_refused_with_its_path_and_nothing_is_stored(
    engine: Engine, kinds: Kinds, door: AnyDoor, bad: Any
) -> None:
    """SPEC ENQ 8."""
    task = kinds.typed(
        address=Address(street="s"), amount=Decimal(1), at=datetime(2026, 1, 1, tzinfo=UTC), number=1, anything=bad
    )
    with pytest.raises(PayloadInvalid, match=r"Typed\.anything"):
        await door.add_many([kinds.mail(), task])
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 0


async def test_a_payload_key_named_like_a_column_changes_no_column(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC ENQ 9: the payload is data, whatever its keys are."""
    stored = '{"to": "x", "tries": 99, "priority": 1, "type": "Other", "id": "00000000-0000-0000-0000-000000000000"}'
    (id_,) = engine.add(type="Mail", payload=stored, queue="mail")
    (claim,) = engine.claim(engine.join("Mail"), types=("Mail",), queue="mail")
    assert (claim.id, claim.type, claim.tries, claim.priority) == (id_, "Mail", 0, 100)


async def test_many_are_stored_all_or_none_with_their_spacing(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC ENQ 10."""
    added = await door.add_many([kinds.mail(to=str(n)) for n in range(5)], spacing=timedelta(seconds=2))
    views = [engine.view(answer.id) for answer in added]
    assert [view.payload["to"] for view in views] == ["0", "1", "2", "3", "4"]
    assert [(view.maturity_at - views[0].maturity_at).total_seconds() for view in views] == [0, 2, 4, 6, 8]

    class Unregistered(Task):
        async def run(self) -> None: ...

    with pytest.raises(UnknownType):
        await door.add_many([kinds.mail(), Unregistered()])
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 5
    assert await door.add_many([]) == []


async def test_a_big_batch_is_one_statement_and_one_notification(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC ENQ 10."""
    engine.conn.execute("LISTEN taskrunner")
    added = await door.add_many(kinds.mail(to=str(n)) for n in range(2000))
    assert len({answer.id for answer in added}) == 2000
    heard = [notify.payload for notify in engine.conn.notifies(timeout=WAIT, stop_after=1)]
    heard += [notify.payload for notify in engine.conn.notifies(timeout=0.5)]
    assert len(heard) == 1
    assert '"queue": "mail"' in heard[0]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_unknown_type_is_refused_naming_near_matches(kinds: Kinds, door: AnyDoor) -> None:
    """SPEC ENQ 12."""

    class Mial(Task):
        async def run(self) -> None: ...

    with pytest.raises(UnknownType, match="did you mean 'Mail'"):
        await door.add(Mial())


async def test_a_key_has_at_most_255_characters(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC ENQ 12."""
    added = await door.add(kinds.mail(), key="ł" * 255)
    assert engine.view(added.id).state == "pending"
    await door.add(kinds.mail(), idempotency_key="ł" * 255)
    for bad in ("ł" * 256, "", "nul\0", 7):
        with pytest.raises(InvalidArgument, match="key"):
            await door.add(kinds.mail(), key=bad)
        with pytest.raises(InvalidArgument, match="key"):
            await door.add(kinds.mail(), idempotency_key=bad)
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 2


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": math.nan},
        {"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001 - it is refused for that
        {"priority": 2**31},
        {"priority": 1.5},
        {"priority": True},
        {"queue": ""},
        {"queue": "x" * 201},
        {"tenant": ""},
        {"max_retries": -1},
        {"meta": [1]},
        {"meta": {"x": math.inf}},
        {"on_conflict": "explode"},
    ],
    ids=str,
)
async def test_an_option_that_makes_no_sense_is_refused_before_anything_is_stored(
    engine: Engine, kinds: Kinds, door: AnyDoor, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        await door.add(kinds.mail(), **options)
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 0


# ── the caller's own connection ──────────────────────────────────────────────────────────────────────────────────────


def count(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM taskrunner.task"))


def alchemy(engine: Engine) -> str:
    return "postgresql+psycopg://?" + "&".join(
        f"{name}={value}" for name, value in psycopg.conninfo.conninfo_to_dict(engine.url).items()
    )


@pytest.mark.parametrize("before", [False, True], ids=["as the first statement", "after the caller's own"])
@pytest.mark.parametrize(
    "factories",
    [{}, {"row_factory": dict_row}, {"cursor_factory": psycopg.ClientCursor}],
    ids=["plain", "rows as dicts", "bound by the client"],
)
def test_a_task_goes_with_a_psycopg_connections_transaction(
    engine: Engine, kinds: Kinds, before: bool, factories: dict[str, Any]
) -> None:
    """SPEC ENQ 11."""
    with engine.door() as queue, psycopg.connect(engine.url, **factories) as conn:
        if before:
            conn.execute("CREATE TABLE IF NOT EXISTS mine ()")
        added = queue.add(kinds.mail(), connection=conn)
        assert added.created
        assert count(engine) == 0
        conn.rollback()
        assert count(engine) == 0
        queue.add_many([kinds.mail(), kinds.mail()], connection=conn)
        conn.commit()
        assert count(engine) == 2


def test_in_autocommit_mode_a_task_is_stored_at_once(engine: Engine, kinds: Kinds) -> None:
    """SPEC ENQ 11: and all of its steps in one transaction."""
    with engine.door() as queue, psycopg.connect(engine.url, autocommit=True) as conn:
        queue.add(kinds.mail(), idempotency_key="k", connection=conn)
        assert count(engine) == 1
        with conn.transaction(force_rollback=True):
            queue.add(kinds.mail(), connection=conn)
        assert count(engine) == 1


def test_a_refused_enqueue_leaves_the_callers_transaction_usable(engine: Engine, kinds: Kinds) -> None:
    """SPEC ENQ 11: what goes wrong inside is rolled back to where it began."""
    with engine.door() as queue, psycopg.connect(engine.url) as conn:
        conn.execute("CREATE TABLE mine (n int)")
        conn.execute("ALTER TABLE taskrunner.task ADD CONSTRAINT test CHECK (priority < 1000)")
        with pytest.raises(psycopg.errors.CheckViolation):
            queue.add(kinds.mail(), priority=1000, connection=conn)
        conn.execute("INSERT INTO mine VALUES (1)")
        conn.commit()
    assert engine.value("SELECT count(*) FROM mine") == 1


async def test_a_task_goes_with_an_async_psycopg_connections_transaction(engine: Engine, kinds: Kinds) -> None:
    """SPEC ENQ 11."""
    async with (
        AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue,
        await psycopg.AsyncConnection.connect(engine.url) as conn,
    ):
        await queue.add(kinds.mail(), connection=conn)
        assert count(engine) == 0
        await conn.rollback()
        assert count(engine) == 0
        await queue.add_many([kinds.mail()], connection=conn)
        await conn.commit()
        assert count(engine) == 1


@pytest.mark.parametrize("kind", [Session, SQLModelSession])
@pytest.mark.parametrize("before", [False, True], ids=["as the first statement", "after the caller's own"])
def test_a_task_goes_with_a_sessions_transaction(engine: Engine, kinds: Kinds, kind: Any, before: bool) -> None:
    """SPEC ENQ 11."""
    made = create_engine(alchemy(engine))
    try:
        with engine.door() as queue, kind(made) as session:
            if before:
                session.connection().exec_driver_sql("CREATE TABLE IF NOT EXISTS mine ()")
            queue.add(kinds.mail(), connection=session)
            assert count(engine) == 0
            session.rollback()
            assert count(engine) == 0
            queue.add(kinds.mail(), connection=session)
            session.commit()
            assert count(engine) == 1
        with engine.door() as queue, made.begin() as connection:
            queue.add(kinds.mail(), connection=connection)
            assert count(engine) == 1
        assert count(engine) == 2
    finally:
        made.dispose()


@pytest.mark.parametrize("kind", [AsyncSession, SQLModelAsyncSession])
async def test_a_task_goes_with_an_async_sessions_transaction(engine: Engine, kinds: Kinds, kind: Any) -> None:
    """SPEC ENQ 11."""
    made = create_async_engine(alchemy(engine))
    try:
        async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue:
            async with kind(made) as session:
                await queue.add(kinds.mail(), connection=session)
                assert count(engine) == 0
                await session.rollback()
                assert count(engine) == 0
                await queue.add(kinds.mail(), connection=session)
                await session.commit()
                assert count(engine) == 1
            async with made.begin() as connection:
                await queue.add(kinds.mail(), connection=connection)
                assert count(engine) == 1
            assert count(engine) == 2
    finally:
        await made.dispose()


async def test_a_connection_of_the_wrong_kind_is_refused_with_the_remedy(engine: Engine, kinds: Kinds) -> None:
    """SPEC ENQ 11."""
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue:
        with pytest.raises(InvalidArgument, match="use TaskQueue"):
            await queue.add(kinds.mail(), connection=engine.conn)
    with engine.door() as door:
        with pytest.raises(InvalidArgument, match="postgresql\\+psycopg"):
            door.add(kinds.mail(), connection=object())
        async with await psycopg.AsyncConnection.connect(engine.url) as conn:
            with pytest.raises(InvalidArgument, match="use AsyncTaskQueue"):
                door.add(kinds.mail(), connection=conn)
    assert count(engine) == 0


# ── repeats, and trouble ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_task_added_again_is_the_same_task_also_after_its_end(
    engine: Engine, kinds: Kinds, door: AnyDoor
) -> None:
    """SPEC CRA 36."""
    task = kinds.mail()
    assert (await door.add(task)).created
    again = await door.add(task, on_conflict="error")
    assert (again.id, again.created) == (task.id, False)
    a_repeated_enqueue_revives_nothing(engine, task.id)
    assert not (await door.add(task)).created
    assert engine.ends(task.id) == 1
    assert count(engine) == 0


def a_repeated_enqueue_revives_nothing(engine: Engine, id_: UUID | None = None) -> None:
    """The first reply was lost, the task has run and ended meanwhile, the client asks again."""
    new = engine.new(type="Mail", queue="mail", **({"id": id_} if id_ else {}))
    engine.do(enqueue.add([new]))
    runner = engine.join("Mail")
    engine.finish(runner, *engine.claim(runner, types=("Mail",), queue="mail"))
    (answer,) = engine.do(enqueue.add([new]))
    assert (answer.id, answer.created) == (new.id, False)
    assert count(engine) == 0, "a task that had ended lives again"


async def test_a_task_that_died_is_not_revived_by_a_repeat_of_its_enqueue(engine: Engine) -> None:
    new = engine.new()
    engine.do(enqueue.add([new]))
    runner = engine.join()
    (claim,) = engine.claim(runner)
    engine.do(store.bury(runner, [store.Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
    assert engine.do(enqueue.add([new])) == [enqueue.Enqueued(new.id, created=False)]
    assert count(engine) == 0


async def test_an_id_that_is_no_uuid7_is_looked_for_in_all_of_history(engine: Engine) -> None:
    """Its age is unknown: the task may have ended years ago."""
    new = engine.new(id=uuid4())
    engine.do(enqueue.add([new]))
    runner = engine.join()
    engine.finish(runner, *engine.claim(runner))
    engine.conn.execute("UPDATE taskrunner.task_history SET finished_at = '2020-01-01'")
    assert engine.do(enqueue.add([new])) == [enqueue.Enqueued(new.id, created=False)]


async def test_a_door_survives_that_the_server_ends_its_connections(
    engine: Engine, kinds: Kinds, door: AnyDoor
) -> None:
    """SPEC CRA 36."""
    await door.add(kinds.mail())
    for pid in engine.backends("taskrunner queue"):
        engine.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert (await door.add(kinds.mail())).created
    assert count(engine) == 2


async def test_a_door_works_whatever_the_databases_defaults_are(engine: Engine, kinds: Kinds) -> None:
    """FAULTS F20: serializable, read only and a strange time zone by default."""
    for setting in ("default_transaction_isolation = serializable", "default_transaction_read_only = on"):
        engine.conn.execute(f"ALTER DATABASE {engine.db.name} SET {setting}")  # type: ignore[arg-type]
    with engine.door() as queue:
        id_ = queue.add(kinds.mail(), key="k").id
        assert queue.add(kinds.mail(), key="k").id == id_
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        assert (await door.add(kinds.mail(), key="k")).id == id_
        assert (await door.get(id_)).maturity_at.utcoffset() == timedelta(0)


def test_a_database_without_our_schema_is_named_with_the_command_that_helps(engine: Engine, kinds: Kinds) -> None:
    engine.conn.execute("ALTER SCHEMA taskrunner RENAME TO gone")
    with engine.door() as queue, pytest.raises(SchemaBehind, match="taskrunner migrate"):
        queue.add(kinds.mail())


def test_a_database_that_cannot_be_reached_is_said_so(engine: Engine) -> None:
    with pytest.raises(DatabaseUnreachable):
        TaskQueue.connect("postgresql://nobody@127.0.0.1:1/nowhere", registry=engine.registry)


# ── looking and steering ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_is_steered_through_the_door_by_guarded_moves(engine: Engine, kinds: Kinds, door: AnyDoor) -> None:
    """SPEC OPS 48."""
    id_ = (await door.add(kinds.mail(), delay=HOUR)).id
    await door.reschedule(str(id_), delay=timedelta(minutes=5))
    view = await door.get(id_)
    assert timedelta(minutes=4) < view.maturity_at - engine.db.now() <= timedelta(minutes=5)
    assert await door.retry(id_) == id_
    assert (await door.get(id_)).maturity_at <= engine.db.now()
    assert await door.cancel(id_) == "cancelled"
    for move in (door.cancel, door.retry, door.reschedule, door.delete):
        with pytest.raises(Conflict, match="cancelled"):
            await move(id_)
    with pytest.raises(NotFound):
        await door.get(uuid4())
    with pytest.raises(InvalidArgument, match="no task id"):
        await door.get("nonsense")
    assert (await door.stats())["cancelled"] == 1


async def test_waiting_for_a_task_that_has_ended_returns_at_once_and_else_in_time(
    engine: Engine, kinds: Kinds, door: AnyDoor
) -> None:
    """A time-out of zero is one look."""
    ended, pending = (await door.add(kinds.mail())).id, (await door.add(kinds.mail(), delay=HOUR)).id
    await door.delete(ended)
    assert (await door.wait(ended, timeout=0)).state == "cancelled"
    with pytest.raises(WaitTimeout):
        await door.wait(pending, timeout=0)
    with pytest.raises(WaitTimeout):
        await door.wait(pending, timeout=0.05)
