"""How much is measured, and what came of it, as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TypeAlias

Tell: TypeAlias = Callable[[str, int, int], None]
"""Told as it goes on: the step, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many tasks are stored all at once, one by one, and for an idle runner."""

    tasks: int
    singles: int
    pickups: int

    @classmethod
    def of(cls, tasks: int) -> Size:
        """Return what goes with so many tasks: a second or two each of what is slow."""
        return cls(tasks, max(1, min(tasks // 10, 2000)), max(1, min(tasks // 10, 200)))


@dataclass(frozen=True, slots=True)
class Delays:
    """Waits of one kind, in milliseconds: half of them, 19 of 20, 99 of 100 are no longer than these."""

    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Delays:
        """Return the percentiles of so many seconds each."""
        cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else list(seconds) * 99
        return cls(*(round(cuts[place - 1] * 1000, 3) for place in (50, 95, 99)))


@dataclass(frozen=True, slots=True)
class Rate:
    """So many tasks in so many seconds."""

    tasks: int
    seconds: float
    per_second: float

    @classmethod
    def of(cls, tasks: int, seconds: float) -> Rate:
        """Return it with the quotient."""
        return cls(tasks, round(seconds, 3), round(tasks / seconds, 1) if seconds else 0.0)


@dataclass(frozen=True, slots=True)
class Report:
    """All figures, and what they depend on."""

    version: str
    fsync: str
    synchronous_commit: str
    processes: int
    concurrency: int
    batch: int
    enqueue_singly: Rate
    enqueue_singly_waits: Delays
    enqueue_many: Rate
    drain: Rate
    pickups: int
    pickup_waits: Delays
