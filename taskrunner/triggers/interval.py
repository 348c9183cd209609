"""Every so many seconds, on a fixed grid, in whole microseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers.instants import TICK, utc

# A tick is a transaction of its own, and a commit takes milliseconds on a disk: a shorter one would always be behind.
SHORTEST = timedelta(milliseconds=10)
# Far enough for anybody, and no sum of it and a date of this millennium leaves the calendar.
LONGEST = timedelta(days=36525)

_SECOND = timedelta(seconds=1)
_UNITS = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("min", timedelta(minutes=1)),
    ("s", _SECOND),
    ("ms", timedelta(milliseconds=1)),
    ("µs", TICK),
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Fires at once, then every `period` after that; the zone only matters for showing it."""

    period: timedelta
    timezone: str = "UTC"

    def first_after(self, instant: datetime) -> datetime | None:
        return utc(instant)

    def next_after(self, previous: datetime, instant: datetime) -> datetime | None:
        return on_grid(utc(previous), self.period, max(utc(previous), utc(instant)))

    def text(self) -> str:
        return f"interval {seconds_text(self.period)}"

    def describe(self) -> str:
        name, unit = next((name, unit) for name, unit in _UNITS if not self.period % unit)
        if unit < _SECOND <= self.period:
            return f"every {seconds_text(self.period)} s"
        return f"every {self.period // unit} {name}"


def on_grid(base: datetime, period: timedelta, instant: datetime) -> datetime | None:
    """Return the first of `base + n * period` later than `instant`, by integers; None beyond the year 9999."""
    try:
        return base + period * ((instant - base) // period + 1)
    except OverflowError:
        return None


def seconds_text(period: timedelta) -> str:
    """Return a duration as exact decimal seconds, without needless zeros."""
    seconds, micros = divmod(period // TICK, 1_000_000)
    return f"{seconds}.{micros:06}".rstrip("0").rstrip(".")


def parse_interval(frequency: float | timedelta, timezone: str) -> Interval:
    """Return the interval of seconds or a timedelta; raise TriggerInvalid if it is no usable duration."""
    if isinstance(frequency, bool):
        raise TriggerInvalid(f"frequency {frequency} is a bool: give seconds, such as 5")
    if isinstance(frequency, timedelta):
        return Interval(bounded(frequency, frequency), timezone)
    if not math.isfinite(frequency):
        raise TriggerInvalid(f"frequency {frequency} is not a finite number: give seconds, such as 5")
    try:
        period = timedelta(seconds=frequency)
    except OverflowError:
        period = timedelta.max if frequency > 0 else timedelta.min
    return Interval(bounded(period, frequency), timezone)


def bounded(period: timedelta, written: object) -> timedelta:
    """Return the period if a schedule can keep it; raise TriggerInvalid naming what was written."""
    if period <= timedelta(0):
        raise TriggerInvalid(
            f"frequency {written!r} is not positive: give more than 0 seconds, or None for no schedule"
        )
    if period < SHORTEST:
        raise TriggerInvalid(
            f"frequency {written!r} is below {SHORTEST // timedelta(milliseconds=1)} ms: "
            "a tick is one transaction; let one task loop over the work instead"
        )
    if period > LONGEST:
        raise TriggerInvalid(f"frequency {written!r} is above 100 years: give seconds, not milliseconds")
    return period


def read_interval(text: str, timezone: str) -> Interval:
    """Return the interval of exact decimal seconds, as `seconds_text` writes them."""
    try:
        micros = Decimal(text) * 1_000_000
        return Interval(bounded(int(micros) * TICK, text), timezone)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise TriggerInvalid(f"stored interval {text!r} cannot be read: give seconds, such as 5") from error
