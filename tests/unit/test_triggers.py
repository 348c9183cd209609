"""What a frequency means: accepted, refused, stored, read back, and when it is due."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.combining import AndTrigger, OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.errors import InvalidArgument, TriggerInvalid
from taskrunner.triggers import Interval, Trigger, missed, parse, parse_text, upcoming

WARSAW = ZoneInfo("Europe/Warsaw")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def parse_quietly(frequency: Any, **options: str) -> Trigger:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return parse(frequency, **options)


FREQUENCIES: list[Any] = [
    5,
    0.25,
    timedelta(days=30),
    timedelta(microseconds=1_234_567),
    "*/5 * * * *",
    "0 9 * jan-mar mon-fri",
    "@daily",
    IntervalTrigger(hours=2),
    IntervalTrigger(hours=2, start_date=datetime(2026, 1, 1, tzinfo=UTC)),
    IntervalTrigger(hours=2, end_date=datetime(2036, 1, 1, tzinfo=UTC)),
    CronTrigger(hour="3", day_of_week="mon-fri", timezone=WARSAW),
    CronTrigger(day="2nd fri, last", timezone="UTC", end_date="2036-01-01"),
    DateTrigger(datetime(2036, 1, 1, tzinfo=UTC)),
    CalendarIntervalTrigger(months=1, hour=3, start_date=date(2026, 1, 31), timezone=WARSAW),
    CalendarIntervalTrigger(days=2, timezone=WARSAW),
    OrTrigger([CronTrigger(hour=3, timezone="UTC"), DateTrigger(datetime(2036, 1, 1, tzinfo=UTC))]),
    AndTrigger(
        [CalendarIntervalTrigger(days=2, timezone=WARSAW), CronTrigger(day_of_week="mon-fri", hour=0, timezone=WARSAW)]
    ),
]


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_a_trigger_is_read_back_from_its_text_as_an_equal_one(frequency: Any) -> None:
    """SPEC REG 5."""
    trigger = parse_quietly(frequency, timezone="Europe/Warsaw")
    again = parse_text(trigger.text(), trigger.timezone)
    assert again == trigger
    assert hash(again) == hash(trigger)
    assert upcoming(again, None, NOON, 5) == upcoming(trigger, None, NOON, 5)


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_due_times_are_in_utc_and_strictly_rising(frequency: Any) -> None:
    dues = upcoming(parse_quietly(frequency), None, NOON, 20)
    assert dues
    assert all(due.tzinfo is UTC for due in dues)
    assert all(earlier < later for earlier, later in pairwise(dues))


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_from_any_later_instant_the_next_due_time_is_the_same_one(frequency: Any) -> None:
    trigger = parse_quietly(frequency)
    dues = upcoming(trigger, None, NOON, 12)
    for n in range(1, len(dues)):
        assert trigger.next_after(dues[0], dues[n] - timedelta(microseconds=1)) == dues[n]
        assert trigger.next_after(dues[0], dues[n - 1]) == dues[n]


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_a_clock_that_went_back_never_repeats_a_tick(frequency: Any) -> None:
    trigger = parse_quietly(frequency)
    first, *rest = upcoming(trigger, None, NOON, 2)
    assert trigger.next_after(first, first - timedelta(days=3)) == (rest[0] if rest else None)


@pytest.mark.parametrize(
    ("frequency", "remedy"),
    [
        (0, "not positive"),
        (-1, "not positive"),
        (-0.0, "not positive"),
        (timedelta(0), "not positive"),
        (float("nan"), "not a finite"),
        (float("inf"), "not a finite"),
        (1e300, "100 years"),
        (-1e300, "not positive"),
        (timedelta(days=40_000), "100 years"),
        (0.009, "below 10 ms"),
        (True, "bool"),
        (None, "NoneType"),
        ({5}, "set"),
        ([5, [6]], "lists in it"),
        ("", "0 fields"),
        ("5", "1 fields"),
        ("* * * *", "4 fields"),
        ("*/5 * * * * *", "six fields"),
        ("@every 5s", "known are @hourly"),
        ("@reboot", "known are @hourly"),
        ("60 * * * *", "60 is no minute .0 to 59."),
        ("* 24 * * *", "24 is no hour"),
        ("* * 0 * *", "0 is no day-of-month"),
        ("* * * 13 *", "13 is no month"),
        ("* * * * 8", "8 is no day-of-week"),
        ("*/0 * * * *", "is no minute"),
        (f"*/{'9' * 5000} * * * *", "fields are minute"),
        ("0 0 32 2 *", "32 is no day-of-month"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 30,31 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 */31 * 1#5", "never fires"),
    ],
)
def test_what_is_no_frequency_is_refused_with_its_value_and_a_remedy(frequency: Any, remedy: str) -> None:
    """SPEC REG 3."""
    with pytest.raises(TriggerInvalid, match=remedy) as refused:
        parse(frequency)
    assert str(frequency) in str(refused.value) or repr(frequency) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Europe/Warszawa", "Europe/Warsaw"),
        ("europe/warsaw", "Europe/Warsaw"),
        ("America/NewYork", "America/New_York"),
        ("berlin", "Europe/Berlin"),
    ],
)
def test_an_unknown_timezone_is_refused_with_near_names(name: str, near: str) -> None:
    for frequency in (5, "@daily"):
        with pytest.raises(TriggerInvalid, match=near) as refused:
            parse(frequency, timezone=name)
        assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    "name", ["", "../etc/passwd", "/etc/passwd", "Europe", "localtime", "right/UTC", "a\0b", None, 5]
)
def test_what_is_no_zone_name_is_refused(name: Any) -> None:
    with pytest.raises(TriggerInvalid, match="IANA"):
        parse("@daily", timezone=name)


@pytest.mark.parametrize(
    ("frequency", "text"),
    [
        (5, "every 5 s"),
        (0.25, "every 250 ms"),
        (2.5, "every 2.5 s"),
        (timedelta(days=30), "every 30 d"),
        (timedelta(minutes=90), "every 90 min"),
        (timedelta(microseconds=10_001), "every 10001 µs"),
        ("0  0 * * mon", "cron 0 0 * * MON (Europe/Warsaw)"),
        ("@Daily", "cron 0 0 * * * (Europe/Warsaw)"),
    ],
)
def test_a_trigger_describes_itself(frequency: Any, text: str) -> None:
    assert parse(frequency, timezone="Europe/Warsaw").describe() == text


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_the_names_mean_what_crontab_says(name: str, fields: str) -> None:
    assert parse(name) == parse(fields)


def test_writing_a_crontab_differently_does_not_make_another_schedule() -> None:
    assert parse(" 0 9\t* Jan  mon ") == parse("0 9 * JAN MON")


def test_a_new_interval_fires_at_once_and_then_on_a_fixed_grid() -> None:
    """SPEC SCH 38."""
    trigger = parse(5)
    assert trigger.first_after(NOON) == NOON
    assert trigger.next_after(NOON, NOON + 3.7 * SECOND) == NOON + 5 * SECOND
    assert trigger.next_after(NOON, NOON + 5 * SECOND) == NOON + 10 * SECOND
    assert trigger.next_after(NOON, NOON + 12_345.6 * SECOND) == NOON + 12_350 * SECOND


@given(
    micros=st.integers(10_000, 10**12),
    steps=st.integers(0, 10**4),
    inside=st.floats(0, 1, exclude_max=True),
)
def test_an_interval_never_drifts(micros: int, steps: int, inside: float) -> None:
    """SPEC SCH 38: after any number of periods the grid is the first tick plus whole periods, to the microsecond."""
    period = timedelta(microseconds=micros)
    base = datetime(2026, 1, 1, 0, 0, 0, 123_457, tzinfo=UTC)
    instant = base + period * steps + timedelta(microseconds=int(micros * inside))
    assert parse(period).next_after(base, instant) == base + period * (steps + 1)
    assert parse_text(parse(period).text(), "UTC") == parse(period)


@pytest.mark.parametrize("period", [timedelta(milliseconds=10), timedelta(days=30), timedelta(days=3652)])
def test_periods_from_ten_milliseconds_to_ten_years_work(period: timedelta) -> None:
    """SPEC REG 5."""
    assert parse(period).next_after(NOON, NOON) == NOON + period
    assert parse(period.total_seconds()) == parse(period)


def test_an_interval_ends_with_the_calendar() -> None:
    assert parse(timedelta(days=3652)).next_after(at("9995-01-01"), at("9995-01-01")) is None


def test_naive_instants_are_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    for trigger in (parse(5), parse("@daily"), parse(IntervalTrigger(hours=1, start_date=NOON))):
        with pytest.raises(InvalidArgument, match="has no time zone"):
            trigger.first_after(naive)
        with pytest.raises(InvalidArgument, match="has no time zone"):
            trigger.next_after(NOON, naive)
        with pytest.raises(InvalidArgument, match="has no time zone"):
            trigger.next_after(naive, NOON)


def test_weekday_numbers_follow_crontab_and_0_and_7_are_sunday() -> None:
    """SPEC SCH 42."""
    sunday = at("2026-11-29")
    for field in ("0", "7", "sun", "SUN"):
        assert parse(f"0 0 * * {field}").first_after(NOON) == sunday
    assert parse("0 0 * * 1").first_after(NOON) == at("2026-11-23")
    assert [due.isoweekday() for due in upcoming(parse("0 0 * * 5-7"), None, NOON, 4)] == [5, 6, 7, 5]


def test_day_and_weekday_are_alternatives_unless_one_starts_with_a_star() -> None:
    either = upcoming(parse("0 0 13 * fri"), None, NOON, 4)
    assert either == [at("2026-11-27"), at("2026-12-04"), at("2026-12-11"), at("2026-12-13")]
    both = upcoming(parse("0 0 */2 * fri"), None, NOON, 3)
    assert both == [at("2026-11-27"), at("2026-12-11"), at("2026-12-25")]


@pytest.mark.parametrize("hours", ["5-5/2", "05-5/1", "5-05/30"])
def test_a_range_of_one_with_a_step_is_that_one(hours: str) -> None:
    assert parse(f"0 {hours} * * *") == parse("0 5 * * *")
    assert parse(f"0 3,{hours} * * *") == parse("0 3,5 * * *")
    with pytest.raises(TriggerInvalid, match="is no hour"):
        parse("0 5-5/0 * * *")


def test_a_crontab_of_the_29th_of_february_waits_for_leap_years() -> None:
    assert upcoming(parse("0 0 29 2 *"), None, NOON, 2) == [at("2028-02-29"), at("2032-02-29")]


def test_a_crontab_is_due_strictly_after_the_instant() -> None:
    """SPEC SCH 38."""
    trigger = parse("0 12 * * *")
    assert trigger.first_after(NOON) == NOON + timedelta(days=1)
    assert trigger.first_after(NOON - timedelta(microseconds=1)) == NOON


def test_upcoming_continues_the_grid_of_the_last_tick() -> None:
    """SPEC SCH 41."""
    assert upcoming(parse(60), NOON, NOON + 90 * SECOND, 2) == [NOON + 120 * SECOND, NOON + 180 * SECOND]
    assert upcoming(parse(60), None, NOON, 2) == [NOON, NOON + 60 * SECOND]
    assert upcoming(parse(60), None, NOON, 0) == []


def test_missed_ticks_are_all_of_the_grid_and_both_ends_count() -> None:
    """SPEC SCH 39."""
    trigger = parse(60)
    five = [NOON + 60 * n * SECOND for n in range(5)]
    assert missed(trigger, NOON, NOON + 240 * SECOND, 100) == five
    assert missed(trigger, NOON, NOON + 299 * SECOND, 100) == five
    assert missed(trigger, NOON, NOON, 100) == [NOON]
    assert missed(trigger, NOON, NOON - SECOND, 100) == []


@pytest.mark.parametrize("frequency", [0.01, "* * * * *", "0 0 1 1 *", IntervalTrigger(seconds=1, start_date=NOON)])
def test_the_newest_missed_ticks_are_found_without_walking_through_ten_years(frequency: Any) -> None:
    """SPEC SCH 39: bounded. Ten years of 10 ms are 3 * 10^10 ticks: walking through them would not end."""
    trigger = parse(frequency)
    first = trigger.first_after(NOON)
    assert first is not None
    now = NOON + timedelta(days=3652, microseconds=77)
    found = missed(trigger, first, now, 7)
    assert len(found) == 7
    assert found[-1] <= now
    assert trigger.next_after(found[-1], found[-1]) == trigger.next_after(first, now)
    assert upcoming(trigger, found[0], found[0], 6) == found[1:]


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_missed_ticks_equal_the_last_ones_of_a_plain_walk(frequency: Any, limit: int) -> None:
    trigger = parse_quietly(frequency)
    walked = upcoming(trigger, None, NOON, 40)
    now = walked[-1] + timedelta(microseconds=1)
    assert missed(trigger, walked[0], now, limit) == walked[-limit:]


def test_missed_needs_a_limit() -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        missed(parse(5), NOON, NOON, 0)


def test_an_apscheduler_interval_is_our_interval() -> None:
    trigger = parse(IntervalTrigger(hours=2))
    assert trigger == Interval(timedelta(hours=2))
    assert trigger.first_after(NOON) == NOON


def test_the_text_of_an_apscheduler_trigger_is_the_same_at_every_start() -> None:
    """SPEC SCH 38: restarts add nothing; a start_date filled in from the clock would make every start a change."""

    def declared() -> list[str]:
        return [
            parse(IntervalTrigger(minutes=7, end_date="2036-01-01", timezone="UTC")).text(),
            parse(CalendarIntervalTrigger(weeks=1, hour=3, timezone="UTC")).text(),
        ]

    assert declared() == declared()
    assert not any("start_date" in text for text in declared())


def test_the_text_of_an_apscheduler_trigger_is_the_json_of_its_arguments() -> None:
    with pytest.warns(UserWarning, match="Monday=0"):
        trigger = parse(CronTrigger(hour="3", day_of_week="mon-fri", timezone="Europe/Warsaw"))
    kind, _, spec = trigger.text().partition(" ")
    assert kind == "apscheduler"
    assert json.loads(spec) == {"CronTrigger": {"day_of_week": "mon-fri", "hour": "3", "timezone": "Europe/Warsaw"}}
    assert trigger.timezone == "Europe/Warsaw"
    assert trigger.describe() == "CronTrigger day_of_week=mon-fri hour=3 (Europe/Warsaw)"


def test_an_apscheduler_cron_warns_once_and_only_when_declared() -> None:
    cron = CronTrigger(hour=3, timezone="UTC")
    with pytest.warns(UserWarning, match="skips? a day") as seen:
        trigger = parse(OrTrigger([cron, cron]))
    assert [warning.filename for warning in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_text(trigger.text(), trigger.timezone) == trigger


def test_an_apscheduler_interval_with_a_start_is_a_grid_from_that_start() -> None:
    start = NOON - timedelta(minutes=10)
    trigger = parse(IntervalTrigger(hours=1, start_date=start, end_date=NOON + timedelta(hours=2)))
    dues = [NOON + timedelta(minutes=50), NOON + timedelta(minutes=110)]
    assert upcoming(trigger, None, NOON, 9) == dues


def test_an_apscheduler_interval_with_an_end_alone_fires_at_once_and_stops() -> None:
    trigger = parse(IntervalTrigger(hours=1, end_date=NOON + timedelta(hours=2)))
    assert upcoming(trigger, None, NOON, 9) == [NOON, NOON + timedelta(hours=1), NOON + timedelta(hours=2)]


def test_a_date_fires_once_and_a_past_one_is_no_error_at_the_next_start() -> None:
    trigger = parse(DateTrigger(NOON))
    assert upcoming(trigger, None, NOON - SECOND, 5) == [NOON]
    assert trigger.first_after(NOON) is None
    assert parse(DateTrigger(datetime(2001, 1, 1, tzinfo=UTC))).first_after(NOON) is None


def test_a_calendar_interval_counts_from_the_tick_before() -> None:
    monthly = parse(CalendarIntervalTrigger(months=1, hour=3, start_date="2026-01-31", timezone=WARSAW))
    assert upcoming(monthly, None, at("2026-01-01"), 3) == [
        at("2026-01-31T02:00"),
        at("2026-03-31T01:00"),
        at("2026-05-31T01:00"),
    ]
    every_other_day = parse(CalendarIntervalTrigger(days=2, timezone="UTC"))
    assert every_other_day.next_after(at("2026-11-20"), NOON) == at("2026-11-24")
    assert every_other_day.next_after(at("2026-11-21"), NOON) == at("2026-11-23")


def test_or_is_the_earliest_and_and_the_common_due_time() -> None:
    hourly = IntervalTrigger(hours=1, start_date=NOON)
    noons = CronTrigger(hour=12, minute=0, timezone="UTC")
    fridays = CronTrigger(day_of_week="fri", hour="*", timezone="UTC")
    assert upcoming(parse_quietly(OrTrigger([hourly, noons])), None, NOON, 2) == [
        NOON + timedelta(hours=1),
        NOON + timedelta(hours=2),
    ]
    # APScheduler's own loop would hang here: the parts disagree about the first due time.
    assert upcoming(parse_quietly(AndTrigger([noons, fridays])), None, NOON, 2) == [
        at("2026-11-27T12:00"),
        at("2026-12-04T12:00"),
    ]


def test_a_calendar_with_a_start_keeps_its_grid_beside_one_that_counts_from_any_tick() -> None:
    from_20th = CalendarIntervalTrigger(days=3, start_date="2026-11-20", timezone="UTC")
    from_last_tick = CalendarIntervalTrigger(days=2, timezone="UTC")
    trigger = parse(OrTrigger([from_20th, from_last_tick]))
    days = [at(f"2026-11-{day}") for day in (23, 25, 26, 28, 29)]
    assert trigger.next_after(days[0], days[0]) == days[1]
    assert upcoming(trigger, days[0], days[0], 4) == days[1:]
    assert trigger.next_after(days[0], days[3]) == days[4]


class Unknown(BaseTrigger):
    """A user's own trigger, whose arguments nobody knows."""

    def get_next_fire_time(self, previous_fire_time: Any, now: Any) -> None:
        return None


class Nameless(tzinfo):
    """A zone without an IANA name."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, dt: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, dt: datetime | None) -> str:
        return "nameless"


@pytest.mark.parametrize(
    ("trigger", "remedy"),
    [
        pytest.param(Unknown(), "cannot be stored as its arguments", id="unknown"),
        (IntervalTrigger(hours=1, jitter=5), "jitter= to register_task"),
        (CronTrigger(hour=1, jitter=5, timezone="UTC"), "jitter= to register_task"),
        (OrTrigger([CronTrigger(hour=1, jitter=5, timezone="UTC")]), "jitter= to register_task"),
        (IntervalTrigger(seconds=-5), "not positive"),
        (IntervalTrigger(seconds=0.001), "below 10 ms"),
        (IntervalTrigger(hours=1, start_date=NOON, end_date=NOON - SECOND), "never fires"),
        (IntervalTrigger(hours=1, start_date=datetime(2020, 1, 1, 0, 0, 0, 7, UTC)), "made from the clock"),
        (CronTrigger(month=2, day=31, timezone="UTC"), "never fires"),
        (CronTrigger(hour=1, timezone=Nameless()), "no IANA name"),
        (CronTrigger(hour=1, timezone=timezone(timedelta(hours=1))), "no IANA name"),
        (CronTrigger(hour=1, timezone="UTC", end_date=NOON + timedelta(microseconds=7)), "made from the clock"),
        pytest.param(DateTrigger(), "made from the clock", id="date without one"),
        (CalendarIntervalTrigger(years=101, timezone="UTC"), "100 years"),
        (OrTrigger([]), "combines nothing"),
        (OrTrigger([IntervalTrigger(hours=1)]), "needs start_date="),
        (AndTrigger([CronTrigger(day=1, timezone="UTC"), CronTrigger(day=2, timezone="UTC")]), "never fires"),
    ],
    ids=str,
)
def test_an_apscheduler_trigger_that_cannot_be_kept_is_refused(trigger: BaseTrigger, remedy: str) -> None:
    """SPEC REG 3."""
    with pytest.raises(TriggerInvalid, match=remedy) as refused:
        parse_quietly(trigger)
    assert repr(trigger) in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hourly",
        "interval",
        "interval five",
        "interval NaN",
        "interval 0",
        "cron",
        "cron 0 0 31 2 *",
        "apscheduler",
        "apscheduler {}",
        "apscheduler []",
        "apscheduler {",
        'apscheduler {"Pickle":{}}',
        'apscheduler {"CronTrigger":{"hour":"99","timezone":"UTC"}}',
        'apscheduler {"CronTrigger":{"moon":"1","timezone":"UTC"}}',
        'apscheduler {"CronTrigger":{"hour":"1","timezone":"Nowhere"}}',
        'apscheduler {"DateTrigger":{"run_date":"soon"}}',
        'apscheduler {"CalendarIntervalTrigger":{"moons":1,"timezone":"UTC"}}',
    ],
)
def test_a_stored_text_that_is_no_trigger_is_refused(text: str) -> None:
    with pytest.raises(TriggerInvalid):
        parse_text(text, "UTC")


def test_neither_apscheduler_nor_cronsim_is_loaded_for_an_interval() -> None:
    code = (
        "import sys; from taskrunner.triggers import parse, parse_text, upcoming; parse_text(parse(5).text(), 'UTC');"
        "sys.exit(any(name in sys.modules for name in ('apscheduler', 'cronsim')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
