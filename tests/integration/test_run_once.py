"""`run_once` in its corners: keys, values, locks, lost replies, requeues."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import psycopg
import pytest

from taskrunner import Task, register_task
from taskrunner.errors import Conflict, InvalidArgument, PayloadInvalid
from taskrunner.settings import Settings
from tests.chaos.proxy import Proxy, Rule
from tests.engine import Engine, holding

pytestmark = pytest.mark.anyio

Once: TypeAlias = Callable[..., type[Task]]


@pytest.fixture(params=["loop", "thread"])
def once(request: pytest.FixtureRequest, engine: Engine) -> Once:
    """Return a function that registers a type whose run is `steps(task, run_once)`, on the loop or in a thread.

    `run_once` is awaited on the loop and called in the thread: the steps are a generator that yields its arguments.
    """

    def make(steps: Callable[[Any], Any], *, next_try: Any = lambda _: None, **declared: Any) -> type[Task]:
        async def on_loop(self: Task) -> Any:
            going, answer = steps(self), None
            while True:
                try:
                    asked = going.send(answer) if not isinstance(answer, Exception) else going.throw(answer)
                except StopIteration as end:
                    return end.value
                try:
                    answer = await self.context.run_once(*asked)
                except Exception as error:
                    answer = error

        def in_thread(self: Task) -> Any:
            going, answer = steps(self), None
            while True:
                try:
                    asked = going.send(answer) if not isinstance(answer, Exception) else going.throw(answer)
                except StopIteration as end:
                    return end.value
                try:
                    answer = self.context.run_once(*asked)
                except Exception as error:
                    answer = error

        run = on_loop if request.param == "loop" else in_thread
        members = {"run": run, "next_try": next_try, "__module__": __name__, "__qualname__": "Made"}
        return register_task("Made", **declared)(type("Made", (Task,), members))

    return make


async def _ended(engine: Engine, kind: type[Task], **settings: Any) -> Any:
    with engine.door() as door:
        async with engine.running(**settings) as running:
            (view,) = await running.ended(door.add(kind()).id)
    return view


def kept(engine: Engine) -> dict[str, Any]:
    return dict(engine.rows("SELECT key, value FROM taskrunner.effect"))


async def test_a_raise_leaves_the_key_open_and_comes_out_as_it_is(engine: Engine, once: Once) -> None:
    """SPEC ONC 56."""
    calls: list[int] = []

    def effect() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("not yet")
        return len(calls)

    def steps(_: Task) -> Any:
        for _ in range(2):
            with pytest.raises(KeyError, match="not yet"):
                yield "a", effect
            assert kept(engine) == {}
        return (yield "a", effect)

    view = await _ended(engine, once(steps))
    assert (view.state, view.result) == ("succeeded", 3)
    assert kept(engine) == {"a": 3}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "value: object is no JSON value"),
        ({"at": [datetime(2026, 1, 1)]}, "value.at[0]: datetime is no JSON value"),  # noqa: DTZ001 - it is refused
        (float("nan"), "value: nan is no JSON number"),
        ("a\0b", "NUL"),
    ],
    ids=["object", "datetime", "nan", "nul"],
)
async def test_a_value_that_is_no_json_is_an_error_that_says_so_and_the_key_stays_open(
    engine: Engine, once: Once, value: Any, words: str
) -> None:
    """SPEC ONC 56."""

    def steps(_: Task) -> Any:
        with pytest.raises(PayloadInvalid) as caught:
            yield "pay", lambda: value
        assert "run_once('pay')" in str(caught.value)
        assert words in str(caught.value)
        return (yield "pay", lambda: "now")

    view = await _ended(engine, once(steps))
    assert (view.state, view.result) == ("succeeded", "now")
    assert kept(engine) == {"pay": "now"}


@pytest.mark.parametrize("value", [None, False, 0, "", [], {"ż": [1, 2.5, None]}, 2**70], ids=str)
async def test_every_json_value_is_replayed_as_it_was(engine: Engine, once: Once, value: Any) -> None:
    """SPEC ONC 56."""

    def steps(_: Task) -> Any:
        first = yield "a", lambda: value
        again = yield "a", lambda: pytest.fail("called again")
        return [first, again]

    view = await _ended(engine, once(steps))
    assert view.result == [value, value]


async def test_what_is_returned_at_first_is_what_is_replayed_later(engine: Engine, once: Once) -> None:
    def steps(_: Task) -> Any:
        first = yield "a", lambda: (1, 2)
        again = yield "a", lambda: None
        assert first == again == [1, 2]

    assert (await _ended(engine, once(steps))).state == "succeeded"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0b", "\ud800", None, 7], ids=ascii)
async def test_a_key_is_text_of_1_to_255_characters(engine: Engine, once: Once, key: Any) -> None:
    def steps(_: Task) -> Any:
        with pytest.raises(InvalidArgument, match="run_once"):
            yield key, lambda: pytest.fail("called")
        return (yield "x" * 255, lambda: 1)

    assert (await _ended(engine, once(steps))).state == "succeeded"


async def test_no_transaction_is_open_while_the_function_runs(engine: Engine, once: Once) -> None:
    """SPEC ONC 56, CLM 22."""
    seen: list[Any] = []

    def effect() -> None:
        with psycopg.connect(engine.url) as conn:
            seen.extend(
                conn.execute(
                    "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND state LIKE 'idle in%'"
                ).fetchall()
            )

    def steps(_: Task) -> Any:
        yield "a", effect
        yield "b", effect

    assert (await _ended(engine, once(steps))).state == "succeeded"
    assert seen == []


@pytest.mark.parametrize("once", ["thread"], indirect=True)  # on the loop the effect's wait would hold up both tasks
async def test_a_lock_on_the_tasks_row_holds_up_its_own_effect_alone(engine: Engine, once: Once) -> None:
    """SPEC CLM 23."""
    locked, done = threading.Event(), threading.Event()

    def steps(task: Task) -> Any:
        def effect() -> str:
            if task.priority == 100:
                done.set()
                locked.wait(60)
            return str(task.priority)

        return (yield "a", effect)

    kind = once(steps)
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind(), priority=100).id
            await asyncio.to_thread(done.wait, 60)
            with holding(engine.url, "SELECT id FROM taskrunner.task WHERE id = %s FOR UPDATE", id_):
                locked.set()
                (other,) = await running.ended(door.add(kind(), priority=7).id)
                assert kept(engine) == {"a": "7"}
            (view,) = await running.ended(id_)
    assert (view.result, other.result) == ("100", "7")


async def test_the_same_key_at_the_same_time_in_one_run_is_a_conflict(engine: Engine) -> None:
    @register_task("Made", max_retries=0)
    class Made(Task):
        async def run(self) -> Any:
            async def effect() -> int:
                await asyncio.sleep(0.05)
                return 1

            both = [self.context.run_once("a", effect), self.context.run_once("a", effect)]
            first, second = await asyncio.gather(*both, return_exceptions=True)
            assert isinstance(second, Conflict)
            return [first, await self.context.run_once("a", effect)]

    assert (await _ended(engine, Made)).result == [1, 1]


async def test_an_async_function_in_a_thread_is_refused_and_not_run(engine: Engine) -> None:
    @register_task("Made", max_retries=0)
    class Made(Task):
        def run(self) -> None:
            async def effect() -> None:
                pytest.fail("run")

            with pytest.raises(InvalidArgument, match="async def"):
                self.context.run_once("a", effect)

    assert (await _ended(engine, Made)).state == "succeeded"
    assert kept(engine) == {}


async def test_a_requeued_dead_letter_has_the_effects_of_the_old_task(engine: Engine, once: Once) -> None:
    """SPEC ONC 56, RTY 32."""
    calls: list[str] = []

    def steps(task: Task) -> Any:
        yield "pay", lambda: calls.append("paid")
        if len(calls) == 1:
            calls.append("failed")
            raise RuntimeError("after the payment")
        return "well"

    kind = once(steps)
    with engine.door() as door:
        async with engine.running() as running:
            (dead,) = await running.ended(door.add(kind()).id)
            assert dead.state == "dead"
            (view,) = await running.ended(door.retry(dead.id))
    assert (view.state, view.result) == ("succeeded", "well")
    assert view.id != dead.id
    assert calls == ["paid", "failed"]
    assert engine.rows("SELECT task_id FROM taskrunner.effect") == [(view.id,)]


@pytest.mark.parametrize("manner", ["before", "during", "after"])
@pytest.mark.parametrize("statement", ["SELECT EXISTS", "INSERT INTO taskrunner.effect"])
async def test_a_lost_reply_costs_no_effect_and_repeats_none(
    engine: Engine, once: Once, statement: str, manner: Any
) -> None:
    """SPEC CRA 36, FAULTS F15."""
    calls: list[str] = []

    def steps(_: Task) -> Any:
        yield "a", lambda: calls.append("a")
        yield "b", lambda: calls.append("b")

    kind = once(steps)
    told = psycopg.conninfo.conninfo_to_dict(engine.url)
    with Proxy(f"{told['host']}/.s.PGSQL.{told.get('port', 5432)}") as proxy:
        way = {**told, "host": "127.0.0.1", "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
        direct, engine.url = engine.url, psycopg.conninfo.make_conninfo(**way)  # type: ignore[arg-type]
        proxy.rules.append(Rule("taskrunner runner effects", statement, manner, most=2))
        try:
            view = await _ended(engine, kind)
        finally:
            engine.url = direct
        assert proxy.hits() == 2
    assert (view.state, view.tries) == ("succeeded", 0)
    assert calls == ["a", "b"]
    assert kept(engine) == {"a": None, "b": None}


def test_a_runner_bounds_the_connections_of_sessions_by_a_setting() -> None:
    assert Settings().session_connections == 10
