"""The faults, each a small function that strikes once; a storm repeats it."""

from __future__ import annotations

import signal
import time

import psutil

from tests.chaos.storm import Storm
from tests.processes import Group

FAIL_POINTS = ("after_claim", "before_run", "after_run", "before_finish", "after_finish")


def pause(storm: Storm, least: float, most: float) -> None:
    """Let the system work between two faults."""
    time.sleep(storm.chance.uniform(least, most))


def _living(storm: Storm, kind: str) -> list[Group]:
    return [group for group in storm.fleet.groups if group.process.poll() is None and group.children(kind)]


def kill_group(storm: Storm) -> None:
    """F1: SIGKILL a supervisor and its runner, and start another that dies by itself at a fail point."""
    groups = _living(storm, "runner")
    if groups:
        storm.chance.choice(groups).kill()
        storm.fleet.history.note("fault", name="group killed")
    point, passes = storm.chance.choice(FAIL_POINTS), storm.chance.randint(3, 40)
    storm.fleet.start("runner", TASKRUNNER_FAIL_POINT=f"{point}:kill:{passes}")
    pause(storm, 2.0, 4.0)


def kill_child(storm: Storm, kind: str = "runner") -> None:
    """F2: SIGKILL one child of a supervisor."""
    children = [child for group in _living(storm, kind) for child in group.children(kind)]
    ready = [child for child in children if child.pid in _joined(storm)]  # dead thrice before that: given up
    if ready:
        victim = storm.chance.choice(ready)
        victim.kill()
        storm.fleet.history.note("fault", name="child killed", victim=victim.pid)
    pause(storm, 0.5, 1.5)


def _joined(storm: Storm) -> set[int]:
    rows = storm.tables.execute("SELECT pid FROM taskrunner.runner WHERE lease_until > taskrunner.clock()")
    return {pid for (pid,) in rows}


def freeze_group(storm: Storm) -> None:
    """F4: SIGSTOP a supervisor and its runner, or the runner alone, for more than a lease; then SIGCONT."""
    group = storm.chance.choice(_living(storm, "runner"))
    stopped: list[psutil.Process] = group.everybody() if storm.chance.random() < 0.5 else group.children("runner")
    for process in stopped:
        process.suspend()
    storm.fleet.history.note("fault", name="stopped", victims=[process.pid for process in stopped])
    time.sleep(4.5)
    for process in stopped:
        process.resume()
    pause(storm, 0.5, 1.0)


def drain_group(storm: Storm) -> None:
    """F6: SIGTERM or SIGINT, once or twice, also in mid-start; it must leave with 0."""
    group = storm.fleet.start("runner", "--grace", storm.chance.choice(("0.1", "30")))
    if storm.chance.random() < 0.8:
        group.child("runner")
        pause(storm, 0.5, 2.0)
    group.signal(storm.chance.choice((signal.SIGTERM, signal.SIGINT)))
    if storm.chance.random() < 0.5 and group.process.poll() is None:
        pause(storm, 0.4, 0.8)
        group.signal(signal.SIGTERM)
    assert group.left_well(), group.wait()


def terminate_backends(storm: Storm) -> None:
    """F12: the connections of claimers, finishers, listeners and heartbeats, a few a second."""
    storm.tables.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'taskrunner%' ORDER BY random() LIMIT 2"
    )
    pause(storm, 0.1, 0.5)
