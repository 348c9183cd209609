"""SIGKILL of the process that runs a task at every step around `run_once` and inside `context.session()`.

The ledger has a row for each time that an effect has happened, and no constraint that would hide a second one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from taskrunner.registry import discover
from tests.engine import Engine
from tests.processes import PROJECT, QUICK, ROOT, eventually, fleet

pytestmark = pytest.mark.anyio

# A runner in a process of its own; LISTEN is not needed for what is there already.
RUNNER = """
import asyncio, sys
from taskrunner.registry import discover
from taskrunner.runner import Runner
from taskrunner.settings import Settings
registry = discover(sys.argv[2], "effects")
asyncio.run(Runner(sys.argv[1], registry, Settings(process_slots=1, listen=False)).run())
"""

ON_LOOP_OR_THREAD, IN_CHILD = ("loop", "thread"), ("child", "child-loop")
SOME = ("session_executed:kill:1", "effect_kept:kill", "before_session_commit:kill", "after_session_commit:kill")
AROUND = [f"{point}:kill:{time}" for point in ("before_effect", "after_effect", "effect_kept") for time in (1, 2)]
INSIDE = [
    *(f"{point}:kill:{time}" for time in (1, 2, 3) for point in ("session_statement", "session_executed")),
    *("before_effect:kill", "after_effect:kill", "effect_kept:kill"),
    *("session_finish:kill:1", "session_finish:kill:2", "before_session_commit:kill", "after_session_commit:kill"),
]
BESIDE = ["after_claim:kill", "before_run:kill", "after_run:kill", "before_finish:kill", "after_finish:kill"]


@pytest.fixture
def work(engine: Engine) -> Any:
    """The tasks of tests/project/effects.py, and their ledger."""
    sys.modules.pop("effects", None)
    discover(PROJECT, "effects")
    module = sys.modules["effects"]
    engine.conn.execute(module.LEDGER)
    return module


@contextmanager
def runner(engine: Engine, fail_point: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run a runner that dies at the fail point, or whose child does; afterwards it is dead."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TASKRUNNER_")},
        "PYTHONPATH": str(ROOT),
        "EFFECTS_DELAY": "3600",
        **({"TASKRUNNER_FAIL_POINT": fail_point} if fail_point else {}),
    }
    command = [sys.executable, "-c", RUNNER, engine.url, str(PROJECT)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ledger(engine: Engine, id_: UUID) -> Counter[str]:
    return Counter(row[0] for row in engine.rows("SELECT what FROM ledger WHERE task = %s", id_))


def taken_back(engine: Engine) -> None:
    """End all leases: what was claimed, or waits for its next try, is due."""
    for (dead,) in engine.rows("SELECT id FROM taskrunner.runner"):
        engine.die(dead, limit=100)
    engine.conn.execute("UPDATE taskrunner.task SET maturity_at = taskrunner.clock()")


async def recovered(engine: Engine, id_: UUID) -> None:
    """Take back what the dead runner held, and run it to its end."""
    taken_back(engine)
    async with engine.running(process_slots=1, grace=timedelta(seconds=30)) as running:
        (view,) = await running.ended(id_)
    assert view.state == "succeeded"
    assert engine.ends(id_) == 1


async def struck(engine: Engine, id_: UUID, way: str, fail_point: str) -> None:
    """Let the process that runs the task die at the fail point."""
    with runner(engine, fail_point) as process:
        if way in IN_CHILD:
            view = eventually(
                lambda: (seen := engine.view(id_)).state != "running" and (seen.tries or seen.finished_at) and seen,
                "its death",
            )
            assert view.state == "succeeded" or signal.SIGKILL.name in view.errors[-1]["message"]
        else:
            assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("way", "fail_point"),
    [
        *((way, point) for way in (*ON_LOOP_OR_THREAD, "child") for point in INSIDE),
        *(("child-loop", point) for point in SOME),
    ],
)
async def test_a_crash_at_any_statement_inside_the_session_makes_each_effect_once(
    engine: Engine, work: Any, way: str, fail_point: str
) -> None:
    """SPEC ONC 56, FAULTS F1, I5: the two plain statements, the one of `run_once`, and its key."""
    with engine.door() as door:
        id_ = door.add(work.WAYS[way][1](end="result")).id
    await struck(engine, id_, way, fail_point)
    if fail_point.startswith("after_session_commit"):
        assert engine.view(id_).state == "succeeded"
        assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}
    else:
        eventually(lambda: ledger(engine, id_) == {}, "nothing of the dead run is left")
        await recovered(engine, id_)
    assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}
    assert engine.value("SELECT count(*) FROM taskrunner.effect WHERE task_id = %s", id_) == 1
    assert engine.value("SELECT sum(count)::int FROM taskrunner.task_stats WHERE outcome = 'succeeded'") == 1
    assert engine.ends(id_) == 1


@pytest.mark.parametrize("fail_point", AROUND)
@pytest.mark.parametrize("way", [*ON_LOOP_OR_THREAD, "child"])
async def test_a_crash_around_run_once_repeats_an_effect_only_between_its_end_and_its_record(
    engine: Engine, work: Any, way: str, fail_point: str
) -> None:
    """SPEC ONC 56, FAULTS F1, I5: outside of the database nothing can close that gap."""
    with engine.door() as door:
        id_ = door.add(work.WAYS[way][0](url=engine.url)).id
    await struck(engine, id_, way, fail_point)
    await recovered(engine, id_)
    again = {"after_effect:kill:1": "first", "after_effect:kill:2": "second"}.get(fail_point)
    assert ledger(engine, id_) == {what: 2 if what == again else 1 for what in ("first", "second")}


@pytest.mark.parametrize("fail_point", BESIDE)
async def test_a_crash_of_the_runner_before_or_after_the_run_makes_each_effect_once(
    engine: Engine, work: Any, fail_point: str
) -> None:
    """SPEC ONC 56, FAULTS F1, I5."""
    with engine.door() as door:
        id_ = door.add(work.OutsideOnLoop(url=engine.url)).id
    await struck(engine, id_, "loop", fail_point)
    if fail_point != "after_finish:kill":
        await recovered(engine, id_)
    assert ledger(engine, id_) == {"first": 1, "second": 1}
    assert engine.view(id_).state == "succeeded"


@pytest.mark.parametrize("way", [*ON_LOOP_OR_THREAD, *IN_CHILD])
async def test_the_death_of_a_runner_rolls_back_the_session_of_the_task_that_it_runs(
    engine: Engine, work: Any, way: str
) -> None:
    """SPEC ONC 56: a child process dies with its runner."""
    with engine.door() as door:
        id_ = door.add(work.WAYS[way][1](end="wait")).id
    with runner(engine):
        eventually(lambda: _open_sessions(engine), "a session")
    eventually(lambda: not _open_sessions(engine), "its end")
    assert ledger(engine, id_) == {}
    engine.conn.execute("INSERT INTO go VALUES (1)")
    await recovered(engine, id_)
    assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}


def _open_sessions(engine: Engine) -> int:
    return len(engine.backends("taskrunner runner session"))


@pytest.mark.parametrize("way", [*ON_LOOP_OR_THREAD, "child"])
async def test_a_runner_that_is_stopped_inside_a_session_holds_up_nobody_and_can_commit_no_more(
    engine: Engine, work: Any, way: str
) -> None:
    """SPEC ONC 56, CRA 35, FAULTS F4, I4: its transaction stays open, with the effect and its key in it."""
    with engine.door() as door:
        id_ = door.add(work.WAYS[way][1](end="wait")).id
    with runner(engine) as process:
        eventually(lambda: _in_the_block(engine), "a session that has done its work")
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in processes:
            one.suspend()
        engine.conn.execute("INSERT INTO go VALUES (1)")
        taken_back(engine)
        with runner(engine):
            assert eventually(lambda: engine.view(id_).finished_at, "its end elsewhere")
        assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}
        for one in processes:
            one.resume()
        eventually(lambda: not _in_the_block(engine), "the end of the stopped one's session")
    assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}
    assert engine.ends(id_) == 1
    assert engine.value("SELECT count(*) FROM taskrunner.effect WHERE task_id = %s", id_) == 1


def _in_the_block(engine: Engine) -> int:
    """Count the sessions that wait in their block for the test to let them go."""
    return int(
        engine.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskrunner runner session'"
            " AND datname = current_database() AND query LIKE '%%FROM go%%'"
        )
    )


@pytest.mark.parametrize("way", [*ON_LOOP_OR_THREAD, "child"])
async def test_under_a_supervisor_a_killed_runner_commits_its_sessions_effects_once(
    engine: Engine, work: Any, tmp_path: Path, way: str
) -> None:
    """SPEC ONC 56, CRA 33, FAULTS F2: killed each time it comes to the commit, until the fail point is gone."""
    told = {"tasks": "effects", "crash_limit": "1000", "EFFECTS_DELAY": "1", **QUICK}
    with fleet(engine.url, tmp_path / "fleet") as lent, engine.door() as door:
        id_ = door.add(work.WAYS[way][1](end="result")).id
        group = lent.start("runner", **told, TASKRUNNER_FAIL_POINT="before_session_commit:kill")
        eventually(lambda: (view := engine.view(id_)).crashes + view.tries >= 2, "two deaths")
        group.kill()
        assert ledger(engine, id_) == {}
        lent.start("runner", **told)
        view = eventually(lambda: (seen := engine.view(id_)).finished_at and seen, "its end")
    assert view.state == "succeeded"
    assert view.crashes + view.tries >= 2
    assert ledger(engine, id_) == {"plain": 1, "once": 1, "last": 1}
    assert engine.ends(id_) == 1
