"""Real processes log JSON line by line, each line with its task; what tasks log survives; secrets are nowhere."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from pydantic import SecretStr

from taskrunner import reads
from taskrunner.db import connect, run
from taskrunner.queue import TaskQueue
from taskrunner.reads import TaskView
from taskrunner.registry import Registry, discover
from taskrunner.registry.types import isolated
from taskrunner.testing.database import Database
from tests.processes import PROJECT, QUICK, ROOT, Fleet, eventually, fleet

SECRET = "kx7-Qz'9\"/é"  # noqa: S105 - of the tests
TELLING = "kx7-Qz"
"""A part of it that is the same however it is written."""

FIELDS = {"task_id", "task_type", "task_try", "queue", "tenant", "runner"}


@pytest.fixture(scope="module")
def types() -> Iterator[Registry]:
    with isolated() as registry:
        discover(PROJECT, "talkative")
        yield registry.copy()


@pytest.fixture
def processes(taskrunner_db: Database, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(taskrunner_db.url, tmp_path, TASKRUNNER_TASKS="talkative", TASKRUNNER_LOG_FORMAT="json", **QUICK) as one:
        yield one


def make(types: Registry, name: str) -> Any:
    return types.get(name).cls(secret=SecretStr(SECRET))


def lines_of(db: Database, id_: UUID) -> list[str]:
    with connect(db.url) as conn:
        return [line.message for line in run(conn, reads.log_lines(id_)).lines]


def test_every_line_is_json_with_the_task_and_nothing_tells_the_secret(
    processes: Fleet, taskrunner_db: Database, types: Registry
) -> None:
    """SPEC OPS 49, FAULTS 4."""
    group = processes.start("all", api_port="0")
    with TaskQueue.connect(taskrunner_db.url, registry=types) as queue:
        added = {way: queue.add(make(types, f"talk.{way}")).id for way in ("loop", "thread", "process")}
        ended = queue.wait_all(list(added.values()), 60)
        queue.schedules.add("talks", make(types, "talk.loop"), 36000)
    assert [view.state for view in ended] == ["succeeded"] * 3
    for view in ended:
        assert len(view.errors) == 1
        assert view.result == {"used": "**********"}
        eventually(lambda view=view: len(lines_of(taskrunner_db, view.id)) >= 8, "its lines")  # type: ignore[misc]

    address = eventually(lambda: re.search(r"http://127\.0\.0\.1:\d+", group.log), "the API's address").group()  # type: ignore[union-attr]
    told = [*commands(taskrunner_db, ended[0]), *answers(address, ended[0])]
    assert group.stop() == 0

    lines = [json.loads(line) for line in group.log.splitlines()]
    for way, id_ in added.items():
        own = [line for line in lines if line.get("task_id") == str(id_)]
        assert all(line.keys() >= FIELDS for line in own)
        assert {line["task_try"] for line in own} == {1, 2}
        said = {line["message"].partition("\n")[0] for line in own}
        assert {f"{way}: mine of **********", f"{way}: theirs", f"{way}: beside", f"{way}: it failed"} <= said
        assert any(f"{way}: a warning of" in line["message"] for line in own)
        assert any(line.get("order") == 7 for line in own)
        assert any(line.get("bearer") == "**********" for line in own)
        assert any("ValueError: no **********" in line.get("exception", "") for line in own)
        assert any(line["message"].startswith("failed, the next try") for line in own)
        kept = lines_of(taskrunner_db, id_)
        assert f"{way}: mine of **********" in kept
        assert TELLING not in "".join(kept)
    assert any("broken" in line["message"] and "OSError" in line["exception"] for line in lines if "exception" in line)
    assert TELLING not in group.log
    for place, text in told:
        assert TELLING not in text, place
    stored = everything_but_payloads(taskrunner_db)
    assert "**********" in stored
    assert TELLING not in stored


COMMANDS = """
import sys
from contextlib import suppress
from taskrunner.cli import main
for line in sys.stdin:
    print("$", line, flush=True)
    with suppress(SystemExit):
        main(line.split())
"""
"""Many commands in one process: to start an interpreter for each takes longer than they do."""


def commands(db: Database, task: TaskView) -> Iterator[tuple[str, str]]:
    """What the command line says of it, from a folder that knows nothing of the task's class."""
    words = (
        f"tasks show {task.id}",
        f"tasks show {task.id} --json",
        f"tasks show {task.id} --log",
        f"tasks show {task.id} --log --json",
        f"why {task.id}",
        "tasks list --json",
        "tasks list",
        "dead list --json",
        "schedules list --json",
        "schedules list",
        "schedules show talks --json",
        "audit list --json",
        "status --json",
        "doctor --json",
        "config show",
    )
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input="\n".join(words),
        env={**os.environ, "DATABASE_URL": db.url, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        cwd=PROJECT.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = done.stdout.split("$ ")[1:]
    assert len(told) == len(words), done.stderr
    assert all("**********" in said for said in told[:2]), told[:2]
    yield from zip(words, told, strict=True)
    yield "stderr", done.stderr


def answers(address: str, task: TaskView) -> Iterator[tuple[str, str]]:
    """What the API and the dashboard say of it."""
    paths = [f"/tasks/{task.id}", f"/tasks/{task.id}/log", "/tasks", "/dead-letters", "/schedules", "/schedules/talks"]
    paths += ["/audit", "/monitor/stats", "/metrics", "/openapi.json", f"/tasks/{task.id}/why"]
    paths += ["/ui", f"/ui/tasks/{task.id}", "/ui/tasks", "/ui/schedules", "/ui/audit"]
    for path in paths:
        try:
            with urlopen(Request(address + path), timeout=30) as answer:  # noqa: S310 - http on loopback
                yield path, answer.read().decode()
        except HTTPError as error:
            yield path, error.read().decode()


def everything_but_payloads(db: Database) -> str:
    """What the database holds of tasks beside what run() gets."""
    with connect(db.url) as conn:
        rows = conn.execute(
            "SELECT h.errors::text, h.result::text, h.progress::text, h.meta::text, h.unique_key"
            "  FROM taskrunner.task_history h"
        ).fetchall()
        rows += conn.execute("SELECT l.message, l.level FROM taskrunner.task_log l").fetchall()
        rows += conn.execute("SELECT a.details::text, a.target FROM taskrunner.audit a").fetchall()
    return str(rows)


def test_what_a_task_has_logged_survives_the_death_of_its_runner(
    processes: Fleet, taskrunner_db: Database, types: Registry
) -> None:
    """SPEC CRA 33: at most what was said in the last second is lost."""
    group = processes.start("runner")
    with TaskQueue.connect(taskrunner_db.url, registry=types) as queue:
        id_ = queue.add(make(types, "talk.killed")).id
    eventually(lambda: lines_of(taskrunner_db, id_) == ["the last words"], "its line, while it runs")
    os.kill(group.child("runner").pid, signal.SIGKILL)
    assert lines_of(taskrunner_db, id_)[0] == "the last words"
