"""The terminal, or the pipe, that is written to; and tables that suit both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

# In a pipe nothing is cut off: wide enough for any row.
PIPE_WIDTH = 10_000


def screen(*, error: bool = False) -> Console:
    """Return where to write: coloured for a terminal, plain for a pipe, as NO_COLOR, TERM and COLUMNS say."""
    stream = sys.stderr if error else sys.stdout
    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def table(*columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns in `right` hold figures, those in `whole` are never shortened."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        fixed = name in right or name in whole
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="fold" if fixed else "ellipsis",
            min_width=None if fixed else min(len(name), 8),
        )
    return made


def cell(value: object, style: str = "") -> Text:
    """Return a value for a terminal: a character that would move its cursor or change its colours becomes `�`."""
    text = "" if value is None else str(value)
    return Text("".join(letter if letter.isprintable() else "�" for letter in text), style)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on, beside the clock, for as long as it does; in a pipe say nothing."""
    console = screen(error=True)
    if not console.is_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield
