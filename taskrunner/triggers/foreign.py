"""APScheduler's triggers as frequencies: taken over as JSON of their arguments and rebuilt from it.

Arguments that APScheduler fills in from the clock (the start_date of an interval, of a calendar) are left out, so that
the text is the same at every start; other instants made from the clock are refused.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers.instants import TICK, utc, zone, zone_name
from taskrunner.triggers.interval import Interval, bounded, seconds_text
from taskrunner.triggers.rules import Rule, Spaced, build

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A trigger is made by the import that registers it, or a little before.
_JUST_MADE = timedelta(days=1)

_CRON_WARNING = (
    "APScheduler's CronTrigger keeps its own rules: weekday numbers start at Monday=0, and where clocks change "
    "it may skip a day in spring and fires twice in autumn; a crontab string such as '0 3 * * *' follows crontab"
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """An APScheduler trigger by the canonical JSON of its arguments."""

    spec: str
    timezone: str

    @property
    def anchored(self) -> bool:
        """Whether its grid does not hang on the tick before."""
        return _rule(self.spec).anchored

    def first_after(self, instant: datetime) -> datetime | None:
        instant, rule = utc(instant), _rule(self.spec)
        # An interval without a start is due at once, like an interval of our own; all others later.
        at_once = isinstance(rule, Spaced) and not rule.anchored
        return rule.seen(instant).after(None, instant - TICK if at_once else instant)

    def next_after(self, previous: datetime, instant: datetime) -> datetime | None:
        previous = utc(previous)
        return _rule(self.spec).after(previous, max(previous, utc(instant)))

    def text(self) -> str:
        return f"apscheduler {self.spec}"

    def describe(self) -> str:
        return f"{_describe(json.loads(self.spec))} ({self.timezone})"


def adopt(trigger: Any, timezone: str) -> Interval | Foreign:
    """Return our equal of an APScheduler trigger; raise TriggerInvalid if it cannot be rebuilt from its arguments."""
    try:
        spec = _spec(trigger)
        arguments = spec.get("IntervalTrigger")
        if arguments is not None and set(arguments) == {"seconds"}:
            return Interval(trigger.interval, timezone)
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        if build(spec).seen(_EPOCH).after(None, _EPOCH) is None:
            raise TriggerInvalid("it never fires: change its fields or its end_date")
    except TriggerInvalid as error:
        raise TriggerInvalid(f"frequency {trigger!r}: {error}") from None
    if "CronTrigger" in text:
        warnings.warn(f"frequency {trigger!r}: {_CRON_WARNING}", UserWarning, stacklevel=_callers_level())
    return Foreign(text, _zone_of(spec) or timezone)


def _callers_level() -> int:
    """Return the stacklevel, for a warning in the calling function, of the line outside this package that led here."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("taskrunner."):
        level, frame = level + 1, frame.f_back
    return level


def read_foreign(text: str, timezone: str) -> Foreign:
    """Return the trigger of stored JSON; raise TriggerInvalid if it cannot be read."""
    try:
        spec = json.loads(text)
        build(spec)
    except (ValueError, TypeError, LookupError, AttributeError, TriggerInvalid) as error:
        raise TriggerInvalid(f"stored trigger {text!r} cannot be read: {error}") from error
    return Foreign(json.dumps(spec, sort_keys=True, separators=(",", ":")), _zone_of(spec) or timezone)


@lru_cache(maxsize=256)
def _rule(spec: str) -> Rule:
    return build(json.loads(spec))


def _spec(trigger: Any) -> dict[str, Any]:
    from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
    from apscheduler.triggers.combining import AndTrigger, OrTrigger
    from apscheduler.triggers.cron import CronTrigger
    from apscheduler.triggers.date import DateTrigger
    from apscheduler.triggers.interval import IntervalTrigger

    readers = {
        IntervalTrigger: _interval,
        CronTrigger: _cron,
        DateTrigger: _date,
        CalendarIntervalTrigger: _calendar,
        AndTrigger: _combined,
        OrTrigger: _combined,
    }
    # A subclass may compute anything: only the class itself is known by its arguments.
    reader = readers.get(type(trigger))
    if reader is None:
        known = ", ".join(kind.__name__ for kind in readers)
        raise TriggerInvalid(f"{type(trigger).__name__} cannot be stored as its arguments; known are {known}")
    if getattr(trigger, "jitter", None):
        raise TriggerInvalid("its jitter would move the grid: leave it out and give jitter= to register_task")
    return {type(trigger).__name__: reader(trigger)}


def _interval(trigger: Any) -> dict[str, Any]:
    bounded(trigger.interval, trigger.interval)
    arguments = {"seconds": seconds_text(trigger.interval), "end_date": _instant("end_date", trigger.end_date)}
    if not _made_from_clock(trigger.start_date, trigger.interval):
        arguments["start_date"] = _instant("start_date", trigger.start_date)
    return _given(arguments)


def _made_from_clock(start_date: datetime, interval: timedelta) -> bool:
    """Whether APScheduler filled in start_date = now + interval; one that people write has no microseconds."""
    age = datetime.now(UTC) - (start_date.astimezone(UTC) - interval)
    return start_date.microsecond != 0 and timedelta(0) <= age <= _JUST_MADE


def _cron(trigger: Any) -> dict[str, Any]:
    fields = {field.name: str(field) for field in trigger.fields if not field.is_default}
    limits = {name: _instant(name, getattr(trigger, name)) for name in ("start_date", "end_date")}
    return _given(fields | limits | {"timezone": zone_name(trigger.timezone)})


def _date(trigger: Any) -> dict[str, Any]:
    return {"run_date": _instant("run_date", trigger.run_date)}


def _calendar(trigger: Any) -> dict[str, Any]:
    if trigger.years * 12 + trigger.months > 1200:
        raise TriggerInvalid("it waits for more than 100 years: give a shorter interval")
    at = trigger._time
    start_date = None if _day(trigger.start_date) == date.today().isoformat() else _day(trigger.start_date)  # noqa: DTZ011 - as APScheduler does
    numbers = {name: getattr(trigger, name) for name in ("years", "months", "weeks", "days")}
    numbers |= {"hour": at.hour, "minute": at.minute, "second": at.second}
    others = {"start_date": start_date, "end_date": _day(trigger.end_date), "timezone": zone_name(trigger.timezone)}
    return _given({name: number or None for name, number in numbers.items()} | others)


def _combined(trigger: Any) -> list[dict[str, Any]]:
    children = [_spec(child) for child in trigger.triggers]
    if not children:
        raise TriggerInvalid("it combines nothing: give it at least one trigger")
    if any("IntervalTrigger" in child and "start_date" not in child["IntervalTrigger"] for child in children):
        raise TriggerInvalid(
            "an IntervalTrigger in it needs start_date=, or its grid would move with the others' ticks"
        )
    return children


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _instant(name: str, value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.microsecond:
        raise TriggerInvalid(
            f"its {name} {value} has microseconds, so it was made from the clock: write out a fixed one"
        )
    return value.astimezone(UTC).isoformat()


def _day(value: date | None) -> str | None:
    if isinstance(value, datetime):
        value = value.date()
    return None if value is None else value.isoformat()


def _zone_of(spec: dict[str, Any]) -> str | None:
    """Return the zone named first in the arguments, checked."""
    (arguments,) = spec.values()
    if isinstance(arguments, list):
        return next((name for name in map(_zone_of, arguments) if name), None)
    name: str | None = arguments.get("timezone")
    if name is not None:
        zone(name)
    return name


def _describe(spec: dict[str, Any]) -> str:
    ((kind, arguments),) = spec.items()
    if isinstance(arguments, list):
        return f"{kind} of {' and '.join(map(_describe, arguments))}"
    return " ".join([kind, *(f"{name}={value}" for name, value in arguments.items() if name != "timezone")])
