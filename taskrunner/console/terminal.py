"""The terminal, or the pipe, that is written to; and tables that suit both."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
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


def table(*columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = (), gap: int = 2) -> Table:
    """Return an empty table; columns in `right` hold figures; those in `whole` are cut last."""
    made = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        # rich takes space from the columns that may wrap, the widest first; cells that may not wrap are then cut.
        fixed = name in right or name in whole
        made.add_column(cell(name), justify="right" if name in right else "left", no_wrap=fixed)
    return made


def cell(value: object, style: str = "", *, fold: bool = False) -> Text:
    """Return a value for a terminal, on one line, cut where it must be, or folded into lines that hold it all.

    A character that would move the cursor or change its colours becomes `�`.
    """
    text = "" if value is None else str(value)
    safe = "".join(letter if letter.isprintable() else "�" for letter in text)
    return Text(safe, style, no_wrap=not fold, overflow="fold" if fold else "ellipsis")


class Name:
    """A name on one line; where it is too long its head is cut off, since names of one project differ at their ends."""

    def __init__(self, name: str, style: str = "", mark: str = "") -> None:
        self._text, self._style, self._mark = cell(name).plain, style, mark

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Tell the table how wide it is."""
        return Measurement(len(self._mark) + 1, len(self._mark) + cell_len(self._text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Return it as it fits."""
        room, tail = options.max_width - len(self._mark), self._text
        if cell_len(tail) > room:
            while tail and cell_len(tail) >= room:
                tail = tail[1:]
            tail = f"…{tail}"
        yield Text(f"{self._mark}{tail}", self._style, no_wrap=True, overflow="crop")


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


@contextmanager
def until_interrupted() -> Iterator[Event]:
    """Set the event at SIGINT, and interrupt what waits; where the interrupt is swallowed, the event is seen."""
    ended = Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        ended.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)
