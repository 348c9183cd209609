"""`taskrunner bench`: what the queue does on the user's own server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from taskrunner.cli.options import AsJson, Yes
from taskrunner.cli.session import confirm, emit, talk, tell

if TYPE_CHECKING:
    from taskrunner.bench import Report, Size
    from taskrunner.settings import Settings

EXAMPLE = "Example: taskrunner bench --tasks 100000 --processes 2"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(bench)


def bench(
    tasks: Annotated[int, typer.Option(min=1, max=10_000_000, help="Tasks to store at once and to run.")] = 50_000,
    concurrency: Annotated[
        str | None, typer.Option(metavar="N", help="Tasks that one runner process runs at once.")
    ] = None,
    processes: Annotated[str | None, typer.Option(metavar="N", help="Runner processes.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Only drop what killed benches have left.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Measure the queue on your server.

    Real runners run tasks that do nothing, in a schema that is made for this and dropped at the end: your own tasks,
    queues and runners are not touched.
    """
    from taskrunner import console
    from taskrunner.access import database
    from taskrunner.bench import Size
    from taskrunner.settings import load

    settings = load({"concurrency": concurrency, "processes": processes, "log_level": "warning"})
    with database(settings) as way:
        _clean_up(way.url, only=clean, yes=yes, as_json=as_json)
        if clean:
            return
        with _interruptible() as check:
            report = _measure(way.url, settings, Size.of(tasks), check)
    emit(report, as_json, lambda: console.show_report(report))


def _measure(url: str, settings: Settings, size: Size, check: Callable[[], None]) -> Report:
    from taskrunner import console, logs
    from taskrunner.bench import measure, room

    logs.configure(settings.log_level, settings.log_format)
    with ExitStack() as stack:
        with console.waiting("making a schema"):
            stack.enter_context(room(url))
        show = stack.enter_context(console.bars())

        def told(step: str, done: int, total: int) -> None:
            check()
            show(step, done, total)

        report = measure(url, settings, size, told)
        if report is None:
            raise _Interrupted
        return report


def _clean_up(url: str, *, only: bool, yes: bool, as_json: bool) -> None:
    """Drop what killed benches have left: after a word where somebody can be asked, with `only` as asked for."""
    from taskrunner.bench import drop, left_over
    from taskrunner.db import connect

    with connect(url, name="taskrunner bench") as conn:
        found = left_over(conn)
        for one in found:
            talk(f"left by a bench that was killed: schema {one.name}, {one.made}")
        question = f"Drop {len(found)} of them?"
        if found and only:
            confirm(question, yes=yes)
        elif found and not yes and not (sys.stdin.isatty() and typer.confirm(question, err=True)):
            talk("`taskrunner bench --clean` drops them")
            return
        for one in found:
            drop(conn, one.name)
    if only:
        names = [one.name for one in found]
        tell(
            {"dropped": names}, as_json, f"dropped: {', '.join(names)}" if names else "killed benches have left nothing"
        )


class _Interrupted(Exception):
    """A signal came; raised between two steps, never in the middle of a statement."""


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Lend a function that raises once a signal has come, which ends it all, cleaned up, with exit code 1.

    A second signal does not wait for the step under way; a third is not heard.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            for one in numbers:
                signal.signal(one, signal.SIG_IGN)
            raise KeyboardInterrupt

    def check() -> None:
        if heard:
            raise _Interrupted

    before = [signal.signal(one, hear) for one in numbers]
    try:
        yield check
    except (_Interrupted, KeyboardInterrupt):
        talk("interrupted: the schema is dropped")
        raise typer.Exit(1) from None
    finally:
        for one, handler in zip(numbers, before, strict=True):
            signal.signal(one, handler)
