"""How figures are cut: run and waiting times into buckets, and time itself, the coarser the longer ago."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

BOUNDS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 3600.0]
"""Upper bounds in seconds of the run-time and waiting-time histograms; the thirteenth bucket is open."""


class Level(NamedTuple):
    """Of what age on a row of figures stands for a whole span, and for no runner in particular."""

    age: timedelta
    span: timedelta


LEVELS = (
    Level(timedelta(minutes=90), timedelta(minutes=5)),
    Level(timedelta(hours=25), timedelta(hours=1)),
)
"""The younger first. Who asks for the last 24 hours gets them to five minutes."""


def quantile(histogram: Sequence[float], share: float) -> float | None:
    """Return the seconds that this share of the runs took at most: within its bucket, on a straight line.

    None of no runs; the last bound for what lies beyond it.
    """
    total = sum(histogram)
    if total <= 0:
        return None
    wanted, before = share * total, 0.0
    for place, count in enumerate(histogram):
        if count > 0 and before + count >= wanted:
            low, high = BOUNDS[place - 1] if place else 0.0, BOUNDS[min(place, len(BOUNDS) - 1)]
            return low + (high - low) * (wanted - before) / count
        before += count
    return BOUNDS[-1]
