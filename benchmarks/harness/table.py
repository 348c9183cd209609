"""The table of targets on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from benchmarks.harness.results import Figure, Row, spread

WIDTH = 80


def targets_table(rows: Iterable[Row]) -> Table:
    """Show every figure beside its target; what failed or is not there says so."""
    shown = Table(title="SPEED, table 3: medians (minimum–maximum) beside targets", width=WIDTH, pad_edge=False)
    shown.add_column("#", justify="right", width=2)
    shown.add_column("what", ratio=5)
    shown.add_column("figure", justify="right", ratio=4)
    shown.add_column("target", ratio=2)
    shown.add_column("", width=3)
    for row in rows:
        shown.add_section()
        shown.add_row(str(row.number), Text(row.title, style="bold"), _state(row), "", "")
        if row.reason:
            shown.add_row("", Text(row.reason, style="italic"), "", "", "")
        for figure in row.figures:
            shown.add_row("", Text(figure.what), spread(figure.values, figure.unit), figure.target, _mark(figure))
    return shown


def _state(row: Row) -> Text:
    style = {"measured": "dim", "failed": "bold red", "not built yet": "yellow"}[row.state]
    said = f"{row.seconds:.0f} s" if row.state == "measured" else row.state.upper()
    return Text(said, style=style)


def _mark(figure: Figure) -> Text:
    if figure.reached is None:
        return Text("")
    return Text("yes", style="green") if figure.reached else Text("NO", style="bold red")
