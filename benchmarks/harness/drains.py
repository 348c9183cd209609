"""A drain: a full table, worker processes, and the time until the last task's end is stored.

One method for every contestant, from outside. The clock starts with the first task's run, so that no start-up
counts, and stops when the database says that nothing is left to be acknowledged; runs are counted by `probe`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from benchmarks.harness.processes import BenchError, Command, Team, team, wait_until
from benchmarks.harness.server import Bench

START_SECONDS = 60.0
LOOK = 0.02  # seconds between two looks at the counters
LOOK_ACKNOWLEDGED = 0.005
NS = 1e9

Left = Callable[[], bool]
"""Says whether something is still to be acknowledged."""


@dataclass(frozen=True)
class Plan:
    """Who drains what: the workers, how many tasks, and how long that may take at most.

    With `acknowledged` off the drain ends with the run of the last task counted: for a backlog larger than that.
    """

    workers: Sequence[Command]
    tasks: int
    patience: float = 120.0
    acknowledged: bool = True


@dataclass(frozen=True)
class Drained:
    """What came of it; CPU is that of the time between the first run and the end, microseconds a task."""

    tasks: int
    seconds: float
    rate: float
    middle_rate: float
    client_us: float
    server_us: float


Sample = tuple[int, int]
"""An instant in monotonic nanoseconds, and the runs until then."""


def drain(bench: Bench, plan: Plan, left: Left) -> Drained:
    """Start the workers, wait for the end, stop them."""
    with team(*plan.workers) as workers:
        _await_start(workers)
        client, server = workers.cpu(), bench.cpu()
        first, begun = workers.progress().first_ns, workers.progress().runs
        samples = watch(workers, plan)
        if plan.acknowledged:
            until = plan.patience - (samples[-1][0] - first) / NS
            wait_until(lambda: not left(), patience=max(until, 5.0), what="the rest", pause=LOOK_ACKNOWLEDGED)
        ended = time.monotonic_ns() if plan.acknowledged else samples[-1][0]
        counted = plan.tasks if plan.acknowledged else samples[-1][1]
        spent = workers.cpu() - client, bench.cpu() - server
    per_task = [cpu / max(counted - begun, 1) * 1e6 for cpu in spent]
    seconds = (ended - first) / NS
    return Drained(counted, seconds, counted / seconds, middle_rate(samples, counted), *per_task)


def watch(workers: Team, plan: Plan) -> list[Sample]:
    """Note the runs every 20 ms until all have run."""
    samples: list[Sample] = []
    until = time.monotonic() + plan.patience
    while not samples or samples[-1][1] < plan.tasks:
        samples.append((time.monotonic_ns(), workers.progress().runs))
        if time.monotonic() > until:
            raise BenchError(f"{samples[-1][1]} of {plan.tasks} tasks ran in {plan.patience:.0f} s: {workers.said()}")
        workers.check()
        time.sleep(LOOK)
    return samples


def middle_rate(samples: Sequence[Sample], tasks: int) -> float:
    """Return tasks a second between 10 % and 90 % of them."""
    inner = [sample for sample in samples if 0.1 * tasks <= sample[1] <= 0.9 * tasks]
    if len(inner) < 2 or inner[-1][0] == inner[0][0]:
        return float("nan")
    return (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0]) * NS


def by_query(conn: psycopg.Connection[tuple[object, ...]], query: str) -> Left:
    """Return a look at the database: the query says whether something is left."""

    def left() -> bool:
        row = conn.execute(query).fetchone()
        return row is not None and bool(row[0])

    return left


def _await_start(workers: Team) -> None:
    def started() -> bool:
        workers.check()
        return workers.progress().runs > 0

    try:
        wait_until(started, patience=START_SECONDS, what="the first task")
    except BenchError as error:
        raise BenchError(f"{error}: {workers.said()}") from error
