"""What ended over a time, in steps: throughput, failures, waiting and run times; from `task_stats` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, Field

from taskrunner.buckets import LEVELS, quantile
from taskrunner.db import Op, Row, Steps
from taskrunner.errors import InvalidArgument
from taskrunner.reads.figures import now
from taskrunner.statements import stats as sql

By = Literal["type", "queue"]

RANGES: Mapping[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
OUTCOMES = ("succeeded", "ignored", "cancelled", "retried", "dead")
FAILURES = frozenset({"retried", "dead"})
QUANTILES = (0.5, 0.95, 0.99)
FEW = 6
"""Names that a chart has lines for; the others are one."""
MOST = 100
"""Names that a table lists."""
STEPS = 120
"""Steps of a chart, at most."""

_MINUTE = timedelta(minutes=1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WIDTHS = [timedelta(minutes=n) for n in (1, 5, 10, 15, 30, 60, 120, 240, 360, 720, 1440)]


class ChartFilter(BaseModel):
    """Which time, of what, and by what it is split: a range that ends now, or `since` and `until`."""

    range: str = Field("1h", pattern="^(15m|1h|6h|24h|7d|30d)$")
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    by: By = "type"
    type: str | None = None
    queue: str | None = None
    tenant: str | None = None


class Total(BaseModel):
    """What ended, by outcome, with the times in seconds of half, 95 and 99 of a hundred runs; None without any."""

    name: str = ""
    counts: dict[str, int] = {}
    run: list[float | None] = [None, None, None]
    wait: list[float | None] = [None, None, None]

    @property
    def ended(self) -> int:
        """How many tasks ended; a try that was followed by another is no end."""
        return sum(count for outcome, count in self.counts.items() if outcome != "retried")

    @property
    def failures(self) -> int:
        """How many runs failed."""
        return sum(self.counts.get(outcome, 0) for outcome in FAILURES)


class Line(BaseModel):
    """What ended of one name in each step, and how many of its runs failed; the name is None for all the others."""

    name: str | None
    ended: list[int]
    failures: list[int]


class Chart(BaseModel):
    """Steps of equal length, by the instants at which they begin; the last one may be going on."""

    begin: datetime
    end: datetime
    step: timedelta
    steps: list[Total]
    lines: list[Line]
    names: list[Total]
    """The busiest first."""
    total: Total

    def instants(self) -> list[datetime]:
        """Return when each step begins."""
        return [self.begin + place * self.step for place in range(len(self.steps))]


def chart(wanted: ChartFilter) -> Steps[Chart]:
    """Return what ended in the time that is asked for. Raises: `InvalidArgument` when its end is before its begin."""
    at: datetime = yield now()
    begin, end, step = _frame(wanted, at)
    params = {
        "begin": begin, "end": end, "step": step.total_seconds(), "by": wanted.by, "type": wanted.type,
        "queue": wanted.queue, "tenant": wanted.tenant, "few": FEW, "most": MOST,
    }  # fmt: skip
    rows: Sequence[Row] = yield Op(sql.SERIES, params)
    return _drawn(begin, end, step, rows)


def _frame(wanted: ChartFilter, at: datetime) -> tuple[datetime, datetime, timedelta]:
    """Return begin, end and step, on a grid that stays where it is while time goes on."""
    until = min(wanted.until or at, at)
    since = max(wanted.since or until - RANGES[wanted.range], _EPOCH)
    if since >= until:
        raise InvalidArgument(f"the time ends at {until.isoformat()}, which is not after its begin {since.isoformat()}")
    finest = next((level.span for level in reversed(LEVELS) if since < at - level.age), _MINUTE)
    fitting = (width for width in _WIDTHS if width >= finest and (until - since) / width <= STEPS)
    step = next(fitting, _in_days((until - since) / STEPS))
    return _floored(since, step), _floored(until, step) + step, step


def _in_days(width: timedelta) -> timedelta:
    """Return the next number of whole days."""
    return timedelta(days=width.days + 1)


def _floored(instant: datetime, step: timedelta) -> datetime:
    return instant - (instant - _EPOCH) % step


def _drawn(begin: datetime, end: datetime, step: timedelta, rows: Sequence[Row]) -> Chart:
    places = range(round((end - begin) / step))
    steps = _Gathered()
    names = _Gathered()
    lines: dict[str, Line] = {}
    whole = _Gathered()
    for place, name, outcome, count, run, wait in rows:
        if name is None:
            steps.add(place, outcome, count, run, wait)
            whole.add("", outcome, count, run, wait)
        elif place is None:
            names.add(name, outcome, count, run, wait)
        else:
            line = lines.setdefault(name, Line(name=name, ended=[0] * len(places), failures=[0] * len(places)))
            line.ended[place] += round(count) if outcome != "retried" else 0
            line.failures[place] += round(count) if outcome in FAILURES else 0
    made = [steps.total(place) for place in places]
    busiest = sorted((names.total(name) for name in names), key=lambda total: (-sum(total.counts.values()), total.name))
    shown = sorted(lines.values(), key=lambda line: (-sum(line.ended), line.name))
    rest = _rest(made, shown)
    return Chart(
        begin=begin,
        end=end,
        step=step,
        steps=made,
        lines=[*shown, rest] if any(rest.ended) or any(rest.failures) else shown,
        names=busiest,
        total=whole.total(""),
    )


def _rest(steps: Sequence[Total], lines: Sequence[Line]) -> Line:
    return Line(
        name=None,
        ended=[total.ended - sum(line.ended[place] for line in lines) for place, total in enumerate(steps)],
        failures=[total.failures - sum(line.failures[place] for line in lines) for place, total in enumerate(steps)],
    )


class _Gathered:
    """Rows added up by a step or a name."""

    def __init__(self) -> None:
        self._counts: dict[Any, dict[str, int]] = {}
        self._run: dict[Any, list[float]] = {}
        self._wait: dict[Any, list[float]] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._counts)

    def add(self, key: Any, outcome: str, count: float, run: Sequence[float], wait: Sequence[float]) -> None:
        counts = self._counts.setdefault(key, {})
        counts[outcome] = counts.get(outcome, 0) + round(count)
        if outcome != "cancelled":  # it has not run, or was broken off
            for sums, more in ((self._run, run), (self._wait, wait)):
                sums[key] = [a + (b or 0) for a, b in zip(sums.get(key, [0.0] * len(more)), more, strict=True)]

    def total(self, key: Any) -> Total:
        run, wait = self._run.get(key, []), self._wait.get(key, [])
        return Total(
            name=str(key),
            counts=self._counts.get(key, {}),
            run=[quantile(run, share) for share in QUANTILES],
            wait=[quantile(wait, share) for share in QUANTILES],
        )
