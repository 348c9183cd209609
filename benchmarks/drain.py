"""Rows 1 to 4: how fast a full table is emptied: one process, two, default settings, threads, child processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness.context import TUNED, Context, bare, runner
from benchmarks.harness.drains import Drained
from benchmarks.harness.filling import Batch
from benchmarks.harness.processes import Command, ours
from benchmarks.harness.results import Figure, at_least, ratios
from benchmarks.published import against_peers

TASKS = 200_000
SLOW_TASKS = 40_000

NEWCOMER = """
from benchmarks.probe import ran
from taskrunner import Task, register_task


@register_task("bench.noop")
class Noop(Task):
    n: int

    async def run(self) -> None:
        ran()
"""

Maker = Callable[[str], Command]


def one_process(context: Context) -> list[Figure]:
    """Row 1: one runner beside the bare loop of its own statement, and beside the peers where they were measured."""
    found = in_turn(context, {"runner": runner, "bare loop": bare}, Batch(context.scaled(TASKS, 2000)))
    rates = rates_of(found["runner"])
    return [
        Figure(f"one runner process, {TUNED} slots", rates, "/s"),
        Figure("client CPU", [each.client_us for each in found["runner"]], "µs"),
        at_least("of the bare SQL loop", ratios(rates, rates_of(found["bare loop"])), 70, "%"),
        *against_peers(1),
    ]


def two_processes(context: Context) -> list[Figure]:
    """Row 2: two runners."""
    batch = Batch(context.scaled(TASKS, 2000))
    found = in_turn(context, {"two": runner}, batch, processes=2)
    return [
        Figure(f"two runner processes, {TUNED} slots each", rates_of(found["two"]), "/s"),
        *against_peers(2),
    ]


def default_settings(context: Context) -> list[Figure]:
    """Row 3: `taskrunner start runner` without a flag in a new project, beside row 1's runner."""
    with newcomers_project() as folder:
        makers: dict[str, Maker] = {"default": lambda url: started_runner(folder, url), "tuned": runner}
        found = in_turn(context, makers, Batch(context.scaled(TASKS, 2000)))
    rates = rates_of(found["default"])
    return [
        Figure("taskrunner start runner, no flags", rates, "/s"),
        at_least("of row 1's runner, round by round", ratios(rates, rates_of(found["tuned"])), 60, "%"),
    ]


def other_executors(context: Context) -> list[Figure]:
    """Row 4: `def run` in threads, and child processes, at the slots that suit each."""
    batches = {
        "threads": Batch(context.scaled(SLOW_TASKS, 1000), "bench.thread"),
        "processes": Batch(context.scaled(SLOW_TASKS // 2, 500), "bench.process"),
    }
    found: dict[str, list[Drained]] = {name: [] for name in batches}
    for number in range(context.rounds):
        for name, batch in batches.items():
            context.tell(f"{name}, round {number + 1} of {context.rounds}")
            found[name].append(context.filled_and_drained(lambda url: runner(url, 100), batch))
    keep(context, found)
    return [
        at_least("def run, in threads, 100 slots", rates_of(found["threads"]), 6000, "/s"),
        at_least('executor="process", 100 slots', rates_of(found["processes"]), 2500, "/s"),
    ]


def in_turn(
    context: Context, makers: Mapping[str, Maker], batch: Batch, processes: int = 1
) -> dict[str, list[Drained]]:
    """Drain A, B, … A, B, …, each in a fresh database."""
    found: dict[str, list[Drained]] = {name: [] for name in makers}
    for number in range(context.rounds):
        for name, make in makers.items():
            context.tell(f"{name}, round {number + 1} of {context.rounds}")
            found[name].append(context.filled_and_drained(make, batch, processes))
    keep(context, found)
    return found


def keep(context: Context, found: Mapping[str, list[Drained]]) -> None:
    """Note everything that was seen."""
    context.details.update({name: [asdict(each) for each in drained] for name, drained in found.items()})


def rates_of(drained: list[Drained]) -> list[float]:
    """Return the rates of the rounds."""
    return [each.rate for each in drained]


@contextmanager
def newcomers_project() -> Iterator[Path]:
    """Make a project folder with one task, as `taskrunner init` would."""
    with tempfile.TemporaryDirectory(prefix="bench-project-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "__init__.py").touch()
        (folder / "tasks" / "noop.py").write_text(NEWCOMER, encoding="utf-8")
        (folder / "taskrunner.toml").touch()
        yield folder


def started_runner(folder: Path, url: str, **settings: str) -> Command:
    """Return the command that everybody types, in the folder."""
    command = ours("-m", "taskrunner", "start", "runner", DATABASE_URL=url, **settings)
    return Command(command.words, command.environment, folder)
