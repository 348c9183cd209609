"""The served API against its own description: schemathesis asks for everything that `/openapi.json` promises.

`make fuzz` runs the same for longer, with a seed of its own and the options of ARGS.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from taskrunner.db import connect, run
from taskrunner.store import enqueue
from taskrunner.store.enqueue import NewTask
from taskrunner.testing.database import Database
from tests.processes import ROOT, eventually, fleet

CONFIG = Path(__file__).with_name("schemathesis.toml")
DEMO = ROOT / "tests" / "demo"
TASKS = [UUID(id_) for id_ in tomllib.loads(CONFIG.read_text(encoding="utf-8"))["dictionaries"]["tasks"]["values"]]

# All but one: a task that was deleted is still shown, since it ended as cancelled.
CHECKS = ["--checks=all", "--exclude-checks=use_after_free", "--no-color"]

# What CI asks: always the same, in seconds. TASKRUNNER_FUZZ is set by `make fuzz`.
BOUNDED = ["--generation-deterministic", "--max-examples=6"]
CHOSEN = os.environ.get("TASKRUNNER_FUZZ")


def store_tasks(url: str) -> None:
    """Store the tasks that the configuration names: most end, each in its way; each third waits for a week."""
    ends = cycle(("succeed", "fail", "ignore", "snooze"))
    delays = cycle((timedelta(0), timedelta(0), timedelta(weeks=1)))
    new = [
        NewTask(id=id_, type="Echo", payload=json.dumps({"end": next(ends)}), queue="default", delay=next(delays))
        for id_ in TASKS
    ]
    with connect(url) as connection:
        run(connection, enqueue.add(new))


@pytest.fixture
def address(taskrunner_db: Database, tmp_path: Path) -> Iterator[str]:
    """A whole installation, since `/monitor/ready` promises 200 where tasks are run."""
    with fleet(taskrunner_db.url, tmp_path / "fleet", TASKRUNNER_PROJECT=str(DEMO)) as lent:
        store_tasks(taskrunner_db.url)
        group = lent.start("all", tasks="echo", api_port="0")
        listening = eventually(lambda: re.search(r"the API listens on (\S+)", group.log), "an API")
        eventually(lambda: httpx.get(f"{listening[1]}/monitor/ready").status_code == 200, "a runner")
        yield listening[1]
        assert "Exception in ASGI application" not in group.log


@pytest.mark.timeout(0 if CHOSEN else 180)
def test_the_api_keeps_what_its_description_promises(address: str, tmp_path: Path) -> None:
    """FAULTS F28: every operation, every check, well-formed and malformed; no failure, and no answer of 500."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{address}/openapi.json"]
    options = [*CHECKS, *(BOUNDED if CHOSEN is None else shlex.split(CHOSEN))]
    asked = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    print(asked.stdout, asked.stderr)
    assert asked.returncode == 0
    tested = re.search(r"Selected: (\d+)/(\d+)\n  Tested: (\d+)", asked.stdout)
    assert tested is not None
    assert len(set(tested.groups())) == 1, "an operation was left out"
