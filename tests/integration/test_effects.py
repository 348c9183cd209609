"""`run_once` and `context.session()`: what happens once, whatever the run comes to and wherever it runs."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from taskrunner import Task, events, register_task
from taskrunner.errors import LeaseLost
from taskrunner.registry import discover
from tests.engine import Engine
from tests.processes import PROJECT

pytestmark = pytest.mark.anyio

EVERYWHERE = ["loop", "thread", "child", "child-loop"]


@pytest.fixture
def work(engine: Engine) -> Any:
    """The tasks of tests/project/effects.py, and their ledger."""
    sys.modules.pop("effects", None)
    discover(PROJECT, "effects")
    module = sys.modules["effects"]
    engine.conn.execute(module.LEDGER)
    return module


Runs: TypeAlias = Callable[..., type[Task]]


@pytest.fixture
def runs(engine: Engine) -> Runs:
    """Return a function that registers a type by what its `run()` is on the loop, and what in a thread."""

    def make(way: str, on_loop: Any, in_thread: Any, *, next_try: Any = lambda _: None, **declared: Any) -> type[Task]:
        run = on_loop if way == "loop" else in_thread
        members = {"run": run, "next_try": next_try, "__module__": __name__, "__qualname__": "Made"}
        return register_task("Made", **declared)(type("Made", (Task,), members))

    return make


def ledger(engine: Engine, id_: UUID) -> Counter[str]:
    """Return how often each effect of a task has happened."""
    return Counter(row[0] for row in engine.rows("SELECT what FROM ledger WHERE task = %s", id_))


def keys(engine: Engine, id_: UUID) -> list[str]:
    return [row[0] for row in engine.rows("SELECT key FROM taskrunner.effect WHERE task_id = %s ORDER BY key", id_)]


# ── run_once ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", EVERYWHERE)
async def test_an_effect_that_was_done_is_skipped_on_later_tries_and_its_value_replayed(
    engine: Engine, work: Any, way: str
) -> None:
    """SPEC ONC 56."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            outside, _ = work.WAYS[way]
            (view,) = await running.ended(door.add(outside(url=engine.url, fails=2)).id)
    assert (view.state, view.tries) == ("succeeded", 2)
    assert view.result == [{"what": "first", "try": 0}, {"what": "second", "try": 2}]
    assert ledger(engine, view.id) == {"first": 1, "second": 1}
    assert keys(engine, view.id) == ["first", "second"]


@pytest.mark.parametrize("way", EVERYWHERE)
async def test_the_session_commits_with_the_finish_and_the_key_in_it(engine: Engine, work: Any, way: str) -> None:
    """SPEC ONC 56."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            _, inside = work.WAYS[way]
            (view,) = await running.ended(door.add(inside(end="result")).id)
    assert (view.state, view.result) == ("succeeded", {"a": [1]})
    assert ledger(engine, view.id) == {"plain": 1, "once": 1, "last": 1}
    assert keys(engine, view.id) == ["key"]
    assert engine.value("SELECT xmin::text FROM ledger LIMIT 1") == engine.value(
        "SELECT xmin::text FROM taskrunner.task_history"
    )
    assert engine.value("SELECT sum(count)::int FROM taskrunner.task_stats WHERE outcome = 'succeeded'") == 1


@pytest.mark.parametrize("way", EVERYWHERE)
@pytest.mark.parametrize("end", ["raise", "failure", "snooze"])
async def test_all_is_rolled_back_after_any_other_outcome_and_done_once_in_the_end(
    engine: Engine, work: Any, way: str, end: str
) -> None:
    """SPEC ONC 56."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            _, inside = work.WAYS[way]
            (view,) = await running.ended(door.add(inside(end=end)).id)
    assert view.state == "succeeded"
    assert running.runs(view.id) == 3
    assert ledger(engine, view.id) == {"plain": 1, "once": 1, "last": 1}


@pytest.mark.parametrize("way", EVERYWHERE)
async def test_an_ignored_task_leaves_nothing_of_its_session(engine: Engine, work: Any, way: str) -> None:
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            _, inside = work.WAYS[way]
            (view,) = await running.ended(door.add(inside(end="ignored")).id)
    assert view.state == "ignored"
    assert ledger(engine, view.id) == {}
    assert keys(engine, view.id) == []


@pytest.mark.parametrize("way", EVERYWHERE)
async def test_a_commit_of_the_session_by_the_task_is_refused_in_words(engine: Engine, work: Any, way: str) -> None:
    """SPEC ONC 56."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            _, inside = work.WAYS[way]
            inside.next_try = lambda _: None
            (view,) = await running.ended(door.add(inside(end="commit")).id)
    assert view.state == "dead"
    assert "commit() of context.session() is the runner's" in view.errors[-1]["message"]
    assert ledger(engine, view.id) == {}


# ── the fence ────────────────────────────────────────────────────────────────────────────────────────────────────────


def taken_away(engine: Engine, id_: UUID) -> None:
    """Let a task go to another runner, as a rescue would after a lease that ended."""
    other = engine.join(lease=timedelta(hours=1))
    engine.conn.execute(
        "UPDATE taskrunner.task SET claim_no = claim_no + 1, runner_id = %s WHERE id = %s", [other, id_]
    )


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_a_run_whose_claim_was_taken_away_meanwhile_gets_an_error_and_stores_nothing(
    engine: Engine, runs: Runs, way: str
) -> None:
    """SPEC ONC 56, CRA 35: another claim has it, and runs the effect as its own."""
    told: list[str] = []

    def effect(task: Task) -> str:
        told.append("done")
        taken_away(engine, task.id)
        return "by the zombie"

    def refused(error: Exception) -> None:
        told.append(f"{type(error).__name__}: {error}")

    async def on_loop(self: Task) -> None:
        try:
            await self.context.run_once("pay", lambda: effect(self))
        except LeaseLost as error:
            refused(error)
        with pytest.raises(LeaseLost):
            await self.context.run_once("other", lambda: told.append("never"))

    def in_thread(self: Task) -> None:
        try:
            self.context.run_once("pay", lambda: effect(self))
        except LeaseLost as error:
            refused(error)
        with pytest.raises(LeaseLost):
            self.context.run_once("other", lambda: told.append("never"))

    kind = runs(way, on_loop, in_thread)
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind()).id
            await running.until(events.Settled, where=lambda event: event.task_id == id_)
    assert told[0] == "done"
    assert told[1].startswith("LeaseLost: Made ")
    assert "run_once('pay') is left to whoever has it now" in told[1]
    assert len(told) == 2
    assert keys(engine, id_) == []
    engine.conn.execute("DELETE FROM taskrunner.task")


@pytest.mark.parametrize("way", ["child", "child-loop"])
async def test_a_child_whose_claim_was_taken_away_meanwhile_gets_the_same_error(
    engine: Engine, work: Any, way: str
) -> None:
    """SPEC ONC 56, CRA 35."""
    other = engine.join(lease=timedelta(hours=1))
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            id_ = door.add(work.WAYS[way][0](url=engine.url, stolen_by=str(other))).id
            await running.until(events.Settled, where=lambda event: event.task_id == id_)
    first, refused = sorted(ledger(engine, id_))
    assert first == "first"
    assert f"{id_} (claim 1) is no longer this runner's: run_once('first') is left to" in refused
    assert keys(engine, id_) == []
    engine.conn.execute("DELETE FROM taskrunner.task")


@pytest.mark.parametrize("way", EVERYWHERE)
async def test_a_session_whose_claim_was_taken_away_before_the_finish_is_rolled_back(
    engine: Engine, work: Any, way: str
) -> None:
    """SPEC ONC 56, FAULTS I4."""
    _, inside = work.WAYS[way]
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            id_ = door.add(inside(end="wait")).id
            await eventually(lambda: open_sessions(engine))
            taken_away(engine, id_)
            engine.conn.execute("INSERT INTO go VALUES (1)")
            await running.until(events.Settled, where=lambda event: event.task_id == id_)
    assert ledger(engine, id_) == {}
    assert engine.ends(id_) == 0
    engine.conn.execute("DELETE FROM taskrunner.task")


def open_sessions(engine: Engine) -> int:
    """Count the sessions of tasks that are inside a transaction."""
    return int(
        engine.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskrunner runner session'"
            " AND datname = current_database() AND state LIKE 'idle in transaction%%'",
        )
    )


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


# ── stops ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", EVERYWHERE)
@pytest.mark.parametrize("stop", ["timeout", "cancel", "drain"])
async def test_a_run_that_is_stopped_in_its_session_leaves_nothing_and_no_open_transaction(
    engine: Engine, work: Any, way: str, stop: str
) -> None:
    _, inside = work.WAYS[way]
    with engine.door() as door:
        async with engine.running(process_slots=1, grace=timedelta(0), session_connections=1) as running:
            if stop == "timeout":
                inside = work.TIMED[way]
            id_ = door.add(inside(end="slow" if way != "thread" else "doze")).id
            if stop != "timeout":  # that comes soon after the session has been opened
                await eventually(lambda: open_sessions(engine))
            if stop == "cancel":
                assert door.cancel(id_) == "requested"
            if stop == "drain":
                running.runner.stop()
            await running.until(events.Settled, where=lambda event: event.task_id == id_)
            await eventually(lambda: not open_sessions(engine))
            assert ledger(engine, id_) == {}
            if stop != "drain":  # the connection, or its place, is free again
                (view,) = await running.ended(door.add(work.WAYS[way][1](end="result")).id)
                assert view.state == "succeeded"
    assert engine.view(id_).state == {"timeout": "dead", "cancel": "cancelled", "drain": "pending"}[stop]


async def test_sessions_are_as_many_as_the_setting_says_and_the_others_wait(engine: Engine, work: Any) -> None:
    """SPEC CON 47."""
    _, on_loop = work.WAYS["loop"]
    _, in_thread = work.WAYS["thread"]
    most = 0
    with engine.door() as door:
        async with engine.running(concurrency=40, session_connections=2) as running:
            ids = [door.add(kind(end="nap")).id for kind in (on_loop, in_thread) for _ in range(15)]
            while len(engine.rows("SELECT 1 FROM taskrunner.task")):
                most = max(most, len(engine.backends("taskrunner runner session")))
                await asyncio.sleep(0.01)
            views = await running.ended(*ids)
    assert {view.state for view in views} == {"succeeded"}
    assert 2 <= most <= 4
    assert engine.value("SELECT count(*)::int FROM ledger") == 3 * len(ids)
