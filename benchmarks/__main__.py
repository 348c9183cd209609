"""`make bench`: drain no-op tasks in one runner process beside the bare loop of the same statement.

Both are run in turn, on a server of their own with fsync and synchronous_commit on; a figure is the median of the
rounds with its minimum and maximum. A rate is tasks over the time from the first start to the last finish by the
database's clock: start-up is not counted, every acknowledgement is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.workload import Noop
from taskrunner.embedded import Cluster
from taskrunner.queue import TaskQueue
from taskrunner.testing.database import Database, Server, database, prepare_template

SPAN = "SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM taskrunner.task_history"


@dataclass(frozen=True)
class Round:
    """One drain: tasks a second, CPU microseconds and WAL bytes a task."""

    rate: float
    cpu_us: float
    wal_bytes: float


def drained(db: Database, tasks: int, *command: str) -> Round:
    """Fill the database and let `command` drain it in a process of its own."""
    with TaskQueue.connect(db.url) as queue:
        for first in range(0, tasks, 2000):
            queue.add_many(Noop(n=n) for n in range(first, min(first + 2000, tasks)))
    with db.connect() as conn:
        conn.execute("VACUUM ANALYZE taskrunner.task")
        conn.execute("CHECKPOINT")
        before = conn.execute("SELECT pg_current_wal_lsn()").fetchone()
        argv = [sys.executable, "-m", "benchmarks.workload", command[0], db.url, *command[1:]]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, env=dict(os.environ))
        row = conn.execute(SPAN).fetchone()
        wal = conn.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", before).fetchone()
    assert row is not None
    assert wal is not None
    count, seconds = int(str(row[0])), float(str(row[1]))
    assert count == tasks, f"{count} of {tasks} tasks are in history"
    return Round(count / seconds, float(done.stdout) / count * 1e6, float(str(wal[0])) / count)


def measure(tasks: int, rounds: int, batch: int) -> dict[str, list[Round]]:
    """Run both in turn, each round in a fresh database."""
    commands = {"one runner, default settings": ("drain",), f"bare SQL loop, batches of {batch}": ("bare", str(batch))}
    results: dict[str, list[Round]] = {name: [] for name in commands}
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster.create(Path(folder), settings={"fsync": "on", "synchronous_commit": "on"}) as cluster,
    ):
        server = Server(cluster.url())
        prepare_template(server)
        for number in range(1, rounds + 1):
            for name, command in commands.items():
                with console.status(f"round {number} of {rounds}: {name}"), database(server) as fresh:
                    results[name].append(drained(fresh, tasks, *command))
    return results


def table(results: dict[str, list[Round]], tasks: int, rounds: int) -> Table:
    """Show medians with their spread."""
    shown = Table(title=f"{tasks:,} no-op tasks with history, {rounds} rounds: median (min-max)")
    for column in ("", "tasks/s", "client CPU µs/task", "WAL bytes/task"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, values in results.items():
        shown.add_row(
            name,
            _spread([value.rate for value in values]),
            _spread([value.cpu_us for value in values]),
            _spread([value.wal_bytes for value in values]),
        )
    return shown


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100, help="of the bare loop")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = measure(given.tasks, given.rounds, given.batch)
    if given.json:
        print(json.dumps({name: [asdict(value) for value in values] for name, values in results.items()}))
        return
    Console().print(table(results, given.tasks, given.rounds))
    runner, loop = (statistics.median(value.rate for value in values) for values in results.values())
    print(f"the runner reaches {runner / loop:.0%} of the bare loop")


if __name__ == "__main__":
    main()
