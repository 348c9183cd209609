"""Crontab strings by Debian's rules, in any zone.

Debian's cron knows two kinds of rule. Where minute or hour starts with `*`, the rule follows the clock on the wall:
it fires whenever that shows a matching time, so twice in an hour that is repeated and not in one that is skipped.
All others name times of day, which come once a day whatever the clock does: a skipped time fires when the clock has
jumped, a repeated one the first time only. https://manpages.debian.org/cron.8 ("Daylight Saving Time")
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers.instants import utc, zone

NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

# In cronsim's words.
_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, or L",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, or SUN to SAT",
}

# cronsim 2.8 takes `5-5/2` for `5/2`, which goes on to the end of the field: to crontab it is 5 alone.
_RANGE_OF_ONE = re.compile(r"(?<![\w/])0*(\w+)-0*\1/0*[1-9]\d*(?=[,\s]|$)")
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Crontab:
    """Five canonical fields in a zone."""

    expression: str
    timezone: str = "UTC"

    def first_after(self, instant: datetime) -> datetime | None:
        return self._after(utc(instant))

    def next_after(self, previous: datetime, instant: datetime) -> datetime | None:
        return self._after(max(utc(previous), utc(instant)))

    def text(self) -> str:
        return f"cron {self.expression}"

    def describe(self) -> str:
        return f"cron {self.expression} ({self.timezone})"

    def _after(self, instant: datetime) -> datetime | None:
        minute, hour, *_ = self.expression.split()
        follows_clock = minute.startswith("*") or hour.startswith("*")
        after = _clock_after if follows_clock else _time_of_day_after
        return after(self.expression, zone(self.timezone), instant)


def parse_crontab(written: str, timezone: str) -> Crontab:
    """Return the crontab of five fields or an @name; raise TriggerInvalid if it is none or can never fire."""
    from cronsim import CronSim, CronSimError

    expression = _expand(written)
    zone(timezone)
    try:
        # Every date of the calendar comes again within 28 years in this century; cronsim looks 50 years ahead.
        fires = next(CronSim(expression, datetime(2000, 1, 1)), None) is not None  # noqa: DTZ001 - no zone is meant
    except (CronSimError, ValueError) as error:
        # cronsim says the same of a day that is no number and of one that its months do not have.
        if str(error) == "Bad day-of-month" and _fires_in_some_month(expression):
            raise _never(written) from error
        raise TriggerInvalid(f"crontab {written!r}: {_fault(str(error), expression)}") from error
    if not fires:
        raise _never(written)
    return Crontab(expression, timezone)


def _expand(written: str) -> str:
    """Return canonical fields: names resolved, one blank between, upper case."""
    expression = " ".join(written.split()).upper()
    if expression.startswith("@"):
        named = NAMED.get(expression.lower())
        if named is None:
            raise TriggerInvalid(
                f"crontab {written!r}: known are {', '.join(NAMED)}; for every few seconds give a number, such as 5"
            )
        return named
    fields = len(expression.split())
    if fields == 6:
        raise TriggerInvalid(
            f"crontab {written!r} has six fields and five are meant: leave out the seconds (or the year), "
            "and for every few seconds give the number itself, such as 5"
        )
    if fields != 5:
        raise TriggerInvalid(
            f"crontab {written!r} has {fields} fields instead of five (minute hour day month weekday); "
            "an interval is a number of seconds or a timedelta"
        )
    return _RANGE_OF_ONE.sub(r"\1", expression)


def _fault(said: str, expression: str) -> str:
    """Name the field that cronsim means by `Bad minute`, what is in it, and what may be."""
    for (name, bounds), value in zip(_FIELDS.items(), expression.split(), strict=True):
        if said == f"Bad {name}":
            return f"{value} is no {name} ({bounds}); the fields are {', '.join(_FIELDS)}"
    return f"{said}; the fields are {', '.join(_FIELDS)}"


def _fires_in_some_month(expression: str) -> bool:
    from cronsim import CronSim, CronSimError

    minute, hour, day, _, weekday = expression.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", datetime(2000, 1, 1))  # noqa: DTZ001 - no zone is meant
    except (CronSimError, ValueError):
        return False
    return True


def _never(written: str) -> TriggerInvalid:
    return TriggerInvalid(f"crontab {written!r} never fires: no month of it has such a day; change day or month")


def _time_of_day_after(expression: str, local: tzinfo, instant: datetime) -> datetime | None:
    from cronsim import CronSim

    # Of two equal wall times cronsim answers with the first, which is past in the second pass of a repeated hour.
    dues = (due.astimezone(UTC) for due in CronSim(expression, instant.astimezone(local)))
    return next((due for due in dues if due > instant), None)


def _clock_after(expression: str, local: tzinfo, instant: datetime) -> datetime | None:
    """Ask cronsim one stretch of constant offset at a time.

    Given the zone, cronsim 2.8 adds real hours to find a matching one: where the clock jumps by half an hour
    (Australia/Lord_Howe) it skips half of the hour it looks for, and where it jumps at midnight (America/Sao_Paulo
    until 2018) it fires for the skipped hour.
    """
    from cronsim import CronSim

    begin = instant.replace(microsecond=0)
    offset, after = _offset(local, begin), begin
    while True:
        wall = next(CronSim(expression, (after + offset).replace(tzinfo=None)), None)
        if wall is None:
            return None
        due = wall.replace(tzinfo=UTC) - offset
        change = _first_change(local, begin, due)
        if change is None:
            return due
        begin, offset, after = change, _offset(local, change), change - _SECOND


def _first_change(local: tzinfo, begin: datetime, end: datetime) -> datetime | None:
    """Return when the offset first differs from that at `begin`, up to `end`; no zone changes it twice in a day."""
    offset, low = _offset(local, begin), begin
    while low < end:
        high = min(low + _DAY, end)
        if _offset(local, high) != offset:
            while high - low > _SECOND:
                middle = low + (high - low) // _SECOND // 2 * _SECOND
                low, high = (middle, high) if _offset(local, middle) == offset else (low, middle)
            return high
        low = high
    return None


def _offset(local: tzinfo, instant: datetime) -> timedelta:
    return instant.astimezone(local).utcoffset() or timedelta(0)
