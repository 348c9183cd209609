"""Flows run by real runners: in their order, their callback once, and what a child learns of its parents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from taskrunner import Parent, Task, TaskStatus, chain, events, group, register_task
from taskrunner.errors import Conflict
from tests.engine import Engine
from tests.processes import eventually

pytestmark = pytest.mark.anyio

BIG = 60.0  # seconds for ten thousand tasks, on a machine that does other things too


@pytest.fixture
def kinds(engine: Engine) -> None:
    @register_task("Part")
    class Part(Task):
        n: int = 0

        async def run(self) -> int:
            return self.n

    @register_task("Callback")
    class Callback(Task):
        async def run(self) -> int:
            parents: dict[UUID, Parent] = await self.context.parents()
            return sum(parent.result for parent in parents.values())


def new(engine: Engine, kind: str = "Part", **fields: Any) -> Task:
    return engine.registry.get(kind).cls(**fields)


async def run_to_end(engine: Engine, ids: Sequence[UUID]) -> None:
    """Run a runner until all of these have ended."""
    async with engine.running(concurrency=50) as running:
        await running.until(events.Settled, len(ids), within=BIG)


@pytest.mark.parametrize(("size", "total"), [(998, 1000)])
async def test_a_diamond_of_a_thousand_tasks_runs_in_its_order(
    engine: Engine, kinds: None, size: int, total: int
) -> None:
    """SPEC FLO 57."""
    with engine.door() as queue:
        ids = queue.add_flow(chain(new(engine), group(*(new(engine, n=n) for n in range(size))), new(engine)))
    assert len(ids) == total
    await run_to_end(engine, ids)
    assert started_too_early(engine) == 0
    assert engine.rows("SELECT state, count(*) FROM taskrunner.task_history GROUP BY 1") == [("succeeded", total)]


@pytest.mark.timeout(120)
async def test_a_group_of_ten_thousand_tasks_has_one_callback_which_knows_all_results(
    engine: Engine, kinds: None
) -> None:
    """SPEC FLO 57."""
    size = 10_000
    with engine.door() as queue:
        ids = queue.add_flow(group(*(new(engine, n=n) for n in range(size))).then(new(engine, "Callback")))
        await run_to_end(engine, ids)
        assert queue.get(ids[-1]).result == sum(range(size))
    assert started_too_early(engine) == 0
    assert engine.rows("SELECT type, count(*) FROM taskrunner.task_history GROUP BY 1 ORDER BY 1") == [
        ("Callback", 1),
        ("Part", size),
    ]


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
async def test_a_child_reads_what_its_parents_came_to_wherever_it_runs(engine: Engine, executor: str) -> None:
    """SPEC FLO 57."""

    @register_task("Word", max_retries=0)
    class Word(Task):
        word: str

        async def run(self) -> Any:
            return {"": TaskStatus.IGNORED, "no": TaskStatus.FAILURE}.get(self.word, [self.word])

    kind = {"loop": OnLoop, "thread": InThread, "process": InProcess}[executor]
    register_task("Reader", executor=executor if executor == "process" else "auto")(kind)
    words = [Word(word=word) for word in ("a", "", "no")]
    with engine.door() as queue:
        ids = [queue.add(word).id for word in words]
        child = queue.add(kind(), after=ids, on_parent_failure="run").id
        alone = queue.add(kind()).id
        async with engine.running(process_slots=1) as running:
            done, lone = await running.ended(child, alone)
    assert done.state == "succeeded", done.errors
    assert done.result == [
        [str(ids[0]), "succeeded", ["a"]],
        [str(ids[1]), "ignored", None],
        [str(ids[2]), "dead", None],
    ]
    assert lone.result == []


def shown(parents: dict[UUID, Parent]) -> list[list[Any]]:
    return [[str(id_), parent.state, parent.result] for id_, parent in parents.items()]


class OnLoop(Task):
    async def run(self) -> Any:
        return shown(await self.context.parents())


class InThread(Task):
    def run(self) -> Any:
        return shown(self.context.parents())


class InProcess(Task):
    def run(self) -> Any:
        return shown(self.context.parents())


async def test_a_failed_step_stops_the_flow_and_its_retry_runs_it_to_the_end(engine: Engine, kinds: None) -> None:
    """SPEC FLO 57."""
    fails = [True]

    @register_task("Flaky", max_retries=0)
    class Flaky(Task):
        async def run(self) -> int:
            if fails:
                raise ValueError("not yet")
            return 7

    with engine.door() as queue:
        ids = queue.add_flow(chain(new(engine), Flaky(), new(engine, "Callback")))
        async with engine.running() as running:
            *_, last = await running.ended(*ids)
            assert [view.state for view in map(queue.get, ids)] == ["succeeded", "dead", "dead"]
            assert last.errors[-1]["message"] == f"its parent Flaky {ids[1]} is dead"
            fails.clear()
            fresh = queue.retry_flow(ids[0])
            again = await running.ended(fresh[ids[2]])
    assert [view.result for view in again] == [7]
    assert running.runs(ids[0]) == 1


async def test_a_task_adds_what_comes_after_itself_while_it_runs(engine: Engine, kinds: None) -> None:
    """SPEC FLO 57: also when it has ended by the time that the child is there."""

    @register_task("Host")
    class Host(Task):
        def run(self) -> str:
            with engine.door() as queue:
                return str(queue.add(new(engine), after=self).id)

    with engine.door() as queue:
        parent = queue.add(Host()).id
        async with engine.running() as running:
            (view,) = await running.ended(parent)
            (child,) = await running.ended(UUID(view.result))
    assert child.state == "succeeded"
    assert child.started_at is not None
    assert view.finished_at is not None
    assert child.started_at >= view.finished_at


@pytest.mark.timeout(120)
async def test_what_many_add_and_cancel_while_it_runs_ends_once_each_and_in_order(engine: Engine, kinds: None) -> None:
    """SPEC FLO 57: parents end, fail and are cancelled while children are being added after them, by four at once."""

    @register_task("Chance", max_retries=0)
    class Chance(Task):
        n: int

        async def run(self) -> Any:
            if self.n % 37 == 0:
                raise ValueError("no")
            return TaskStatus.IGNORED if self.n % 41 == 0 else self.n

    ids: list[UUID] = []

    def add(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same numbers each time
        with engine.door() as queue:
            for n in range(150):
                recent = ids[-30:]
                parents = chance.sample(recent, min(len(recent), chance.choice([0, 1, 1, 2, 5])))
                mode: Any = chance.choice(["fail", "run"])
                task = Chance(n=chance.randrange(1, 10_000))
                ids.append(queue.add(task, after=parents, on_parent_failure=mode).id)
                if n % 50 == 49:
                    with suppress(Conflict):  # it may have ended
                        queue.cancel_flow(chance.choice(ids[-5:]))

    async with engine.running(concurrency=20):
        await asyncio.gather(*(asyncio.to_thread(add, seed) for seed in range(4)))
        live = "SELECT count(*) FROM taskrunner.task"
        await asyncio.to_thread(eventually, lambda: engine.value(live) == 0, "all have ended")
    assert len(ids) == 600
    assert [id_ for id_ in ids if engine.ends(id_) != 1] == []
    assert started_too_early(engine) == 0


def started_too_early(engine: Engine) -> int:
    """Count the tasks that ran before a parent had ended, or although one was dead that was not to be dead."""
    return int(
        engine.value(
            "SELECT (SELECT count(*) FROM taskrunner.dependency d JOIN taskrunner.task_history p ON p.id = d.parent_id"
            " JOIN taskrunner.task_history c ON c.id = d.child_id WHERE c.started_at < p.finished_at)"
            " + (SELECT count(*) FROM taskrunner.dependency d JOIN taskrunner.dead_letter p ON p.id = d.parent_id"
            " JOIN taskrunner.task_history c ON c.id = d.child_id"
            " WHERE d.on_failure = 'fail' AND c.state <> 'cancelled')"
        )
    )
