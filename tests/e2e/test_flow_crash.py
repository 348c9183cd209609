"""A flow outlives the processes that run it."""

from __future__ import annotations

from taskrunner import group
from tests.e2e.conftest import World
from tests.processes import QUICK, eventually


def test_a_flow_whose_runner_is_killed_in_its_midst_is_run_to_its_end_with_one_callback(world: World) -> None:
    """SPEC FLO 57, CRA 33: SIGKILL of supervisor and runner, twice, while the group runs."""
    size = 300
    naps = [world.work.Nap(seconds=0.05) for _ in range(size)]
    *parts, callback = world.queue.add_flow(group(*naps).then(world.work.Nap()))
    ended = "SELECT count(*) FROM taskrunner.task_history"
    for share in (20, 120):
        group_ = world.fleet.start("runner", **QUICK, concurrency="10")
        eventually(lambda share=share: world.value(ended) >= share, f"{share} tasks have ended")  # type: ignore[misc]
        group_.kill()
        assert world.row(callback).state == "blocked"
    world.fleet.start("runner", **QUICK, concurrency="10")
    last = world.ended(callback)
    assert last.state == "succeeded"
    assert world.value(ended) == size + 1
    assert world.value("SELECT count(*) FROM taskrunner.task") == 0
    assert len(world.fleet.history.of("run", callback)) == 1
    assert last.started_at is not None
    for part in parts:
        view = world.row(part)
        assert view.state == "succeeded"
        assert view.finished_at is not None
        assert view.finished_at <= last.started_at
