"""Frequencies and what they mean: from what a user writes to the next due time.

A trigger is an immutable value. It never asks a clock: the caller says which instant it is (the database's), and every
answer is in UTC.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from taskrunner.errors import InvalidArgument, TriggerInvalid
from taskrunner.triggers.crontab import Crontab, parse_crontab
from taskrunner.triggers.foreign import Foreign, adopt, read_foreign
from taskrunner.triggers.instants import utc, zone
from taskrunner.triggers.interval import Interval, parse_interval, read_interval
from taskrunner.triggers.several import Several, combine, read_several
from taskrunner.triggers.trigger import Trigger

__all__ = ["Crontab", "Foreign", "Interval", "Several", "Trigger", "missed", "parse", "parse_text", "upcoming"]


def parse(frequency: Any, *, timezone: str = "UTC") -> Trigger:
    """Return the trigger that a frequency means; raise TriggerInvalid with the value and a remedy.

    `timezone` is the zone of crontab strings; an APScheduler trigger has its own. A list is due whenever one of its
    frequencies is.
    """
    zone(timezone)
    if isinstance(frequency, list | tuple):
        return combine([parse(each, timezone=timezone) for each in _flat(frequency)], timezone)
    if isinstance(frequency, str):
        return parse_crontab(frequency, timezone)
    if isinstance(frequency, (int, float, timedelta)):
        return parse_interval(frequency, timezone)
    # Whoever holds an APScheduler trigger has loaded this module; nobody else shall pay for its import.
    base = sys.modules.get("apscheduler.triggers.base")
    if base is not None and isinstance(frequency, base.BaseTrigger):
        return adopt(frequency, timezone)
    raise TriggerInvalid(
        f"frequency {frequency!r} is a {type(frequency).__name__}: "
        "give seconds, a timedelta, a crontab string such as '0 3 * * *', an APScheduler trigger, or a list of these"
    )


def _flat(frequencies: Sequence[Any]) -> Sequence[Any]:
    if any(isinstance(each, list | tuple) for each in frequencies):
        raise TriggerInvalid(f"frequency {frequencies!r} is a list with lists in it: give one flat list")
    return frequencies


def parse_text(text: str, timezone: str) -> Trigger:
    """Return the trigger whose `text()` this is; raise TriggerInvalid if no release of this code wrote it."""
    kind, _, rest = text.partition(" ")
    readers: dict[str, Callable[[str, str], Trigger]] = {
        "interval": read_interval,
        "cron": parse_crontab,
        "apscheduler": read_foreign,
        "several": lambda rest, timezone: read_several(rest, timezone, parse_text),
    }
    if kind not in readers:
        raise TriggerInvalid(f"stored trigger {text!r} cannot be read: was it written by a newer release?")
    zone(timezone)
    return readers[kind](rest, timezone)


def upcoming(trigger: Trigger, previous: datetime | None, after: datetime, count: int) -> list[datetime]:
    """Return up to `count` due times after `after`; `previous` is the last one before, None for a new schedule."""
    due = trigger.first_after(after) if previous is None else trigger.next_after(previous, after)
    found: list[datetime] = []
    while due is not None and len(found) < count:
        found.append(due)
        due = trigger.next_after(due, due)
    return found


def missed(trigger: Trigger, next_tick_at: datetime, now: datetime, limit: int) -> list[datetime]:
    """Return the newest `limit` due times from `next_tick_at`, itself one, to `now`, oldest first, both included."""
    if limit < 1:
        raise InvalidArgument(f"limit is {limit}: give at least 1")
    first, now = utc(next_tick_at), utc(now)
    if first > now:
        return []
    # Looks back twice as far each time: the work is in proportion to `limit`, not to the time that was missed.
    span = timedelta(seconds=1)
    while now - span > first:
        found = _walk(trigger, trigger.next_after(first, now - span), now, limit)
        if len(found) == limit:
            return found
        span *= 2
    return _walk(trigger, first, now, limit)


def _walk(trigger: Trigger, due: datetime | None, now: datetime, limit: int) -> list[datetime]:
    found: deque[datetime] = deque(maxlen=limit)
    while due is not None and due <= now:
        found.append(due)
        due = trigger.next_after(due, due)
    return list(found)
