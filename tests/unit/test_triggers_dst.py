"""Crontabs across clock changes: SPEC's vectors, and a second implementation that shares nothing with the first.

The second one never computes a due time. It lets every real minute pass, as Debian's cron does, and looks at the clock
on the wall: rules with a star fire when the wall shows a matching time; the others when the wall reaches or jumps over
one, and never for a time that the wall has shown before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskrunner.triggers import parse, upcoming

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

# Two years each; Sao Paulo's clocks jumped at midnight until 2019, Lord Howe's jump by half an hour, Casablanca's run
# ahead all year but for Ramadan, Kolkata is at half past.
ZONES = {
    "Europe/Warsaw": 2025,
    "America/New_York": 2025,
    "Australia/Lord_Howe": 2025,
    "Africa/Casablanca": 2025,
    "America/Sao_Paulo": 2017,
    "Asia/Kolkata": 2025,
    "UTC": 2025,
}

CRONTABS = """
* * * * *      |*/5 * * * *    |*/7 * * * *   |*/30 * * * *   |0 * * * *     |59 * * * *    |30 */2 * * *
15 */3 * * *   |* 0 * * *      |* 1 * * *     |* 2 * * *      |* 3 * * *     |*/10 0 * * *  |*/20 2 * * *
*/15 1-3 * * * |0 0 * * *      |0 1 * * *     |15 1 * * *     |45 1 * * *    |0 2 * * *     |5 2 * * *
30 2 * * *     |59 2 * * *     |0 3 * * *     |30 3 * * *     |0,30 0-4 * * *|15,45 1,2 * * *|0-59/10 2 * * *
30 23 * * *    |59 23 * * *    |0 0 * * 0     |30 2 * * sun   |30 2 * * 7    |30 1 * * sat,sun
0 12 */2 * mon |30 2 1-7 * 0   |* 2 */2 * sun |0 0 1 * *      |*/20 0 1-15 * *|17 2 29 3 *   |30 1 25 oct 6
""".replace("\n", "|").split("|")
CRONTABS = [text.strip() for text in CRONTABS if text.strip()]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- the vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crontab", "start", "expected"),
    [
        ("0 0 * * *", "2026-03-28T12:00", ["2026-03-28T23:00", "2026-03-29T22:00", "2026-03-30T22:00"]),
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30"]),
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30", "2026-10-27T01:30"]),
        ("0,30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:00", "2026-03-30T00:30"]),
        ("*/30 2 * * *", "2026-03-28T12:00", ["2026-03-30T00:00", "2026-03-30T00:30"]),
        (
            "*/30 2 * * *",
            "2026-10-24T12:00",
            ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"],
        ),
    ],
)
def test_warsaw_fires_as_debian_does(crontab: str, start: str, expected: list[str]) -> None:
    """SPEC SCH 42."""
    trigger = parse(crontab, timezone="Europe/Warsaw")
    assert upcoming(trigger, None, at(start), len(expected)) == [at(due) for due in expected]


@pytest.mark.parametrize("start", ["2026-03-28T12:00", "2026-10-24T12:00"])
@pytest.mark.parametrize(
    ("crontab", "step"), [("0 * * * *", HOUR), ("*/30 * * * *", 30 * MINUTE), ("* * * * *", MINUTE)]
)
def test_what_fires_every_hour_or_oftener_fires_in_every_real_one(start: str, crontab: str, step: timedelta) -> None:
    """SPEC SCH 42."""
    dues = upcoming(parse(crontab, timezone="Europe/Warsaw"), None, at(start), 30 * HOUR // step)
    assert dues == [at(start) + n * step for n in range(1, len(dues) + 1)]


def test_the_second_pass_of_a_repeated_hour_does_not_fire_again_whenever_it_is_asked() -> None:
    """SPEC SCH 42: a schedule that is resumed or declared inside the repeated hour."""
    trigger = parse("30 2 * * *", timezone="Europe/Warsaw")
    for minutes in range(60):
        assert trigger.first_after(at("2026-10-25T01:00") + minutes * MINUTE) == at("2026-10-26T01:30")


def test_a_clock_that_jumps_by_half_an_hour_loses_no_minute() -> None:
    """In Lord Howe, 2026-04-05, the half hour from 01:30 is repeated and hour 2 follows whole."""
    dues = upcoming(parse("* 2 * * *", timezone="Australia/Lord_Howe"), None, at("2026-04-04T12:00"), 61)
    assert dues[:60] == [at("2026-04-04T15:30") + n * MINUTE for n in range(60)]
    assert dues[60] == at("2026-04-05T15:30")


def test_a_clock_that_jumps_at_midnight_skips_rules_of_that_hour_and_catches_up_with_times_of_day() -> None:
    """In Sao Paulo, 2018-11-04, midnight did not exist."""
    jump = at("2018-11-04T03:00")
    assert parse("0 0 4 * *", timezone="America/Sao_Paulo").first_after(jump - HOUR) == jump
    assert parse("*/20 0 4 * *", timezone="America/Sao_Paulo").first_after(jump - HOUR) == at("2018-12-04T02:00")


# --- the second implementation ---------------------------------------------------------------------------------------

NAMES = {
    name: str(number)
    for names, first in (("jan feb mar apr may jun jul aug sep oct nov dec", 1), ("sun mon tue wed thu fri sat", 0))
    for number, name in enumerate(names.split(), first)
}


@dataclass(frozen=True)
class Fields:
    """A crontab as plain sets of numbers."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both_days: bool
    follows_clock: bool

    @classmethod
    def of(cls, crontab: str) -> Fields:
        minute, hour, day, month, weekday = crontab.lower().split()
        return cls(
            numbers(minute, 0, 59),
            numbers(hour, 0, 23),
            numbers(day, 1, 31),
            numbers(month, 1, 12),
            frozenset(number % 7 for number in numbers(weekday, 0, 7)),
            both_days="*" in (day[0], weekday[0]),
            follows_clock="*" in (minute[0], hour[0]),
        )

    def match(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        day, weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return (day and weekday) if self.both_days else (day or weekday)


def numbers(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = (NAMES.get(end, end) for end in span.partition("-"))
        begin, end = (low, high) if span == "*" else (int(first), int(last or (high if step else first)))
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


@dataclass(frozen=True)
class Window:
    """Every minute of some days: when it is, what the wall shows, and which times the wall reaches or jumps over."""

    minutes: list[tuple[datetime, datetime, list[datetime]]] = field(repr=False)
    change: datetime

    @classmethod
    def around(cls, change: datetime, zone: ZoneInfo) -> Window:
        begin, minutes = change - 26 * HOUR, []
        highest = wall_of(begin - MINUTE, zone)
        for n in range(52 * 60):
            instant = begin + n * MINUTE
            wall = wall_of(instant, zone)
            reached = [highest + i * MINUTE for i in range(1, (wall - highest) // MINUTE + 1)]
            highest = max(highest, wall)
            minutes.append((instant, wall, reached))
        return cls(minutes, change)

    def dues(self, crontab: str) -> list[datetime]:
        fields = Fields.of(crontab)
        if fields.follows_clock:
            return [instant for instant, wall, _ in self.minutes if fields.match(wall)]
        return [instant for instant, _, reached in self.minutes if any(map(fields.match, reached))]


def wall_of(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


@cache
def windows(name: str) -> list[Window]:
    """The days around every change of the clock in two years, and around one day without."""
    zone, begin = ZoneInfo(name), datetime(ZONES[name], 1, 1, tzinfo=UTC)
    steps = [begin + n * 6 * HOUR for n in range(2 * 365 * 4)]
    offsets = [step.astimezone(zone).utcoffset() for step in steps]
    changes = [steps[n] for n in range(1, len(steps)) if offsets[n] != offsets[n - 1]]
    return [Window.around(change, zone) for change in [begin + 40 * 24 * HOUR, *changes]]


def agree(crontab: str, name: str, window: Window, instants: list[datetime]) -> None:
    trigger, dues = parse(crontab, timezone=name), window.dues(crontab)
    last = window.minutes[-1][0]
    for instant in instants:
        later = bisect_right(dues, instant)
        due = trigger.first_after(instant)
        if later < len(dues):
            assert due == dues[later], (crontab, name, instant)
        else:
            assert due is None or due > last, (crontab, name, instant)


def test_the_zones_change_their_clocks_as_often_as_is_meant() -> None:
    changes = {name: len(windows(name)) - 1 for name in ZONES}
    assert changes == {name: 0 if name in ("UTC", "Asia/Kolkata") else 4 for name in ZONES}
    assert len(CRONTABS) >= 30


@pytest.mark.parametrize("name", ZONES)
def test_every_crontab_agrees_with_a_clock_that_is_watched_minute_by_minute(name: str) -> None:
    """SPEC SCH 42, in all zones and for all kinds of rule."""
    random = Random(name)  # noqa: S311 - a sample that is the same in every run
    for window in windows(name):
        for crontab in CRONTABS:
            seconds = [random.uniform(-26 * 3600, 25 * 3600) for _ in range(2)]
            seconds += [random.uniform(-7 * 3600, 3600) for _ in range(4)]
            agree(crontab, name, window, [window.change + timedelta(seconds=second) for second in seconds])


def numeric(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high).map(str)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda ends: f"{min(ends)}-{max(ends)}")
    stepped = st.tuples(st.one_of(st.just("*"), span), st.integers(1, high)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    some = st.lists(st.one_of(one, span), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), some, stepped)


CRONTAB = st.tuples(numeric(0, 59), numeric(0, 4), numeric(1, 28), st.just("*"), numeric(0, 7)).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(crontab=CRONTAB, name=st.sampled_from(sorted(ZONES)), data=st.data())
def test_any_crontab_agrees_with_a_clock_that_is_watched_minute_by_minute(
    crontab: str, name: str, data: st.DataObject
) -> None:
    """SPEC SCH 42."""
    window = data.draw(st.sampled_from(windows(name)))
    seconds = data.draw(st.floats(-26 * 3600, 25 * 3600))
    agree(crontab, name, window, [window.change + timedelta(seconds=seconds)])
