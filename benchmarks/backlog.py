"""Row 7: drains beside a million due, immature or foreign tasks, and beside ten million in history.

The claim's time is the server's: the duration it logs for each cycle. The rate is that between a tenth and nine
tenths of the tasks, the same for the drain of an otherwise empty database that each is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.drain import keep
from benchmarks.harness.context import Context, runner
from benchmarks.harness.drains import Drained, Plan, by_query, drain
from benchmarks.harness.filling import DUE_LEFT, Batch, add_tasks, settle
from benchmarks.harness.results import Figure, at_least, at_most, percentile, ratios
from benchmarks.harness.server import StatementLog
from taskrunner.testing.database import Database

TASKS = 100_000
MILLION = 1_000_000
CLAIM = r"claimed AS"
EMPTY = "empty"


@dataclass
class Scene:
    """A database with something in it besides the tasks that are drained."""

    db: Database
    tasks_there: bool = False


def backlogs(context: Context) -> list[Figure]:
    """Prepare four databases, then drain the same number of tasks in each, in turn with an empty one."""
    tasks, million = context.scaled(TASKS, 2000), context.scaled(MILLION, 10_000)
    prepare: dict[str, Callable[[Database], Scene]] = {
        EMPTY: lambda db: Scene(db),
        f"{million:,} due": lambda db: _due(db, million + context.rounds * tasks),
        f"{million:,} immature": lambda db: _others(db, Batch(million, due_in=timedelta(days=30))),
        f"{million:,} of a foreign type": lambda db: _others(db, Batch(million, "bench.foreign")),
        f"{10 * million:,} in history": lambda _: Scene(context.history()),
    }
    found: dict[str, list[Drained]] = {name: [] for name in prepare}
    claims: dict[str, list[float]] = {name: [] for name in prepare}
    with ExitStack() as stack:
        scenes = {}
        for name, make in prepare.items():
            context.tell(f"preparing: {name}")
            scenes[name] = make(stack.enter_context(context.bench.database()))
            context.bench.log_statements(scenes[name].db.name)
        for number in range(context.rounds):
            for name, scene in scenes.items():
                context.tell(f"{name}, round {number + 1} of {context.rounds}")
                log = StatementLog(context.bench, scene.db.name)
                found[name].append(_drained(context, scene, tasks))
                claims[name].append(percentile(log.durations(CLAIM), 0.99))
    keep(context, found)
    context.details["claim p99 ms"] = claims
    return list(_figures(found, claims))


def _figures(found: dict[str, list[Drained]], claims: dict[str, list[float]]) -> list[Figure]:
    middles = {name: [each.middle_rate for each in drained] for name, drained in found.items()}
    figures = [Figure("otherwise empty", middles[EMPTY], "/s"), Figure("  claim p99", claims[EMPTY], "ms")]
    for name in found:
        if name != EMPTY:
            figures.append(at_least(f"with {name}", ratios(middles[name], middles[EMPTY]), 90, "%"))
            figures.append(at_most("  claim p99", claims[name], 20, "ms"))
    return figures


def _drained(context: Context, scene: Scene, tasks: int) -> Drained:
    if not scene.tasks_there:
        add_tasks(scene.db, Batch(tasks))
    with scene.db.connect() as conn:
        settle(conn, "taskrunner.task")
        whole = scene.tasks_there  # a backlog is not emptied: the drain ends with its first so many tasks
        plan = Plan([runner(scene.db.url)], tasks, acknowledged=not whole)
        return drain(context.bench, plan, by_query(conn, DUE_LEFT))


def _due(db: Database, count: int) -> Scene:
    add_tasks(db, Batch(count))
    return Scene(db, tasks_there=True)


def _others(db: Database, batch: Batch) -> Scene:
    add_tasks(db, batch)
    return Scene(db)
