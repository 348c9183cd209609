"""Row 9: a fair queue with a thousand tenants."""

from __future__ import annotations

from benchmarks.drain import keep, rates_of
from benchmarks.harness.context import Context, NotBuilt, runner
from benchmarks.harness.drains import Drained
from benchmarks.harness.filling import Batch, add_tasks
from benchmarks.harness.results import Figure, at_least, ratios
from taskrunner.statements import task as statements
from taskrunner.testing.database import Database

TASKS, TENANTS = 100_000, 1000
FAIR = "INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('default', true)"


def fair_queue(context: Context) -> list[Figure]:
    """Drain the same tasks from a fair queue and from an ordinary one, in turn."""
    if not built():
        raise NotBuilt("no statement of the store claims fairly yet: queue_settings.fair changes nothing")
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


def built() -> bool:
    """Tell whether any statement of the hot path looks at a queue's fairness."""
    texts = [text for text in vars(statements).values() if isinstance(text, str)]
    return any("fair" in text for text in texts)


def _make_fair(db: Database, fair: bool) -> None:
    if fair:
        with db.connect() as conn:
            conn.execute(FAIR)
