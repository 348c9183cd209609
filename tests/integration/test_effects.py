"""`run_once` and `context.session()`: what happens once, whatever the run comes to and wherever it runs."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

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
