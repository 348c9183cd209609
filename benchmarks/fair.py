"""Row 9: a fair queue with a thousand tenants."""

from __future__ import annotations

from benchmarks.drain import keep, rates_of
from benchmarks.harness.context import Context, NotBuilt, runner
from benchmarks.harness.drains import Drained
from benchmarks.harness.filling import Batch, add_tasks
from benchmarks.harness.results import Figure, at_least, ratios
from taskrunner.testing.database import Database

TASKS, TENANTS = 100_000, 1000
TRIAL, TRIAL_TENANTS = 5000, 100
EARLY = """
SELECT count(DISTINCT f.tenant)
  FROM (SELECT h.tenant FROM taskrunner.task_history h ORDER BY h.started_at LIMIT %(first)s) f
"""
FAIR = "INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('default', true)"


def fair_queue(context: Context) -> list[Figure]:
    """Drain the same tasks from a fair queue and from an ordinary one, in turn."""
    context.tell("is a fair queue fair?")
    if not built(context):
        raise NotBuilt("queue_settings.fair changes nothing: tenants are served one behind the other")
    batch = Batch(context.scaled(TASKS, 2000), tenants=TENANTS)
    found: dict[str, list[Drained]] = {"fair": [], "ordinary": []}
    for number in range(context.rounds):
        for name, drained in found.items():
            context.tell(f"{name}, round {number + 1} of {context.rounds}")
            with context.bench.database() as db:
                add_tasks(db, batch)
                _make_fair(db, name == "fair")
                drained.append(context.drained(db, runner(db.url), batch.count))
    keep(context, found)
    rates = rates_of(found["fair"])
    return [
        Figure(f"fair queue, {TENANTS:,} tenants", rates, "/s"),
        at_least("of an ordinary queue", ratios(rates, rates_of(found["ordinary"])), 50, "%"),
    ]


def built(context: Context) -> bool:
    """Tell whether a fair queue is fair: tenants of 50 tasks each, one behind the other, and a small runner.

    The first tasks to end are of many tenants then; of one or two where the setting changes nothing.
    """
    with context.bench.database() as db:
        add_tasks(db, Batch(TRIAL, tenants=TRIAL_TENANTS))
        _make_fair(db, True)
        context.drained(db, runner(db.url, 10), TRIAL)
        with db.connect() as conn:
            row = conn.execute(EARLY, {"first": TRIAL_TENANTS}).fetchone()
    return row is not None and int(row[0]) > TRIAL_TENANTS // 2


def _make_fair(db: Database, fair: bool) -> None:
    if fair:
        with db.connect() as conn:
            conn.execute(FAIR)
