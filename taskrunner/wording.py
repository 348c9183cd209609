"""Figures in sentences for people: how long, how many, which."""

from __future__ import annotations

from collections.abc import Sequence

_BRIEF = ((86_400, "d", 48 * 3_600), (3_600, "h", 7_200), (60, "m", 120))


def span(seconds: float | None) -> str:
    """Say how long something takes: `1.5 s`, `90 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds is None:
        return "an unknown time"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if abs(seconds) < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if abs(seconds) >= 10 else f"{seconds:.1f} s"


def some(count: int, noun: str, plural: str = "", *, bound: int | None = None) -> str:
    """Say how many of something there are; a count that was bounded is one of at least so many."""
    least = "at least " if bound is not None and count >= bound else ""
    return f"{least}{count:,} {noun if count == 1 else plural or noun + 's'}"


def first_line(error: BaseException | None) -> str:
    """Return what an error says, in one line; of one that says nothing its kind."""
    return next((line for line in str(error or "").strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in a line, the first few."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def figure(count: int) -> str:
    """Write a count in at most six letters, rounded down: `98,765`, `123k`, `1.23M`."""
    if count < 100_000:
        return f"{count:,}"
    if count < 10**6:
        return f"{count // 1000}k"
    size, unit = (10**9, "G") if count >= 10**9 else (10**6, "M")
    places = max(0, 3 - len(str(count // size)))
    return f"{count * 10**places // size / 10**places:.{places}f}{unit}"


def brief(seconds: float | None) -> str:
    """Write how long something lasts, in the largest unit of which there are two: `4ms`, `90s`, `12m`, `47h`, `3d`."""
    if seconds is None:
        return ""
    for size, unit, least in _BRIEF:
        if abs(seconds) >= least:
            return f"{seconds / size:.0f}{unit}"
    if 0 < abs(seconds) < 0.1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.0f}s" if abs(seconds) >= 10 or seconds == 0 else f"{seconds:.1f}s"
