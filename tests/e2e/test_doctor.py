"""`doctor` beside real processes: nothing to say of those that are well, and by its name what is wrong with others."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from taskrunner import reads
from taskrunner.db import connect, run
from taskrunner.doctor import Finding, examine
from taskrunner.settings import Settings
from taskrunner.testing.database import Database
from tests.processes import QUICK, eventually, fleet

OF_TESTS = {"durability-off"}
"""Tests' servers forget what they promise; it is they who are meant."""


def findings(url: str, **patience: Any) -> dict[str, Finding]:
    report = examine(url, Settings(), **patience)
    assert not report.unseen, report.unseen
    return {finding.id: finding for finding in report.findings if finding.id not in OF_TESTS}


def test_all_is_well_with_what_was_just_started_and_a_scheduler_that_stops_is_missed(
    taskrunner_db: Database, tmp_path: Path
) -> None:
    """SPEC OPS 50: no false alarm on a fresh `start all`; then without a scheduler; then with a frozen runner."""
    at_once = {"overdue": timedelta(0)}
    with fleet(taskrunner_db.url, tmp_path, **QUICK) as started, connect(taskrunner_db.url) as conn:

        def alive(kind: str) -> bool:
            return any(one.alive and one.kind == kind for one in run(conn, reads.runners()))

        both = started.start("all", api_port="0")
        eventually(lambda: alive("runner") and alive("scheduler") and not findings(taskrunner_db.url))
        both.stop()
        runner = started.start("runner")
        eventually(lambda: alive("runner"))
        conn.execute(
            "INSERT INTO taskrunner.schedule (id, name, type, trigger, next_tick_at, created_at)"
            " VALUES (gen_random_uuid(), 'Nightly', 'Nap', 'every 60s', now(), now())"
        )
        assert findings(taskrunner_db.url, **at_once)["scheduler-stopped"].severity == "error"
        runner.freeze()
        found = eventually(lambda: findings(taskrunner_db.url, **at_once).get("lease-expired"), "that the lease ends")
        assert "nobody is alive to do it" in found.evidence
        runner.thaw()
        eventually(lambda: "lease-expired" not in findings(taskrunner_db.url, **at_once))
        runner.stop()
