"""Row 11: what a task costs the server: CPU, WAL, transactions, dead tuples."""

from __future__ import annotations

import time

from benchmarks.harness.context import Context, runner
from benchmarks.harness.filling import Batch, add_tasks
from benchmarks.harness.results import Figure, at_most
from benchmarks.harness.server import Cost

TASKS = 200_000
PAGE = 8192
STATISTICS_SECONDS = 1.5  # until the counters of ended sessions are to be seen


def server_cost(context: Context) -> list[Figure]:
    """Drain by one runner, and take the server's counters before and after; enqueues are before, idling is taken off.

    Full-page images are left out of the WAL, as pg_waldump counts them; without it, as 8 kB each, which is too much.
    """
    tasks = context.scaled(TASKS, 2000)
    cpu, wal, transactions, dead = list[float](), list[float](), list[float](), list[float]()
    for number in range(context.rounds):
        context.tell(f"round {number + 1} of {context.rounds}")
        with context.bench.database() as db:
            add_tasks(db, Batch(tasks))
            idle = context.bench.idle_cpu()
            before = context.bench.cost(db.url)
            drained = context.drained(db, runner(db.url), tasks)
            time.sleep(STATISTICS_SECONDS)
            after = context.bench.cost(db.url)
            cpu.append(drained.server_us - idle * drained.seconds / tasks * 1e6)
            wal.append((after.wal - before.wal - _images(context, before, after)) / tasks)
            transactions.append((after.transactions - before.transactions) / tasks)
            dead.append((after.dead - before.dead) / tasks)
    return [
        at_most("server CPU a task", cpu, 45, "µs"),
        at_most("WAL a task", wal, 900, "B"),
        Figure("transactions a task", transactions),
        Figure("dead tuples a task", dead),
    ]


def _images(context: Context, before: Cost, after: Cost) -> float:
    """Return the bytes of full-page images."""
    exact = context.bench.image_bytes(before.wal, after.wal)
    pages = after.images - before.images
    context.details.setdefault("full-page images", []).append({"pages": pages, "bytes": exact})
    return float(exact if exact is not None else pages * PAGE)
