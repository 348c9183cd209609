"""Row 10: what a runner costs that has nothing to do, and what a command costs before it does anything."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.drain import newcomers_project, started_runner
from benchmarks.harness.context import Context
from benchmarks.harness.processes import Command, ask, ours, team
from benchmarks.harness.results import Figure, at_most
from benchmarks.harness.server import StatementLog
from benchmarks.latency import await_idle

SECONDS = 30.0
SETTLE = 6.0  # a heartbeat: what is done once at the start is over
QUEUES = 50
TIMES = 15

TYPER = """
import typer

app = typer.Typer()


@app.command()
def one(name: str) -> None:
    '''Do one thing.'''


@app.command()
def two(count: int = 1) -> None:
    '''Do another thing.'''


app()
"""
MANY = """
from taskrunner import Task, register_task

for number in range({queues}):
    @register_task(f"bench.idle{{number}}", queue=f"queue{{number}}")
    class Idle(Task):
        async def run(self) -> None: ...
"""


def idle(context: Context) -> list[Figure]:
    """Watch idle runners, of one queue and of fifty, then time imports in turn."""
    one, many = watched(context, queues=1), watched(context, queues=QUEUES)
    command, bare_typer, package, pydantic = timed(context)
    return [
        at_most("queries/s, one queue", one["queries"], 1.5),
        at_most(f"queries/s, {QUEUES} queues", many["queries"], 1.5),
        at_most("CPU of supervisor and runner", one["cpu"], 1, "%"),
        at_most("RSS of a process", one["rss"], 80, "MB"),
        _over("taskrunner --help over a typer app", command, bare_typer, 50),
        _over("import Task over import BaseModel", package, pydantic, 30),
    ]


def watched(context: Context, queues: int) -> dict[str, list[float]]:
    """Return queries a second, CPU per cent and the memory of each process of `taskrunner start runner`."""
    seconds = max(SECONDS * context.scale, 5.0)
    context.tell(f"an idle runner, {queues} queues, {seconds:.0f} s")
    with newcomers_project() as folder, context.bench.database() as db:
        if queues > 1:
            (folder / "tasks" / "noop.py").write_text(MANY.format(queues=queues), encoding="utf-8")
        context.bench.log_statements(db.name)
        with team(started_runner(folder, db.url)) as workers:
            await_idle(db, workers)
            time.sleep(SETTLE)
            log, used, begun = StatementLog(context.bench, db.name), workers.cpu(), time.monotonic()
            time.sleep(seconds)
            length = time.monotonic() - begun
            found: dict[str, list[float]] = {
                "queries": [len(log.durations("")) / length],
                "cpu": [(workers.cpu() - used) / length * 100],
                "rss": [process.memory_info().rss / 1e6 for process in workers.tree()],
            }
    context.details[f"{queues} queues"] = found
    return found


def timed(context: Context) -> list[list[float]]:
    """Return the milliseconds of four commands, each started `TIMES` times, in turn."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        app = Path(name, "app.py")
        app.write_text(TYPER, encoding="utf-8")
        script = Path(sys.executable).with_name("taskrunner")
        commands = [
            Command((str(script), "--help")),
            ours(str(app), "--help"),
            ours("-c", "from taskrunner import Task, register_task"),
            ours("-c", "from pydantic import BaseModel"),
        ]
        times: list[list[float]] = [[] for _ in commands]
        for number in range(-1, context.scaled(TIMES, 5)):  # the first of each reads files that nobody has read yet
            context.tell(f"imports, {number + 1} of {TIMES}")
            for command, taken in zip(commands, times, strict=True):
                began = time.perf_counter()
                ask(command, 60)
                if number >= 0:
                    taken.append((time.perf_counter() - began) * 1e3)
    names = ("taskrunner --help", "typer --help", "import Task", "import BaseModel")
    context.details.update({f"ms {name}": taken for name, taken in zip(names, times, strict=True)})
    return times


def _over(what: str, values: list[float], others: list[float], allowed: float) -> Figure:
    """Return how much longer the first took, pair by pair."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    return at_most(what, differences, allowed, "ms", like=f"≤ +{allowed:.0f} ms")
