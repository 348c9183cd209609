"""Row 5: how fast tasks are added: in bulk, one by one beside pgbench's single INSERT, by eight producers at once."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.harness.context import Context
from benchmarks.harness.pgbench import single_inserts
from benchmarks.harness.processes import BenchError, ask, ours, team, wait_until
from benchmarks.harness.results import Figure, at_least, ratios
from benchmarks.tasks import Noop
from taskrunner.queue import TaskQueue

BULK, SINGLE, PRODUCERS = 100_000, 3000, 8
SECONDS = 4.0  # of eight producers

# As the store's own INSERT: the same table with all its indexes, one row, one commit.
INSERT = """
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, maturity_at, created_at)
VALUES (gen_random_uuid(), 'default', 'default', 'bench.noop', 100, '{"n": 1}', 3, now(), now());
"""


class Mute:
    """A door's herald that tells nobody."""

    def tell(self, *_: object) -> None:
        """Tell nobody."""

    def close(self) -> None:
        """There is nothing to send."""


def enqueue(context: Context) -> list[Figure]:
    """Measure all three, in turn."""
    bulk, single, limit = list[float](), list[float](), list[float]()
    on, off = list[float](), list[float]()
    for number in range(context.rounds):
        context.tell(f"round {number + 1} of {context.rounds}")
        with context.bench.database() as db:
            bulk.append(rate(context, db.url, "fill", context.scaled(BULK, 4000)))
        with context.bench.database() as db:
            single.append(rate(context, db.url, "single", context.scaled(SINGLE, 100)))
            limit.append(single_inserts(context.bench, db.url, INSERT, context.scaled(SINGLE, 100)))
        for rates, notify in ((on, True), (off, False))[:: 1 if number % 2 else -1]:
            with context.bench.database() as db:
                rates.append(producers(context, db.url, notify=notify))
    context.details.update(pgbench=limit, notify_on=on, notify_off=off)
    return [
        at_least("in bulk, validated, one process", bulk, 60_000, "/s"),
        Figure("one by one, one connection", single, "/s"),
        at_least("of pgbench's single INSERT", ratios(single, limit), 50, "%"),
        Figure("eight producers, one by one, NOTIFY on", on, "/s"),
        at_least("of the same with NOTIFY off", ratios(on, off), 90, "%"),
    ]


def rate(context: Context, url: str, what: str, tasks: int) -> float:
    """Let a producer process add tasks and return how many it added a second."""
    answered = json.loads(ask(ours("-m", "benchmarks.workload", what, url, str(tasks)), 120))
    context.details.setdefault(what, []).append(answered)
    return float(answered["tasks"] / answered["seconds"])


def producers(context: Context, url: str, *, notify: bool) -> float:
    """Let eight processes add tasks one by one for some seconds, while somebody listens; return the sum of rates."""
    seconds = max(SECONDS * context.scale, 1.0)
    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        gate = Path(name, "open")
        words = ("-m", "benchmarks.enqueue", url, "on" if notify else "off", str(seconds), str(gate))
        listener = stack.enter_context(psycopg.connect(url, autocommit=True))
        listener.execute("LISTEN taskrunner")
        crowd = stack.enter_context(team(*[ours(*words)] * PRODUCERS))
        ready = Path(name)
        wait_until(lambda: len(list(ready.glob("*.ready"))) == PRODUCERS, patience=60, what="the producers' start")
        gate.touch()
        for process in crowd.processes:
            process.wait(seconds + 30)
        crowd.check()
        said = [log.read_text().strip() for log in crowd.folder.glob("*.log")]
    if not all(said):
        raise BenchError("a producer said nothing")
    return sum(map(float, said))


def produce(url: str, notify: bool, seconds: float, gate: Path) -> float:
    """Be a producer: add tasks one by one through a door, each its own commit, and return the rate."""
    added = 0
    with TaskQueue.connect(url) as queue:
        if not notify:
            queue._herald = Mute()  # type: ignore[assignment]  # it does what a herald does, but for the words
        for n in range(10):
            queue.add(Noop(n=n))
        gate.with_name(f"{id(queue)}-{time.monotonic_ns()}.ready").touch()
        wait_until(gate.exists, patience=60, what="the start", pause=0.002)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            queue.add(Noop(n=added))
            added += 1
        return added / (time.monotonic() - began)


if __name__ == "__main__":
    where, switch, length, door = sys.argv[1:]
    print(produce(where, switch == "on", float(length), Path(door)))
