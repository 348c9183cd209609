"""Row 6: how long a task that meets an idle runner waits."""

from __future__ import annotations

import json

from benchmarks.drain import newcomers_project, started_runner
from benchmarks.harness.context import Context
from benchmarks.harness.processes import Team, ask, ours, team, wait_until
from benchmarks.harness.results import Figure, at_most, percentile
from taskrunner.testing.database import Database

SAMPLES = 500


def pickup(context: Context) -> list[Figure]:
    """Add tasks one at a time to a runner as a newcomer starts it; both ends by one monotonic clock."""
    samples = context.scaled(SAMPLES, 20)
    middle, late = list[float](), list[float]()
    with newcomers_project() as folder:
        for number in range(context.rounds):
            context.tell(f"round {number + 1} of {context.rounds}: {samples} tasks, one at a time")
            with context.bench.database() as db, team(started_runner(folder, db.url)) as workers:
                await_idle(db, workers)
                words = ("-m", "benchmarks.workload", "pickup", db.url, str(workers.folder), str(samples))
                waits = json.loads(ask(ours(*words), 60 + samples))["milliseconds"]
            middle.append(percentile(waits, 0.5))
            late.append(percentile(waits, 0.99))
            context.details.setdefault("milliseconds", []).append(sorted(round(wait, 3) for wait in waits))
    return [
        at_most(f"p50 of {samples} pickups", middle, 3, "ms"),
        at_most(f"p99 of {samples} pickups", late, 10, "ms"),
    ]


def await_idle(db: Database, workers: Team) -> None:
    """Wait until a runner has joined and listens, so that no start-up is measured."""
    ready = """SELECT EXISTS (SELECT FROM taskrunner.runner) AND EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'taskrunner listen%')"""
    with db.connect() as conn:

        def idle() -> bool:
            workers.check()
            return conn.execute(ready).fetchone() == (True,)

        wait_until(idle, patience=60, what="a runner's start", pause=0.05)
