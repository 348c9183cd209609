"""Figures, times and waits in a few letters."""

from __future__ import annotations

from datetime import datetime, timedelta

from taskrunner.wording import brief as span
from taskrunner.wording import figure

__all__ = ["figure", "rate", "since", "span", "stamp", "until"]


def since(instant: datetime | None, now: datetime) -> str:
    """Write how long ago an instant was, or, with a minus sign, how far ahead it is."""
    return "" if instant is None else span((now - instant).total_seconds())


def until(instant: datetime | None, now: datetime) -> str:
    """Write how far ahead an instant is; `now` when it has come."""
    if instant is None:
        return ""
    return "now" if instant <= now else span((instant - now).total_seconds())


def stamp(instant: datetime | None) -> str:
    """Write an instant to the second, in the zone it is given in."""
    if instant is None:
        return ""
    offset = instant.strftime("%z")
    return f"{instant:%Y-%m-%d %H:%M:%S} {'UTC' if instant.utcoffset() == timedelta(0) else offset}"


def rate(a_second: float) -> str:
    """Write how many there are a second: `0.3/s`, `1,234/s`."""
    return f"{a_second:.1f}/s" if a_second < 100 else f"{figure(int(a_second))}/s"
