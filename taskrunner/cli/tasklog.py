"""What `tasks show` prints of a task's own log."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from taskrunner.cli.session import Session
    from taskrunner.reads import TaskView

Log = Annotated[
    bool, typer.Option("--log", help="Print all that it has logged, and nothing else; with --watch, as it comes.")
]

_LATEST = 1.0
"""Seconds after a task's end in which its last lines are there."""


def show_last(opened: Session, id_: UUID) -> None:
    """Print the last lines, if there are any, and how to get all."""
    from rich.console import Group
    from rich.text import Text

    from taskrunner import console, reads
    from taskrunner.cli.session import emit

    lines = opened.run(reads.last_lines(id_))
    if lines:
        words = "log" if len(lines) < reads.LAST_LINES else f"log, the last {len(lines)} lines (--log has all)"
        head = Text(f"\n{words}", style="bold")
        emit(None, False, lambda: Group(head, console.show_log(lines)))


def show_all(opened: Session, id_: UUID, as_json: bool) -> None:
    """Print every line, or an object for each; page by page, so that any number of them fits."""
    _print_from(opened, id_, 0, as_json)


def follow(current: Callable[[], Session], look: Callable[[], TaskView], as_json: bool) -> TaskView | None:
    """Print every line, and those that come, until the task has ended; returns it then, None after Ctrl-C."""
    from taskrunner.console.follow import PAUSE
    from taskrunner.console.terminal import until_interrupted
    from taskrunner.states import TERMINAL

    after, quiet = 0, 0.0
    with until_interrupted() as interrupted, suppress(KeyboardInterrupt):
        while not interrupted.is_set():
            task = look()
            seen, after = after, _print_from(current(), task.id, after, as_json)
            quiet = quiet + PAUSE if task.state in TERMINAL and seen == after else 0.0
            if quiet > _LATEST:
                return task
            interrupted.wait(PAUSE)
    return None


def _print_from(opened: Session, id_: UUID, after: int, as_json: bool) -> int:
    """Print the lines behind the one with this id, and return the last one's."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit

    while True:
        page = opened.run(reads.log_lines(id_, after=after, limit=1000))
        if as_json:
            for line in page.lines:
                typer.echo(line.model_dump_json())
        elif page.lines:
            emit(None, False, partial(console.show_log, page.lines))
        after = page.lines[-1].id if page.lines else after
        if page.next is None:
            return after
