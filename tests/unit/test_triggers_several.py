"""Several rules for one schedule: due whenever one of them is, once where they meet, wherever one begins to look."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers import Crontab, Interval, Several, missed, parse, parse_text, upcoming

MINUTE = timedelta(minutes=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MONTHLY = CalendarIntervalTrigger(months=1, hour=3, start_date=date(2026, 1, 31), timezone="UTC")
ONCE = DateTrigger(datetime(2026, 3, 1, 12, 1, tzinfo=UTC))


def test_a_list_is_due_whenever_one_of_its_rules_is_and_once_where_they_meet() -> None:
    trigger = parse(["0,30 * * * *", timedelta(minutes=20), ONCE])
    minutes = [0, 1, 20, 30, 40, 60, 80, 90]
    assert upcoming(trigger, None, NOON - timedelta(seconds=1), 8) == [NOON + n * MINUTE for n in minutes]


def test_the_intervals_of_a_list_count_from_1970_so_no_tick_moves_them() -> None:
    trigger = parse([timedelta(minutes=7), timedelta(minutes=5)])
    asked = NOON + timedelta(seconds=90)
    assert trigger.first_after(asked) == trigger.next_after(NOON, asked) == trigger.next_after(asked, NOON)
    assert trigger.next_after(asked, asked) == NOON + 5 * MINUTE
    assert trigger.next_after(NOON + 5 * MINUTE, asked) == NOON + 7 * MINUTE  # noon is a multiple of both, from 1970


def test_a_list_is_stored_as_canonical_text_whatever_its_order() -> None:
    one, other = (
        parse(["@daily", 90, MONTHLY], timezone="Europe/Warsaw"),
        parse([MONTHLY, 90.0, "0 0 * * *", "@daily"], timezone="Europe/Warsaw"),
    )
    assert one == other
    assert one.text() == other.text()
    assert parse_text(one.text(), one.timezone) == one
    kind, _, parts = one.text().partition(" ")
    assert (kind, len(json.loads(parts))) == ("several", 3)
    assert one.describe().count(", ") == 2


def test_a_list_of_one_rule_is_that_rule() -> None:
    assert parse([300]) == Interval(5 * MINUTE)
    assert parse(("@daily", "0 0 * * *")) == Crontab("0 0 * * *")


def test_a_list_ends_when_all_its_rules_have() -> None:
    trigger = parse([ONCE, DateTrigger(datetime(2026, 3, 2, tzinfo=UTC))])
    assert upcoming(trigger, None, NOON, 5) == [NOON + MINUTE, NOON + timedelta(hours=12)]


def test_missed_due_times_of_a_list_are_those_of_its_rules() -> None:
    trigger = parse([timedelta(minutes=20), "30 * * * *"])
    found = missed(trigger, NOON, NOON + 61 * MINUTE, 4)
    assert found == [NOON + n * MINUTE for n in (20, 30, 40, 60)]


@pytest.mark.parametrize(
    ("frequencies", "complaint"),
    [
        ([], "0 frequencies"),
        ([5] * 101, "101 frequencies"),
        ([5, "nonsense"], "'nonsense'"),
        ([5, 0], "not positive"),
        ([5, "0 0 31 2 *"], "never fires"),
        ([5, [6]], "lists in it"),
        ([5, CalendarIntervalTrigger(days=2, timezone="UTC")], "start_date="),
        ([5, IntervalTrigger(hours=2, end_date=datetime(2036, 1, 1, tzinfo=UTC))], "start_date="),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(frequencies: list[Any], complaint: str) -> None:
    with pytest.raises(TriggerInvalid, match=complaint):
        parse(frequencies)


@pytest.mark.parametrize("text", ["several", "several 5", 'several ["interval 5", 6]', 'several ["interval 5", "x"]'])
def test_stored_text_that_is_no_list_of_rules_is_refused(text: str) -> None:
    with pytest.raises(TriggerInvalid, match=r"cannot be read|frequencies"):
        parse_text(text, "UTC")


RULES: list[Any] = [
    420,
    300.0,
    "*/7 * * * *",
    "30 2 * * *",
    "15 14 * * MON",
    MONTHLY,
    CronTrigger(hour="*/5", timezone="UTC"),
]


@given(
    picked=st.lists(st.sampled_from(range(len(RULES))), min_size=2, max_size=4, unique=True),
    seconds=st.floats(0, 86_400 * 40),
)
def test_a_list_has_the_due_times_of_all_its_rules_and_no_other(picked: list[int], seconds: float) -> None:
    begin = NOON + timedelta(seconds=seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trigger = parse([RULES[n] for n in picked], timezone="Europe/Warsaw")
    assert isinstance(trigger, Several)
    found = upcoming(trigger, None, begin, 20)
    wanted: set[datetime] = set()
    for n in picked:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rule = parse(RULES[n], timezone="Europe/Warsaw")
        # An interval's grid in a list hangs on 1970, a due time of it like any other.
        previous = datetime(1970, 1, 1, tzinfo=UTC) if isinstance(rule, Interval) else None
        wanted.update(upcoming(rule, previous, begin, 20))
    assert found == sorted(wanted)[:20]
