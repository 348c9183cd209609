"""Spans of whole days, in UTC: what history is cut into."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from typing import Literal, NamedTuple

Unit = Literal["day", "week", "month"]

DAY = timedelta(days=1)


class Span(NamedTuple):
    """The days from `begin` to the one before `end`."""

    begin: date
    end: date


def around(day: date, unit: Unit) -> Span:
    """Return the span of the calendar that holds a day: itself, its week from Monday on, or its month."""
    if unit == "day":
        return Span(day, day + DAY)
    if unit == "week":
        monday = day - DAY * day.weekday()
        return Span(monday, monday + 7 * DAY)
    first = day.replace(day=1)
    return Span(first, (first + 31 * DAY).replace(day=1))


def gap_at(day: date, taken: Collection[Span], unit: Unit) -> Span | None:
    """Return what is free of the span around a day; None when the day is taken.

    So spans of one unit go on where those of another end, after a change of the setting.
    """
    if any(span.begin <= day < span.end for span in taken):
        return None
    whole = around(day, unit)
    begins = [span.end for span in taken if span.end <= day]
    ends = [span.begin for span in taken if span.begin > day]
    return Span(max([whole.begin, *begins]), min([whole.end, *ends]))
