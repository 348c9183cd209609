"""Counters of what has ended, which never fall: what each look finds more than the one before, added up.

The sums of `task_stats` themselves fall as retention drops old minutes, which Prometheus would take for a restart. So
a counter begins with the process at zero, as its others do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.utils import floatToGoString

from taskrunner.buckets import BOUNDS
from taskrunner.reads.metrics import EndedInMinute

Minute = tuple[datetime, str, str, str]


@dataclass(slots=True)
class Timing:
    """Runs or waits of one type in one queue: how many in each bucket, the last one open, and seconds in all."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, buckets: Iterable[int], seconds: float) -> None:
        """Add what came since the last look; what fell (a row was dropped and made anew) is no news."""
        self.buckets = [have + max(more, 0) for have, more in zip(self.buckets, buckets, strict=True)]
        self.seconds += max(seconds, 0.0)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus has them: each with all that are below it."""
        found, total = [], 0
        for bound, count in zip([*map(floatToGoString, BOUNDS), "+Inf"], self.buckets, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Tally:
    """The totals since the first look, by queue and type."""

    def __init__(self) -> None:
        self.ended: dict[tuple[str, str, str], int] = {}
        self.runs: dict[tuple[str, str], Timing] = {}
        self.waits: dict[tuple[str, str], Timing] = {}
        self._seen: dict[Minute, EndedInMinute] | None = None

    def skip(self) -> None:
        """Let the next look be a first one: it is too long ago, and minutes seen then may be others' sums by now."""
        self._seen = None

    def look(self, rows: Iterable[EndedInMinute]) -> None:
        """Add what the rows have more than those of the last look; the first look adds nothing.

        They must reach back as far as the last look's did.
        """
        now = {row[:4]: row for row in rows}
        for key, row in now.items():
            before = row if self._seen is None else self._seen.get(key)
            self._add(row, before)
        self._seen = now

    def _add(self, row: EndedInMinute, before: EndedInMinute | None) -> None:
        outcome, place = (row.queue, row.type, row.outcome), (row.queue, row.type)
        nothing = [0] * (len(BOUNDS) + 1)
        runs, waits = (before.runs, before.waits) if before else (nothing, nothing)
        self.ended[outcome] = self.ended.get(outcome, 0) + max(row.ended - (before.ended if before else 0), 0)
        self.runs.setdefault(place, Timing()).add(
            [new - old for new, old in zip(row.runs, runs, strict=True)],
            row.run_seconds - (before.run_seconds if before else 0.0),
        )
        self.waits.setdefault(place, Timing()).add(
            [new - old for new, old in zip(row.waits, waits, strict=True)],
            row.wait_seconds - (before.wait_seconds if before else 0.0),
        )
