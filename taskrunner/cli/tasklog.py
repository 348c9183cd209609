"""What `tasks show` prints of a task's own log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from uuid import UUID

    from taskrunner.cli.session import Session

Log = Annotated[bool, typer.Option("--log", help="Print all that it has logged, and nothing else.")]


def show_last(opened: Session, id_: UUID) -> None:
    """Print the last lines, if there are any, and how to get all."""
    from rich.console import Group
    from rich.text import Text

    from taskrunner import console, reads
    from taskrunner.cli.session import emit

    lines = opened.run(reads.last_lines(id_))
    if lines:
        head = Text(f"\nlog, the last lines of it (all: taskrunner tasks show {id_} --log)", style="bold")
        emit(None, False, lambda: Group(head, console.show_log(lines)))


def show_all(opened: Session, id_: UUID, as_json: bool) -> None:
    """Print every line, or an object for each; page by page, so that any number of them fits."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit

    after: int | None = 0
    while after is not None:
        page = opened.run(reads.log_lines(id_, after=after, limit=1000))
        if as_json:
            for line in page.lines:
                typer.echo(line.model_dump_json())
        elif page.lines:
            lines = page.lines
            emit(None, False, lambda: console.show_log(lines))  # noqa: B023 - called at once
        after = page.next
