"""Keys under fire: the runner of a task with a successor is killed, and nothing that was accepted is lost."""

from __future__ import annotations

from uuid import UUID

import pytest

from taskrunner.store.enqueue import Enqueued
from tests.e2e.conftest import World
from tests.processes import QUICK


def started_with_a_successor(world: World) -> tuple[UUID, Enqueued]:
    """Bring a runner to hold a task that waits for the gate `old`, and whose successor waits for the gate `new`."""
    first = world.queue.add(world.work.Hold(path=str(world.gate("old"))), key="k").id
    world.running(first)
    world.marked(first)
    second = world.queue.add(world.work.Hold(path=str(world.gate("new"))), key="k", on_conflict="replace")
    assert second.replaced
    assert world.row(second.id).state == "pending"
    return first, second


def test_after_a_sigkill_of_the_runner_the_task_runs_again_with_its_successors_work(world: World) -> None:
    """SPEC UNQ 15, CRA 33: the older work is superseded and does not run again."""
    group = world.fleet.start("runner", heartbeat="1", lease="1h")
    first, second = started_with_a_successor(world)
    group.child().kill()
    world.running(first, times=2)
    world.gate("new").touch()
    view = world.ended(second.id)
    assert (view.state, view.crashes, view.payload) == ("succeeded", 1, {"path": str(world.gate("new"))})
    assert world.row(second.id).id == first, "the running task took the work over, under its own id"
    assert world.value("SELECT count(*) FROM taskrunner.task") == 0
    assert world.value("SELECT count(*) FROM taskrunner.task_history") == 1


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("point", ["before_finish", "after_finish"])
def test_a_runner_killed_around_the_end_of_a_task_with_a_successor_loses_and_doubles_nothing(
    world: World, point: str, passes: int
) -> None:
    """SPEC UNQ 15, CRA 36; FAULTS F1 I1: the first pass is that of the fast way, which leaves the row to the second."""
    doomed = world.fleet.start("runner", TASKRUNNER_FAIL_POINT=f"{point}:kill:{passes}", **QUICK)
    first, second = started_with_a_successor(world)
    ended = (point, passes) == ("after_finish", 2)
    world.gate("old").touch()
    world.running(*((second.id, 1) if ended else (first, 2)))
    assert "fail point" in doomed.log
    doomed.kill()
    world.gate("new").touch()
    world.fleet.start("runner", **QUICK)
    assert world.ended(second.id).state == "succeeded"
    query = "SELECT payload ->> 'path' FROM taskrunner.task_history ORDER BY finished_at"
    paths = [row[0] for row in world.tables.execute(query)]
    assert paths == [str(world.gate(name)) for name in (("old", "new") if ended else ("new",))]
    assert world.row(first).state == "succeeded"
    assert world.row(second.id).id == (second.id if ended else first)
    assert world.value("SELECT count(*) FROM taskrunner.task") == 0
