"""Figures, times and waits in a few letters."""

from __future__ import annotations

from datetime import datetime, timedelta

_UNITS = ((86_400, "d", 48 * 3_600), (3_600, "h", 7_200), (60, "m", 120))


def figure(count: int) -> str:
    """Write a count in at most six letters, rounded down: `98,765`, `123k`, `1.23M`."""
    if count < 100_000:
        return f"{count:,}"
    if count < 10**6:
        return f"{count // 1000}k"
    size, unit = (10**9, "G") if count >= 10**9 else (10**6, "M")
    places = max(0, 3 - len(str(count // size)))
    return f"{count * 10**places // size / 10**places:.{places}f}{unit}"


def span(seconds: float | None) -> str:
    """Write how long something lasts, in the largest unit of which there are two: `4ms`, `90s`, `12m`, `47h`, `3d`."""
    if seconds is None:
        return ""
    for size, unit, least in _UNITS:
        if abs(seconds) >= least:
            return f"{seconds / size:.0f}{unit}"
    if 0 < abs(seconds) < 0.1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.0f}s" if abs(seconds) >= 10 or seconds == 0 else f"{seconds:.1f}s"


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
