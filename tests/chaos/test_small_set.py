"""The small set of faults (F1, F2, F4, F6, F7, F12, F15, F16, F25, F29): after each, the checker finds nothing wrong.

`make chaos SECONDS=600` makes the storms longer; TASKRUNNER_CHAOS_SEED, which a failed test prints, repeats one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskrunner import schema
from taskrunner.embedded import Cluster
from taskrunner.errors import TaskrunnerError
from taskrunner.testing.database import Database
from tests.chaos import faults
from tests.chaos.proxy import Proxy, Rule
from tests.chaos.storm import Storm, at_work, seconds, storm
from tests.processes import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300 + 4 * seconds())]


@pytest.fixture
def here(taskrunner_db: Database, tmp_path: Path) -> Iterator[Storm]:
    """A storm on a database of this test's own."""
    with storm(taskrunner_db.url, tmp_path) as lent:
        yield lent


def test_killed_runners_and_supervisors_lose_and_double_nothing(here: Storm) -> None:
    """F1, at fail points and from outside: I1 I3 I5 I10."""
    here.fleet.start("runner")
    at_work(here, 1)
    here.strike(faults.kill_group)
    here.fleet.start("runner")
    here.calm()
    assert here.judge() == []


def test_killed_children_lose_and_double_nothing(here: Storm) -> None:
    """F2: the supervisor rescues at once."""
    here.fleet.start("runner")
    at_work(here, 1)
    here.strike(faults.kill_child)
    here.calm()
    assert here.judge() == []


def test_runners_that_were_stopped_past_their_leases_write_nothing_stale(here: Storm) -> None:
    """F4: I3 I4 I5."""
    for _ in range(2):
        here.fleet.start("runner")
    at_work(here, 2)
    here.strike(faults.freeze_group)
    here.calm()
    assert here.judge() == []


def test_drained_runners_lose_and_charge_nothing(here: Storm) -> None:
    """F6: I12, no try and no crash is charged."""
    here.fleet.start("runner")
    at_work(here, 1)
    here.strike(faults.drain_group)
    here.calm()
    assert here.judge() == []
    charged = here.tables.execute("SELECT count(*) FROM taskrunner.task_history WHERE crashes > 0").fetchone()
    assert charged == (0,)


def test_schedulers_killed_between_any_two_statements_of_a_tick_neither_lose_nor_double_one(
    taskrunner_db: Database, tmp_path: Path
) -> None:
    """F7: I6; the last place to die is before the commit."""
    with storm(taskrunner_db.url, tmp_path, WORKLOAD_TICK="0.2") as here:
        here.fleet.start("runner")
        until = time.monotonic() + seconds()

        def cut_everywhere() -> bool:
            if not any(group.process.poll() is None for group in here.fleet.groups[1:]):
                here.fleet.start("scheduler", WORKLOAD_KILL_TICK="yes")
                here.fleet.start("scheduler", WORKLOAD_KILL_TICK="yes")
            cuts = here.fleet.history.of("fault")
            places = {cut["after"] for cut in cuts}
            return any(cut["commit"] for cut in cuts) and len(places) > 5 and time.monotonic() > until

        eventually(cut_everywhere, "a death at every place of a tick", patience=60 + 2 * seconds())
        for group in here.fleet.groups[1:]:
            group.kill()
        here.fleet.start("scheduler")
        behind = "SELECT count(*) FROM taskrunner.schedule WHERE next_tick_at < taskrunner.clock() - interval '1 s'"
        eventually(lambda: here.tables.execute(behind).fetchone() == (0,), "ticks that are made up for")
        here.fleet.groups[-1].stop()
        here.calm()
        assert here.judge() == []
        assert here.fleet.history.of("run")


def test_terminated_backends_lose_and_double_nothing(here: Storm) -> None:
    """F12: I1 to I7."""
    here.fleet.start("runner")
    here.fleet.start("scheduler")
    at_work(here, 1)
    here.strike(faults.terminate_backends)
    here.calm()
    assert here.judge() == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server of this test's own that listens on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path / "server"
    folder.mkdir()
    settings = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
    with Cluster.create(folder, settings=settings) as own:
        schema.migrate(own.url())
        yield own


def by_way_of(proxy: Proxy, cluster: Cluster) -> str:
    """Return the cluster's URL through the proxy, in clear."""
    return (
        f"postgresql://postgres:{cluster.password}@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"
    )


def port_of(cluster: Cluster) -> int:
    """Return the port that the cluster listens on."""
    return int(cluster.url().rpartition("port=")[2])


def test_replies_that_are_lost_after_the_commit_lose_and_double_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """F15: the reply of COMMIT, or of a statement that is its own transaction, for add, cycle and tick: I1 I2 I4 I6."""
    with (
        Proxy(port_of(cluster)) as proxy,
        storm(cluster.url(), tmp_path, through=by_way_of(proxy, cluster), WORKLOAD_TICK="0.3") as here,
    ):
        here.fleet.start("runner")
        here.fleet.start("scheduler")
        at_work(here, 1)
        proxy.rules += [
            Rule("queue", "COMMIT", "after", 0.1),
            Rule("queue", "taskrunner.add_one", "after", 0.1),
            Rule("queue", "taskrunner.add_one|INSERT INTO taskrunner.task ", "during", 0.03),
            Rule("runner$", "picked AS MATERIALIZED", "after", 0.1),
            Rule("runner$", "picked AS MATERIALIZED", "during", 0.05),
            Rule("runner$", "retried AS", "after", 0.2),
            Rule("scheduler$", "COMMIT", "after", 0.15),
            Rule("scheduler$", "UPDATE taskrunner.schedule", "during", 0.1),
        ]
        here.strike(lambda here: faults.pause(here, 0.5, 0.5))
        hits = [rule.hits for rule in proxy.rules]
        proxy.rules.clear()
        here.fleet.groups[1].stop()
        here.calm()
        assert here.judge() == []
        assert sum(hits) > 5, hits


@pytest.mark.parametrize("statement", ["LISTEN", "SET application_name"], ids=["from its beginning", "later"])
def test_a_listen_connection_that_swallows_everything_is_noticed_and_holds_up_nothing(
    cluster: Cluster, tmp_path: Path, statement: str
) -> None:
    """F16: the poll finds what NOTIFY does not tell; silence counts as death after a while."""
    listening = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name LIKE 'taskrunner listen%'"
    with (
        Proxy(port_of(cluster)) as proxy,
        storm(cluster.url(), tmp_path, through=by_way_of(proxy, cluster)) as here,
    ):
        proxy.rules.append(Rule("listen", statement, "swallow"))
        here.fleet.start("runner")
        at_work(here, 1)
        eventually(lambda: proxy.hits() > 0)
        ids = [here.queue.add(here.work.Nap()).id for _ in range(20)]
        assert {here.queue.wait(id_, 60).state for id_ in ids} == {"succeeded"}
        proxy.rules.clear()
        eventually(lambda: "LISTEN connection was lost" in here.fleet.groups[0].log, "that the silence is noticed")
        eventually(lambda: here.tables.execute(listening).fetchone() != (None,), "a new LISTEN")
        here.calm()
        assert here.judge() == []


@pytest.mark.parametrize("type_", ["DeathInChild", "DeathInRunner"])
def test_tasks_that_end_their_process_cost_only_themselves(here: Storm, type_: str) -> None:
    """F25: segfault, os._exit, out of memory, stack overflow; I8, the others run on."""
    manners = ("segfault", "exit", "memory", "stack", "kill")
    here.fleet.start("runner", TASKRUNNER_CONCURRENCY="10")
    at_work(here, 1)
    deaths = here.work.DeathInChild if type_ == "DeathInChild" else here.work.DeathInRunner
    with here.adding():
        tasks = [deaths(manner=manner) for manner in (manners if type_ == "DeathInChild" else manners[:1])]
        for task in tasks:
            here.queue.add(task)
        ends = [here.queue.wait(task.id, 120) for task in tasks]
    assert {end.state for end in ends} == {"dead"}
    if type_ == "DeathInChild":
        assert {end.crashes for end in ends} == {0}
    here.calm()
    assert here.judge() == []


def test_many_who_want_the_same_key_get_one_live_task(here: Storm) -> None:
    """F29: enqueue, cancel, finish and rescue at once on one key: I9."""
    here.mix = lambda here: here.work.Single(key="one")
    here.fleet.start("runner")
    at_work(here, 1)
    over = threading.Event()

    def cancel() -> None:
        while not over.wait(0.05):
            with suppress(TaskrunnerError):
                if (id_ := here.add()) is not None:
                    here.queue.cancel(id_)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    until = time.monotonic() + seconds()
    try:
        with here.adding(pause=0.01, threads=20):
            while time.monotonic() < until or len({event["task"] for event in here.fleet.history.of("done")}) < 3:
                faults.kill_child(here)
                faults.pause(here, 0.5, 1.0)
    finally:
        over.set()
        canceller.join()
    here.calm()
    assert here.judge() == []
