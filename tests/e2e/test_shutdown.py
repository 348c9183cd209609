"""Signals: what runs is finished or handed back unchanged, nothing further is claimed, and the exit code is right."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from taskrunner import schema
from taskrunner.embedded import Cluster
from tests.e2e.conftest import World
from tests.processes import QUICK, Group, eventually, fleet

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
AT_ONCE = 60.0
"""Seconds that count as "within one" on a machine that is busy: far less than any grace period given here."""


def asked(group: Group) -> None:
    """Wait until the supervisor has taken its first signal."""
    eventually(lambda: "draining" in group.log, "the supervisor's word that it drains")


@SIGNALS
def test_a_signal_lets_what_runs_finish_and_claims_nothing_further(world: World, number: int) -> None:
    """SPEC SHU 44."""
    group = world.fleet.start("runner", "--grace", "5m")
    running = [world.add(type_, path=str(world.gate())) for type_ in ("Hold", "HoldThread")]
    for id_ in running:
        world.running(id_)
    group.signal(number)
    asked(group)
    late = [world.add("Nap") for _ in range(20)]
    time.sleep(1.5)  # longer than a poll: time to do what must not happen
    assert {world.row(id_).state for id_ in late} == {"pending"}
    world.gate().touch()
    assert group.wait() == 0
    assert {world.row(id_).state for id_ in running} == {"succeeded"}
    assert {world.row(id_).state for id_ in late} == {"pending"}
    assert group.log.count("drained: 2 tasks ended, 0 released") == 2, "by the runner and by its supervisor"
    assert world.value("SELECT count(*) FROM taskrunner.runner") == 0
    assert world.fleet.survivors() == []


def test_past_the_grace_period_tasks_are_released_unchanged_and_run_elsewhere(world: World) -> None:
    """SPEC SHU 44: a thread that nothing can end goes with its process."""
    group = world.fleet.start("runner", "--grace", "0.5")
    ids = [world.add(type_, path=str(world.gate())) for type_ in ("Hold", "HoldThread", "HoldChild")]
    for id_ in ids:
        world.running(id_)
    group.signal(signal.SIGTERM)
    assert group.wait() == 0
    assert "drained: 0 tasks ended, 3 released" in group.log
    assert world.fleet.survivors() == []
    for id_ in ids:
        row = world.row(id_)
        assert (row.state, row.tries, row.crashes, row.runner_id, row.errors) == ("pending", 0, 0, None, [])
    world.fleet.start("runner")
    for id_ in ids:
        world.running(id_, times=2)
    world.gate().touch()
    for id_ in ids:
        view = world.ended(id_)
        assert (view.state, view.tries, view.crashes) == ("succeeded", 0, 0)
        assert len(world.fleet.history.of("done", id_)) == 1


@SIGNALS
def test_a_second_signal_releases_at_once(world: World, number: int) -> None:
    """SPEC SHU 44."""
    group = world.fleet.start("runner", "--grace", "10m")
    ids = [world.add(type_, path=str(world.gate())) for type_ in ("Hold", "HoldThread", "HoldChild")]
    for id_ in ids:
        world.running(id_)
    group.signal(number)
    asked(group)
    time.sleep(0.5)  # two signals within 0.3 s are one that came by two ways
    assert group.process.poll() is None
    group.signal(number)
    assert group.wait(AT_ONCE) == 0
    assert world.fleet.survivors() == []
    for id_ in ids:
        row = world.row(id_)
        assert (row.state, row.tries, row.crashes) == ("pending", 0, 0)


def test_a_loop_that_is_blocked_holds_up_a_second_signal_no_longer_than_others(world: World) -> None:
    """SPEC SHU 44: the child cannot hear; its supervisor kills it and releases what it held."""
    group = world.fleet.start("runner", "--grace", "10m")
    jam = world.add("Jam", path=str(world.gate()))
    world.running(jam)
    group.signal(signal.SIGTERM)
    asked(group)
    time.sleep(0.5)
    group.signal(signal.SIGTERM)
    group.wait(AT_ONCE)
    row = world.row(jam)
    assert (row.state, row.tries, row.crashes) == ("pending", 0, 0)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("runner", signal.SIGINT), ("scheduler", signal.SIGTERM), ("api", signal.SIGINT), ("all", signal.SIGTERM)],
)
def test_idle_processes_end_at_once(world: World, kind: str, number: int) -> None:
    """SPEC SHU 44."""
    port = ["--port", "0"] if kind in ("api", "all") else []
    group = world.fleet.start(kind, *port, "--grace", "10m")
    for child in ("scheduler", "runner", "api") if kind == "all" else (kind,):
        group.child(child)
    if kind in ("runner", "all"):
        world.up()
    group.signal(number)
    assert group.wait(AT_ONCE) == 0
    assert world.fleet.survivors() == []


def test_processes_end_at_once_while_the_database_is_away(tmp_path: Path) -> None:
    """SPEC SHU 44."""
    folder = tmp_path / "server"
    folder.mkdir()
    with Cluster.create(folder) as cluster, fleet(cluster.url(), tmp_path / "fleet", **QUICK) as lent:
        schema.migrate(cluster.url())
        groups = [lent.start(kind, "--grace", "10m") for kind in ("runner", "scheduler")]
        eventually(lambda: "joined" in groups[0].log)
        groups[1].child("scheduler")
        cluster.stop("immediate")
        eventually(lambda: all("reached" in group.log for group in groups), "complaints that the database is away")
        for group in groups:
            group.signal(signal.SIGTERM)
        assert [group.wait(AT_ONCE) for group in groups] == [0, 0]
        assert lent.survivors() == []


def test_children_drain_when_their_supervisor_is_killed(world: World) -> None:
    """SPEC SHU 44: nobody beats for them any more; what they run is finished while the lease lasts."""
    group = world.fleet.start("runner")
    task = world.add("Hold", path=str(world.gate()))
    world.running(task)
    child = group.child()
    group.process.kill()
    eventually(lambda: "the supervisor is gone" in group.log)
    world.gate().touch()
    assert world.ended(task).state == "succeeded"
    child.wait(60)
    assert world.fleet.survivors() == []


def test_a_child_that_dies_is_started_again_with_growing_pauses(world: World) -> None:
    """SPEC SHU 45."""
    group = world.fleet.start("runner")
    pid = 0
    for _ in range(3):
        child = group.child("runner", other_than=pid)
        world.ended(world.add("Nap"))
        pid = child.pid
        child.kill()
    group.child("runner", other_than=pid)
    world.ended(world.add("Nap"))
    assert group.log.count("starting it again") == 3
    assert group.stop() == 0


@pytest.mark.parametrize("manner", ["raise", "exit"])
def test_a_child_that_keeps_dying_brings_the_rest_down_gracefully(world: World, manner: str) -> None:
    """SPEC SHU 45: `raise` is a configuration that cannot be read, `exit` a death without a word."""
    group = world.fleet.start("all", "--port", "0", WORKLOAD_BREAK=f"scheduler:{manner}:{world.gate('break')}")
    world.up()
    task = world.add("Hold", path=str(world.gate()))
    world.running(task)
    world.gate("break").touch()
    group.child("scheduler").kill()
    asked(group)
    world.gate().touch()
    assert group.wait() == 1
    assert world.row(task).state == "succeeded"
    assert "scheduler cannot start" in group.log
    assert world.fleet.survivors() == []


def test_an_api_that_cannot_listen_brings_the_rest_down_instead_of_being_tried_for_ever(world: World) -> None:
    """SPEC SHU 45: a port that is taken; the reason is told with the settings to change, once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        group = world.fleet.start("api", "--port", str(taken.getsockname()[1]))
        assert group.wait() == 1
    assert group.log.count("TASKRUNNER_API_PORT") == 1


def test_a_start_says_on_which_database_what_runs_and_how_it_ends(world: World) -> None:
    group = world.fleet.start("runner", "--grace", "5m", "--processes", "2")
    world.up(2)
    assert "database: postgresql://" in group.log
    assert "starting 2 runners; Ctrl-C ends it: what is running gets 5m to finish" in group.log
    assert group.stop() == 0
