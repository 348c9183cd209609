"""A bench's progress and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType

from taskrunner.bench.report import Delays, Rate, Report, Tell
from taskrunner.console.terminal import cell, screen, table


@contextmanager
def bars() -> Iterator[Tell]:
    """Show on a terminal how far each step is; in a pipe say nothing."""
    console = screen(error=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}", markup=False)
    steps: dict[str, TaskID] = {}
    with Progress(
        words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as progress:

        def tell(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = progress.add_task(step, total=total)
            progress.update(steps[step], completed=done, total=total)

        yield tell


def show_report(report: Report) -> RenderableType:
    """Return the figures as a table of 80 columns, and below what they depend on."""
    names = ("", "tasks", "seconds", "tasks/s", "p50 ms", "p95 ms", "p99 ms")
    shown = table(*names, right=names[1:])
    shown.add_row("enqueue, one by one", *_rate(report.enqueue_singly), *_delays(report.enqueue_singly_waits))
    shown.add_row(f"enqueue, {report.batch:,} at once", *_rate(report.enqueue_many))
    shown.add_row("drain", *_rate(report.drain))
    shown.add_row("pickup, idle runner", f"{report.pickups:,}", "", "", *_delays(report.pickup_waits))
    runners = "1 runner" if report.processes == 1 else f"{report.processes} runners"
    server = f"PostgreSQL {report.version}, fsync {report.fsync}, synchronous_commit {report.synchronous_commit}"
    return Group(
        shown,
        cell(""),
        cell(f"{server}; {runners} of {report.concurrency} slots"),
        cell("drain: first start to last finish, with history; pickup: add() returned to run()"),
    )


def _rate(rate: Rate) -> tuple[str, str, str]:
    return f"{rate.tasks:,}", f"{rate.seconds:,.2f}", f"{rate.per_second:,.0f}"


def _delays(delays: Delays) -> tuple[str, str, str]:
    return f"{delays.p50_ms:,.2f}", f"{delays.p95_ms:,.2f}", f"{delays.p99_ms:,.2f}"
