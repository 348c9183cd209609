"""`make bench`: measure the twelve rows of the table of targets, on a server of its own.

Every figure is the median of the rounds, with minimum and maximum; what is compared is run in turn. A row that fails
or is not built says so and leaves the others alone; results go to .bench/bench.json as they come, and `--resume`
takes those of the last run with the same options over.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import backlog, cost, drain, enqueue, fair, idle, latency, pages, snapshot
from benchmarks.harness.context import Context, Library, NotBuilt
from benchmarks.harness.processes import BenchError
from benchmarks.harness.results import Figure, Row, Store, from_json, to_json
from benchmarks.harness.server import Bench, running
from benchmarks.harness.table import WIDTH, targets_table


@dataclass(frozen=True)
class Theme:
    """A row: its title, what measures it, and after how many seconds it is given up."""

    title: str
    measure: Callable[[Context], list[Figure]]
    patience: float = 300.0


THEMES = {
    1: Theme("drain, one runner process, history on", drain.one_process),
    2: Theme("drain, two processes", drain.two_processes),
    3: Theme("drain, default settings", drain.default_settings),
    4: Theme("threads, child processes", drain.other_executors),
    5: Theme("enqueue", enqueue.enqueue),
    6: Theme("pickup by an idle runner", latency.pickup),
    7: Theme("backlogs and a long history", backlog.backlogs, 900.0),
    8: Theme("held snapshot, idle in transaction", snapshot.held_snapshot, 600.0),
    9: Theme("fair queue", fair.fair_queue),
    10: Theme("idle runner, start of commands", idle.idle),
    11: Theme("server cost of a cycle", cost.server_cost),
    12: Theme("lists and figures, long history", pages.pages, 600.0),
}


class TimedOut(Exception):
    """A row took too long."""


def main() -> None:
    """Parse, measure, print; exit 1 when a row failed, not when a target was missed."""
    given = _parse()
    options = {"rounds": given.rounds, "scale": given.scale}
    store = Store("bench", resume=given.resume, options=options)
    rows = measure(given.rows, store, given.rounds, given.scale)
    if given.json:
        print(json.dumps({**store.data, "entries": None, "rows": [to_json(row) for row in rows]}, ensure_ascii=False))
    else:
        Console(width=WIDTH if not sys.stdout.isatty() else None).print(targets_table(rows))
        print(f"{store.data['server']}, Python {store.data['machine']['python']}, {store.data['machine']['cpus']} CPUs")
        print(f"rounds {given.rounds}, scale {given.scale:g}; everything that was seen: {store.path}")
    sys.exit(any(row.state == "failed" for row in rows))


def measure(numbers: Sequence[int], store: Store, rounds: int, scale: float) -> list[Row]:
    """Measure the rows that the store does not have yet, and return all."""
    rows: list[Row] = []
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(16), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, running() as bench:
        store.data["server"] = bench.version
        bar = progress.add_task("", total=len(numbers))
        library = Library(bench)

        def teller(number: int) -> Callable[[str], None]:
            return lambda text: progress.update(bar, description=f"row {number}: {text}"[:52])

        for number in numbers:
            kept = store.get(str(number))
            row = from_json(kept) if kept is not None and kept["state"] == "measured" else None
            if row is None:
                context = Context(bench, library, rounds, scale, teller(number))
                row = carry_out(number, context)
                store.put(str(number), to_json(row))
                _revive(bench, library)
            rows.append(row)
            progress.advance(bar)
            progress.console.print(f"row {number:2} {row.state} in {row.seconds:.0f} s {row.reason}", highlight=False)
        library.close()
    return rows


def carry_out(number: int, context: Context) -> Row:
    """Measure one row, whatever happens in it."""
    theme, began = THEMES[number], time.monotonic()
    context.tell(theme.title)
    try:
        with _time_out(theme.patience):
            figures = theme.measure(context)
        return Row(number, theme.title, "measured", figures, "", time.monotonic() - began, context.details)
    except NotBuilt as missing:
        return Row(number, theme.title, "not built yet", (), str(missing), time.monotonic() - began)
    except (BenchError, TimedOut) as error:
        return Row(number, theme.title, "failed", (), str(error), time.monotonic() - began, context.details)
    except Exception as error:
        context.details["traceback"] = traceback.format_exc()
        reason = f"{type(error).__name__}: {error}"[:300]
        return Row(number, theme.title, "failed", (), reason, time.monotonic() - began, context.details)


@contextmanager
def _time_out(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimedOut(f"not done after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _revive(bench: Bench, library: Library) -> None:
    """Start the server again if a row has brought it down; shared databases are made anew then."""
    try:
        psycopg.connect(bench.cluster.url()).close()
    except psycopg.OperationalError:
        library.close()
        bench.cluster.stop("immediate")
        bench.cluster.start()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=_numbers, default=list(THEMES), metavar="1,3,6-8", help="rows to measure")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 measures a tenth of everything: a quick look")
    parser.add_argument("--resume", action="store_true", help="take over what the last run has measured")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    unknown = numbers - THEMES.keys()
    if unknown or not numbers:
        raise argparse.ArgumentTypeError(f"there are rows 1 to {max(THEMES)}, not {sorted(unknown)}")
    return sorted(numbers)


if __name__ == "__main__":
    main()
