"""What becomes of tasks when the processes that run them are killed, stopped, blocked or cut off from the database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner import schema
from taskrunner.embedded import Cluster
from taskrunner.errors import TaskrunnerError
from taskrunner.queue import TaskQueue
from tests.e2e.conftest import World
from tests.processes import QUICK, ROOT, eventually, fleet, workload


def _started_and_claimed(world: World) -> tuple[UUID, list[UUID]]:
    """Bring a runner to hold one task that has started, and three that it has claimed and could not start."""
    started = world.add("Hold", path=str(world.gate()))
    world.running(started)
    world.marked(started)
    work = world.work
    # One claim takes all four; the first blocks the loop, so that the others cannot begin.
    tasks = [work.Jam(path=str(world.gate())), *(work.Nap() for _ in range(3))]
    jam, *claimed = [answer.id for answer in world.queue.add_many(tasks)]
    world.running(jam)
    assert all(world.row(id_).state == "running" and world.row(id_).started_at is None for id_ in claimed)
    return started, claimed


@pytest.mark.parametrize("leases", [{}, QUICK], ids=["default leases", "short leases"])
def test_after_a_sigkill_of_supervisor_and_runner_another_takes_over_and_charges_only_what_had_started(
    world: World, leases: dict[str, str]
) -> None:
    """SPEC CRA 33."""
    first = world.fleet.start("runner", **leases)
    started, claimed = _started_and_claimed(world)
    first.kill()
    world.gate().touch()
    world.fleet.start("runner", **leases)
    world.running(started, times=2)  # after a lease of 15 s, and a rescue every 4 to 6 s: 21 s
    assert (view := world.ended(started)).state == "succeeded"
    assert (view.tries, view.crashes) == (0, 1)
    for id_ in claimed:
        view = world.ended(id_)
        assert (view.state, view.tries, view.crashes) == ("succeeded", 0, 0)


def test_after_a_sigkill_of_a_child_its_supervisor_rescues_at_once_and_charges_only_what_had_started(
    world: World,
) -> None:
    """SPEC CRA 33: not after a lease, which lasts an hour here."""
    group = world.fleet.start("runner", heartbeat="1", lease="1h")
    started, claimed = _started_and_claimed(world)
    victim = group.child()
    victim.kill()
    world.gate().touch()
    assert (view := world.ended(started)).state == "succeeded"
    assert (view.tries, view.crashes) == (0, 1)
    for id_ in claimed:
        view = world.ended(id_)
        assert (view.state, view.tries, view.crashes) == ("succeeded", 0, 0)
    assert group.child().pid != victim.pid
    assert group.process.poll() is None


def test_a_task_in_its_first_millisecond_is_charged_by_the_flight_recorder(world: World) -> None:
    """SPEC CRA 33: its start was never written to the database."""
    world.fleet.start("runner")
    poison = world.add("Poison")
    assert [run["crashes"] for run in world.running(poison, times=2)][:2] == [0, 1]


def test_a_task_that_kills_its_runner_is_dead_after_three_and_all_claimed_beside_it_succeed(world: World) -> None:
    """SPEC CRA 33."""
    work = world.work
    tasks = [work.Nap(seconds=0.05) for _ in range(150)]
    tasks[75:75] = [work.Poison()]
    ids = [answer.id for answer in world.queue.add_many(tasks)]
    poison = ids.pop(75)
    world.fleet.start("runner", "--concurrency", "50")
    view = world.ended(poison)
    assert (view.state, view.tries, view.crashes) == ("dead", 0, 3)
    assert view.errors[-1]["message"] == "its runner died 3 times"
    assert len(world.fleet.history.of("run", poison)) == 3
    ends = [world.ended(id_) for id_ in ids]
    assert {(end.state, end.tries) for end in ends} == {("succeeded", 0)}


def test_kills_at_full_drain_lose_and_double_nothing(world: World) -> None:
    """FAULTS F1, F3: with cycles in flight and hundreds of claims ahead, each task ends in exactly one row."""
    ids = [answer.id for answer in world.queue.add_many([world.work.Nothing() for _ in range(20_000)])]
    for ended in (2000, 8000, 14_000):
        group = world.fleet.start("runner", **QUICK)
        eventually(lambda ended=ended: _ended(world) >= ended, f"{ended} tasks have ended")
        group.kill()
    world.fleet.start("runner", **QUICK)
    eventually(lambda: _ended(world) >= len(ids), "all tasks have ended")
    assert world.value("SELECT count(*) FROM taskrunner.task") == 0
    assert world.value("SELECT count(*) FROM taskrunner.dead_letter") == 0
    ends = world.tables.execute("SELECT h.id, h.tries, h.state FROM taskrunner.task_history h").fetchall()
    assert sorted(ends) == sorted((id_, 0, "succeeded") for id_ in ids)
    assert world.value("SELECT sum(s.count)::int FROM taskrunner.task_stats s WHERE outcome = 'succeeded'") == len(ids)


def _ended(world: World) -> int:
    count: int = world.value("SELECT count(*) FROM taskrunner.task_history")
    return count


@pytest.mark.parametrize(
    ("type_", "seconds", "warning"),
    [("Nap", 7.0, ""), ("Block", 7.0, "the event loop has been blocked for"), ("Grip", 4.0, "the event loop")],
    ids=["sleeping politely", "blocking the loop", "holding the interpreter in C"],
)
def test_a_task_longer_than_its_leases_runs_once(world: World, type_: str, seconds: float, warning: str) -> None:
    """SPEC CRA 34: rescuers are at work all the while; the supervisor keeps the lease."""
    group = world.fleet.start("runner", **QUICK)
    world.up()
    world.fleet.start("scheduler", **QUICK)
    long = world.add(type_, seconds=seconds)
    view = world.ended(long)
    assert (view.state, view.tries, view.crashes) == ("succeeded", 0, 0)
    assert len(world.fleet.history.of("run", long)) == 1
    assert warning in group.log
    assert "lease" not in group.log


@pytest.mark.parametrize("supervisor_too", [True, False], ids=["with its supervisor", "alone"])
def test_a_runner_stopped_past_its_lease_can_write_nothing_and_joins_anew(world: World, supervisor_too: bool) -> None:
    """SPEC CRA 35."""
    group = world.fleet.start("runner", **QUICK)
    [old] = world.up()
    runner = group.child()
    ids = [world.add(type_, path=str(world.gate())) for type_ in ("Hold", "HoldThread", "Hold")]
    for id_ in ids:
        world.marked(id_)
    if supervisor_too:
        group.freeze()
    else:
        runner.suspend()
    world.fleet.start("runner", **QUICK)
    # One suspect at a time runs again; the others wait for it.
    eventually(lambda: len(world.fleet.history.of("run")) > len(ids), "a task that runs again")
    # Told to end, the stopped one alone has results to write as soon as it goes on; its threads run at once.
    Path(f"{world.gate()}.{runner.pid}").touch()
    if supervisor_too:
        group.thaw()
    else:
        runner.resume()
    fresh = world.up(2)
    assert old not in fresh
    rows = [world.row(id_) for id_ in ids]
    assert {row.crashes for row in rows} == {1}
    assert {row.state for row in rows} <= {"running", "pending"}
    assert old not in {row.runner_id for row in rows}
    world.gate().touch()
    assert {world.ended(id_).state for id_ in ids} == {"succeeded"}
    count = world.value("SELECT count(*) FROM taskrunner.task_history WHERE id = ANY(%s)", ids)
    assert count == len(ids)
    assert runner.is_running()
    assert "has lost its lease" in group.log or "cannot be kept" in group.log


# ── the database goes ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server of this test's own, which it may stop and start."""
    folder = tmp_path / "server"
    folder.mkdir()
    with Cluster.create(folder, settings={"max_connections": "50"}) as own:
        schema.migrate(own.url())
        yield own


@contextmanager
def _adding(queue: TaskQueue, tasks: Any) -> Iterator[list[UUID]]:
    """Add a task every few milliseconds meanwhile; what the door acknowledged is in the list."""
    acknowledged: list[UUID] = []
    over = threading.Event()

    def add() -> None:
        while not over.wait(0.01):
            with suppress(TaskrunnerError, psycopg.Error):
                acknowledged.append(queue.add(tasks()).id)

    thread = threading.Thread(target=add)
    thread.start()
    try:
        yield acknowledged
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_database_loses_nothing_and_ends_no_process(
    cluster: Cluster, tmp_path: Path, mode: Any
) -> None:
    """SPEC CRA 36."""
    work, registry = workload()
    with (
        fleet(cluster.url(), tmp_path / "fleet", **QUICK) as lent,
        TaskQueue.connect(cluster.url(), registry=registry) as queue,
    ):
        groups = [lent.start("runner"), lent.start("scheduler")]
        children = [group.child(kind) for group, kind in zip(groups, ("runner", "scheduler"), strict=True)]
        queue.wait(queue.add(work.Nap()).id, 60)
        with _adding(queue, work.Nap) as acknowledged:
            for _ in range(2):
                before = len(acknowledged)
                eventually(lambda before=before: len(acknowledged) > before + 20)
                cluster.stop(mode)
                cluster.start()
        ends = [queue.wait(id_, 60) for id_ in acknowledged]
        assert {(end.state, end.tries) for end in ends} == {("succeeded", 0)}
        assert all(child.is_running() for child in children)
        assert [group.stop() for group in groups] == [0, 0]


def test_backends_terminated_all_the_time_lose_nothing_and_end_no_process(world: World) -> None:
    """SPEC CRA 36."""
    groups = [world.fleet.start("runner", **QUICK), world.fleet.start("scheduler", **QUICK)]
    children = [group.child(kind) for group, kind in zip(groups, ("runner", "scheduler"), strict=True)]
    world.up()
    with _adding(world.queue, world.work.Nap) as acknowledged:
        for _ in range(40):
            world.tables.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND application_name LIKE 'taskrunner%%' ORDER BY random() LIMIT 2"
            )
            time.sleep(0.1)  # the rate of the fault
    assert acknowledged
    ends = [world.ended(id_) for id_ in acknowledged]
    assert {(end.state, end.tries) for end in ends} == {("succeeded", 0)}
    assert all(child.is_running() for child in children)
    assert [group.stop() for group in groups] == [0, 0]


# ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_containers_with_the_same_pids_and_host_name_share_nothing(world: World) -> None:
    """SPEC CRA 37: process namespaces make two supervisors pid 1, where we may have them."""
    group = [world.fleet.start("runner", **QUICK) for _ in range(2)]
    first = set(world.up(2))
    assert len(first) == 2
    # Half of a UUIDv7 is chance (RFC 9562, 5.7): nothing in it can be a host's or a process's.
    assert len({id_.int & ((1 << 62) - 1) for id_ in first}) == 2
    assert [one.stop() for one in group] == [0, 0]
    if shutil.which("unshare") and os.geteuid() == 0:
        _assert_namespaced_ids_differ()


def _assert_namespaced_ids_differ() -> None:
    script = "import os; from taskrunner.runner import Ties; print(os.getpid(), Ties().runner_id)"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    said = [subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT) for _ in range(2)]
    if all(one.returncode == 0 for one in said):
        (pid, id_), (other_pid, other_id) = (one.stdout.split() for one in said)
        assert pid == other_pid == "1"
        assert id_ != other_id
