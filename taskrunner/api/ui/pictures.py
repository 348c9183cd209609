"""Charts as values: what a page draws by itself, what the script draws over it, and the rows of the table beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from taskrunner.api.ui.words import age, count
from taskrunner.reads import Chart
from taskrunner.reads.charts import OUTCOMES, Total

Value = float | None
Split = Literal["outcome", "type", "queue"]

_COLOURS = {"succeeded": 1, "ignored": 6, "cancelled": 4, "retried": 5, "dead": 2}
_SHARES = (("half", 3), ("95 of 100", 4), ("99 of 100", 2))


class Series(NamedTuple):
    """One line; `colour` is one of the six of the style sheet, 0 the one of what is left over."""

    label: str
    colour: int
    values: list[Value]


class Picture(NamedTuple):
    """One chart; stacked it shows how much, else how long."""

    name: str
    title: str
    summary: str
    instants: list[datetime]
    series: list[Series]
    stacked: bool
    step: float

    @property
    def data(self) -> dict[str, Any]:
        """Return what the script needs; times in seconds since 1970."""
        return {
            "x": [round(instant.timestamp()) for instant in self.instants],
            "series": [one._asdict() for one in self.series],
            "stacked": self.stacked,
            "step": self.step,
        }

    @property
    def paths(self) -> list[tuple[int, str]]:
        """Return colour and path of each line, in a field of as many units as there are steps, and 100 high."""
        if not self.stacked:
            top = max((value or 0 for one in self.series for value in one.values), default=0) or 1
            return [(one.colour, _line([None if v is None else v / top for v in one.values])) for one in self.series]
        sums = _cumulated([one.values for one in self.series])
        top = max(sums[-1], default=0) or 1 if sums else 1
        made = [(one.colour, _area([v / top for v in line])) for one, line in zip(self.series, sums, strict=True)]
        return made[::-1]  # the highest first: the others lie over it

    @property
    def rows(self) -> list[tuple[datetime, list[str]]]:
        """Return the table, the newest step first."""
        say: Callable[[Value], str] = count if self.stacked else age
        columns = zip(*(one.values for one in self.series), strict=True) if self.series else iter(())
        made = [(at, [say(v) for v in values]) for at, values in zip(self.instants, columns, strict=False)]
        return made[::-1]


def pictures(chart: Chart, split: Split) -> list[Picture]:
    """Return the four charts of the overview."""
    return [_ended(chart, split), _failed(chart, split), _times(chart, "wait"), _times(chart, "run")]


def _ended(chart: Chart, split: Split) -> Picture:
    total = chart.total
    words = f"{count(total.ended)} ended" if total.ended else "nothing has ended in this time"
    if split == "outcome":
        series = [_outcome(chart, name) for name in OUTCOMES if name != "retried" and total.counts.get(name)]
    else:
        series = [Series(line.name or "others", _colour(place, line.name), list(line.ended))
                  for place, line in enumerate(chart.lines)]  # fmt: skip
    return _picture(chart, "throughput", "Ended tasks", words, series, stacked=True)


def _failed(chart: Chart, split: Split) -> Picture:
    total = chart.total
    retried, dead = total.counts.get("retried", 0), total.counts.get("dead", 0)
    words = (
        f"{count(retried)} tried again, {count(dead)} dead: {share(total)} of all runs" if retried + dead else "none"
    )
    if split == "outcome":
        series = [_outcome(chart, name) for name in ("retried", "dead") if total.counts.get(name)]
    else:
        series = [Series(line.name or "others", _colour(place, line.name), list(line.failures))
                  for place, line in enumerate(chart.lines) if any(line.failures)]  # fmt: skip
    return _picture(chart, "failures", "Failed runs", words, series, stacked=True)


def _times(chart: Chart, kind: Literal["wait", "run"]) -> Picture:
    title = "Waiting time" if kind == "wait" else "Run time"
    half, most, _ = getattr(chart.total, kind)
    words = "no runs" if half is None else f"half within {age(half)}, 95 of 100 within {age(most)}"
    series = [
        Series(label, colour, [getattr(step, kind)[place] for step in chart.steps])
        for place, (label, colour) in enumerate(_SHARES)
    ]
    return _picture(chart, kind, title, words, series if half is not None else [], stacked=False)


def share(total: Total) -> str:
    """Return how many of a hundred runs have failed."""
    runs = sum(number for outcome, number in total.counts.items() if outcome != "cancelled")
    percent = 100 * total.failures / runs if runs else 0
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


def _picture(chart: Chart, name: str, title: str, words: str, series: list[Series], *, stacked: bool) -> Picture:
    return Picture(name, title, words, chart.instants(), series, stacked, chart.step.total_seconds())


def _outcome(chart: Chart, name: str) -> Series:
    return Series(name, _COLOURS[name], [step.counts.get(name, 0) for step in chart.steps])


def _colour(place: int, name: str | None) -> int:
    return 0 if name is None else place + 1


def _cumulated(lines: Sequence[Sequence[Value]]) -> list[list[float]]:
    sums: list[list[float]] = []
    for values in lines:
        below = sums[-1] if sums else [0.0] * len(values)
        sums.append([low + (value or 0) for low, value in zip(below, values, strict=True)])
    return sums


def _area(heights: Sequence[float]) -> str:
    steps = "".join(f"V{100 - 100 * height:.1f}H{place + 1}" for place, height in enumerate(heights))
    return f"M0 100{steps}V100Z"


def _line(heights: Sequence[Value]) -> str:
    made, pen = [], "M"
    for place, height in enumerate(heights):
        if height is None:
            pen = "M"
            continue
        made.append(f"{pen}{place + 0.5} {100 - 97 * height:.1f}")
        pen = "L"
    return "".join(made) or "M0 0"
