"""Row 8: a full drain while somebody holds a snapshot, and somebody else is idle in a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from benchmarks.harness.context import Context, runner
from benchmarks.harness.drains import NS, START_SECONDS, Sample
from benchmarks.harness.filling import Batch, add_tasks
from benchmarks.harness.processes import BenchError, Team, team, wait_until
from benchmarks.harness.results import Figure, at_least
from taskrunner.testing.database import Database

WINDOW, BEFORE, HELD, AFTER = 10.0, 20.0, 60.0, 60.0
WARM = 3.0
TRIAL = 60_000  # tasks, drained first: how many will be needed
PLENTY = 1.3  # more than the trial's rate asks for


def held_snapshot(context: Context) -> list[Figure]:
    """Compare each window of 10 s with the windows before, in one drain that never runs dry."""
    window = max(WINDOW * context.scale, 1.0)
    before, held, after = (max(length * context.scale, 2 * window) for length in (BEFORE, HELD, AFTER))
    with context.bench.database() as db:
        context.tell("a trial, for the number of tasks")
        trial = context.scaled(TRIAL, 5000)
        add_tasks(db, Batch(trial))
        supply = int(context.drained(db, runner(db.url), trial).rate * PLENTY * (WARM + before + held + after))
        context.tell(f"filling with {supply:,} tasks")
        add_tasks(db, Batch(supply))
        with team(runner(db.url)) as workers:
            wait_until(lambda: workers.progress().runs > 0, patience=START_SECONDS, what="the first task")
            time.sleep(WARM)
            context.tell(f"drain without hindrance, {before:.0f} s")
            free = windows(workers, before, window)
            context.tell(f"drain under a held snapshot, {held:.0f} s")
            with holders(db):
                hindered = windows(workers, held, window)
            context.tell(f"drain after it, {after:.0f} s")
            freed = windows(workers, after, window)
            if workers.progress().runs >= supply:
                raise BenchError(f"the {supply:,} tasks were too few: the drain ran dry")
    usual = sum(free) / len(free)
    context.details.update(before=free, held=hindered, after=freed, window_seconds=window)
    shares = [rate / usual * 100 for rate in hindered]
    return [
        Figure("before, each window", free, "/s"),
        Figure("under the snapshot, each window", hindered, "/s"),
        at_least("worst window, of before", [min(shares)], 80, "%"),
        at_least("best window after it, of before", [max(freed) / usual * 100], 95, "%"),
    ]


def windows(workers: Team, seconds: float, length: float) -> list[float]:
    """Return the rate of each window."""
    samples: list[Sample] = []
    begun = time.monotonic()
    for number in range(max(round(seconds / length), 1) + 1):
        time.sleep(max(0.0, begun + number * length - time.monotonic()))
        workers.check()
        samples.append((time.monotonic_ns(), workers.progress().runs))
    return [(late[1] - early[1]) / (late[0] - early[0]) * NS for early, late in pairwise(samples)]


@contextmanager
def holders(db: Database) -> Iterator[None]:
    """Hold a snapshot with a transaction id in one session, and be idle in a transaction in another."""
    with db.connect() as snapshot, db.connect() as idle:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT pg_current_xact_id(), count(*) FROM taskrunner.queue_settings")
        idle.execute("BEGIN")
        idle.execute("SELECT count(*) FROM taskrunner.runner")
        yield
        snapshot.execute("ROLLBACK")
        idle.execute("ROLLBACK")
