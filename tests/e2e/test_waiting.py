"""Waiting across processes: one program adds, runners of others run, a third one waits (SPEC FLO 58)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskrunner import TaskQueue, db, schema
from taskrunner.embedded import Cluster
from taskrunner.store import steering
from tests.processes import PATIENCE, PROJECT, ROOT, eventually, workload

WAITER = """
import json, sys
from taskrunner import TaskQueue

with TaskQueue.connect() as queue:
    print("waiting", flush=True)
    for task in queue.as_completed(sys.argv[1:], timeout=60):
        print(json.dumps([str(task.id), task.state]), flush=True)
"""


def environment(world: Any) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKRUNNER_")}
    project = {"TASKRUNNER_PROJECT": str(PROJECT), "TASKRUNNER_TASKS": "workload"}
    return {**kept, **project, "DATABASE_URL": world.fleet.url, "PYTHONPATH": str(ROOT)}


def start(world: Any, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment(world),
        cwd=world.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_tasks_of_one_process_are_waited_for_by_another_and_run_by_a_third(world: Any) -> None:
    """SPEC FLO 58: the waiter hears of the ends in the order in which they come to pass."""
    world.fleet.start("runner")
    world.up()
    gates = [world.gate(name) for name in ("first", "second", "third")]
    ids = [world.add("Hold", path=str(gate)) for gate in gates]
    waiter = start(world, "-c", WAITER, *map(str, ids))
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "waiting\n"
    seen = []
    for number in (2, 0, 1):
        gates[number].touch()
        seen.append(json.loads(waiter.stdout.readline()))
    assert seen == [[str(ids[number]), "succeeded"] for number in (2, 0, 1)]
    assert waiter.communicate(timeout=PATIENCE) == ("", "")
    assert waiter.returncode == 0


def test_a_wait_outlives_the_runner_that_is_killed(world: Any) -> None:
    """SPEC FLO 58, CRA 33."""
    group = world.fleet.start("runner")
    world.up()
    gate = world.gate()
    id_ = world.add("Hold", path=str(gate))
    waiter = start(world, "-c", WAITER, str(id_))
    world.running(id_)
    child = group.child()
    child.send_signal(signal.SIGKILL)
    world.running(id_, 2)
    gate.touch()
    out, err = waiter.communicate(timeout=PATIENCE)
    assert (waiter.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1]) == [str(id_), "succeeded"]
    assert world.row(id_).crashes == 1


@pytest.mark.parametrize("end", [Cluster.stop, Cluster.kill])
def test_waits_outlive_a_restart_of_the_server(end: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SPEC FLO 58, CRA 36: also one in which the tasks end before anybody listens again."""
    work, registry = workload()
    with Cluster.create(tmp_path, settings={"fsync": "off"}) as cluster, ThreadPoolExecutor(3) as threads:
        schema.migrate(cluster.url())
        with TaskQueue.connect(cluster.url(), registry=registry) as queue:
            added = queue.add_many([work.Nothing() for _ in range(3)])
            waits = [threads.submit(queue.wait, one, PATIENCE) for one in added]
            marked = "SELECT count(*) = 3 FROM taskrunner.task WHERE awaited"
            with psycopg.connect(cluster.url(), autocommit=True) as conn:
                eventually(lambda: conn.execute(marked).fetchone() == (True,))
            end(cluster)
            eventually(lambda: "the LISTEN connection of a wait was lost" in caplog.text)
            cluster.start()
            with db.connect(cluster.url()) as conn:
                for one in added:
                    db.run(conn, steering.cancel(one.id))
            assert [wait.result(PATIENCE).state for wait in waits] == ["cancelled"] * 3
    assert caplog.text.count("the LISTEN connection of a wait was lost") == 1


def test_enqueue_waits_for_the_end_and_a_key_leads_to_the_task_that_has_it(world: Any) -> None:
    world.fleet.start("runner")
    world.up()
    gate = world.gate()
    payload = json.dumps({"path": str(gate)})
    command = ("-m", "taskrunner", "enqueue", "work.hold", payload, "--key", "one", "--wait", "--json")
    waiters = [start(world, *command) for _ in range(3)]
    listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskrunner wait'"
    eventually(lambda: world.value(listening) == 3, "three waiters")
    gate.touch()
    ends = [json.loads(waiter.communicate(timeout=PATIENCE)[0]) for waiter in waiters]
    assert len({end["id"] for end in ends}) == 1
    assert sorted(end["created"] for end in ends) == [False, False, True]
    assert {end["state"] for end in ends} == {"succeeded"}
    assert [waiter.returncode for waiter in waiters] == [0, 0, 0]
