"""Row 9: a fair queue with a thousand tenants; what a claim costs with ten thousand; how long small tenants wait."""

from __future__ import annotations

import time
from datetime import timedelta

from uuid_utils.compat import uuid7

from benchmarks.drain import keep, rates_of
from benchmarks.harness.context import Context, runner
from benchmarks.harness.drains import Drained
from benchmarks.harness.filling import Batch, add_tasks, settle
from benchmarks.harness.results import Figure, at_least, ratios
from taskrunner import fairness
from taskrunner.db import run
from taskrunner.store import fair
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.runner import Process
from taskrunner.store.task import Cycle, Front, Turn
from taskrunner.testing.database import Database

TASKS, TENANTS, MANY = 100_000, 1000, 10_000
ROOM, CLAIMS = 100, 50


def fair_queue(context: Context) -> list[Figure]:
    """Drain the same tasks from a fair queue and from an ordinary one, in turn."""
    batch = Batch(context.scaled(TASKS, 2000), tenants=TENANTS)
    found: dict[str, list[Drained]] = {"fair": [], "ordinary": []}
    for number in range(context.rounds):
        for name, drained in found.items():
            context.tell(f"{name}, round {number + 1} of {context.rounds}")
            with context.bench.database() as db:
                _fill(db, batch, fair=name == "fair")
                drained.append(context.drained(db, runner(db.url), batch.count))
    keep(context, found)
    rates = rates_of(found["fair"])
    return [
        Figure(f"fair queue, {TENANTS:,} tenants", rates, "/s"),
        at_least("of an ordinary queue", ratios(rates, rates_of(found["ordinary"])), 50, "%"),
        *_claims(context),
    ]


def _claims(context: Context) -> list[Figure]:
    """Time claims alone, one after the other on one connection: two kinds of queue, ten tenants and ten thousand."""
    found: dict[str, list[float]] = {}
    for tenants in (10, MANY):
        for kind in ("ordinary", "fair"):
            name = f"claim of {ROOM}, {kind}, {tenants:,} tenants"
            context.tell(name)
            with context.bench.database() as db:
                _fill(db, Batch(context.scaled(TASKS, MANY), tenants=tenants), fair=kind == "fair")
                found[name] = _claim_times(db, fair_queue=kind == "fair")
    return [Figure(name, times, "ms") for name, times in found.items()]


def _claim_times(db: Database, *, fair_queue: bool) -> list[float]:
    fronts, turn, times = [Front("bench.noop", 100)], Turn(), list[float]()
    runner_id = uuid7()
    process = Process(runner_id, "runner", "bench", 0, ("default",), ("bench.noop",), ROOM, "0")
    with db.connect() as conn:
        run(conn, runner_store.join(process, timedelta(minutes=10)))
        for _ in range(CLAIMS):
            asked = Cycle(runner_id, fronts=fronts, room=ROOM)
            began = time.perf_counter()
            cycled = run(conn, fair.cycle(asked, turn) if fair_queue else store.cycle(asked))
            times.append(1000 * (time.perf_counter() - began))
            turn = cycled.turn or turn
            assert len(cycled.claimed) == ROOM
    return times


def _fill(db: Database, batch: Batch, *, fair: bool) -> None:
    add_tasks(db, batch)
    if fair:
        fairness.set_fair(db.url, "default")
        with db.connect() as conn:
            settle(conn, "taskrunner.task")
