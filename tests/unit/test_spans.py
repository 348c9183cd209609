"""How days are put into partitions, whatever the unit is, and after it has changed."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.spans import DAY, Span, Unit, around, gap_at

UNITS: list[Unit] = ["day", "week", "month"]


@pytest.mark.parametrize(
    ("day", "unit", "begin", "end"),
    [
        (date(2026, 11, 22), "day", date(2026, 11, 22), date(2026, 11, 23)),
        (date(2026, 12, 31), "day", date(2026, 12, 31), date(2027, 1, 1)),
        (date(2026, 11, 22), "week", date(2026, 11, 16), date(2026, 11, 23)),
        (date(2027, 1, 1), "week", date(2026, 12, 28), date(2027, 1, 4)),
        (date(2026, 12, 31), "month", date(2026, 12, 1), date(2027, 1, 1)),
        (date(2028, 2, 29), "month", date(2028, 2, 1), date(2028, 3, 1)),
    ],
)
def test_a_span_of_the_calendar_holds_its_day(day: date, unit: Unit, begin: date, end: date) -> None:
    """SPEC HIS 52."""
    assert around(day, unit) == Span(begin, end)


def test_a_gap_ends_where_others_begin() -> None:
    taken = [Span(date(2026, 11, 20), date(2026, 12, 3)), Span(date(2026, 12, 24), date(2026, 12, 25))]
    assert gap_at(date(2026, 12, 2), taken, "month") is None
    assert gap_at(date(2026, 12, 3), taken, "month") == Span(date(2026, 12, 3), date(2026, 12, 24))
    assert gap_at(date(2026, 12, 31), taken, "month") == Span(date(2026, 12, 25), date(2027, 1, 1))
    assert gap_at(date(2026, 12, 31), taken, "week") == Span(date(2026, 12, 28), date(2027, 1, 4))


@given(st.lists(st.tuples(st.integers(0, 70), st.sampled_from(UNITS)), min_size=1, max_size=12))
def test_however_the_unit_changes_every_day_is_in_one_partition(changes: list[tuple[int, Unit]]) -> None:
    """SPEC HIS 52."""
    today, taken = date(2026, 11, 22), set[Span]()
    for days, unit in changes:
        today += timedelta(days=days)
        wanted = [today + DAY * ahead for ahead in range(31)]
        gaps = {gap for day in wanted if (gap := gap_at(day, taken, unit))}
        taken |= gaps
        assert all(span.begin < span.end for span in taken)
        assert all(sum(span.begin <= day < span.end for span in taken) == 1 for day in wanted)
        ordered = sorted(taken)
        assert all(one.end <= other.begin for one, other in pairwise(ordered))
