"""Delays that users hand us, as seconds or as `timedelta`, read in one place."""

from __future__ import annotations

from datetime import timedelta

from taskrunner.errors import InvalidArgument

LONGEST = timedelta(days=36525)  # a century: what lies beyond is a mistake, and may overflow a timestamptz


def as_duration(value: object, what: str) -> timedelta:
    """Read seconds or a timedelta, negative ones too; `what` names it in the error.

    Raises InvalidArgument for anything else, for NaN and infinity, and beyond a century.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{what} must be seconds or a timedelta, not {_shown(value)}")
    elif not abs(value) <= LONGEST.total_seconds():  # so written, NaN is caught too
        raise InvalidArgument(f"{what} must be a finite number of seconds under 100 years, not {_shown(value)}")
    else:
        duration = timedelta(seconds=value)
    if abs(duration) > LONGEST:
        raise InvalidArgument(f"{what} must be under 100 years, not {duration.days} days")
    return duration


def as_delay(value: object, what: str) -> timedelta:
    """Read a duration of zero or more; raises InvalidArgument."""
    duration = as_duration(value, what)
    if duration < timedelta(0):
        raise InvalidArgument(f"{what} must not be negative, but is {spell(duration)}")
    return duration


def spell(duration: timedelta) -> str:
    """Write a duration in seconds for a message: `30 s`, `0.25 s`."""
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + " s"


def _shown(value: object) -> str:
    """Name the type, and a float's value: nobody's `__repr__` is called, so this cannot fail."""
    return f"the float {float(value)}" if isinstance(value, float) else f"the {type(value).__qualname__} given"
