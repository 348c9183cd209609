"""Figures in sentences for people: how long, how many, which."""

from __future__ import annotations

from collections.abc import Sequence


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


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in a line, the first few."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
