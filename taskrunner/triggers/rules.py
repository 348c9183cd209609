"""The due times of APScheduler's triggers, computed from their arguments: strictly later, without jitter, bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Protocol

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers.instants import TICK, zone
from taskrunner.triggers.interval import on_grid, read_interval

# How often the parts of an AndTrigger may leap past each other before it counts as one that never agrees: 0.3 s or so.
_LEAPS = 10_000


class Rule(Protocol):
    """One trigger of a tree; `anchored` if its grid does not hang on the tick before."""

    @property
    def anchored(self) -> bool: ...

    def seen(self, instant: datetime) -> Rule:
        """Return the rule with the starting point that it takes from being new at `instant`."""

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        """Return the first due time after `instant`; `previous` is the last tick, never later than it."""


def build(spec: Any) -> Rule:
    """Return the rule of `{class name: arguments}`; raise TriggerInvalid, ValueError or TypeError if it is none."""
    ((kind, arguments),) = spec.items()
    if kind in ("AndTrigger", "OrTrigger"):
        children = tuple(build(child) for child in arguments)
        return Agreed(children) if kind == "AndTrigger" else Earliest(children)
    builders: dict[str, Callable[..., Rule]] = {
        "CronTrigger": _cron,
        "CalendarIntervalTrigger": _calendar,
        "IntervalTrigger": _spaced,
        "DateTrigger": _once,
    }
    if kind not in builders:
        raise TriggerInvalid(f"{kind} is no trigger that this release knows")
    return builders[kind](**arguments)


@dataclass(frozen=True)
class Cron:
    """CronTrigger: stateless, so it is asked from the instant on."""

    trigger: Any
    anchored = True

    def seen(self, instant: datetime) -> Rule:
        return self

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        due = self.trigger.get_next_fire_time(None, instant + TICK)
        return None if due is None else due.astimezone(UTC)


@dataclass(frozen=True)
class Calendar:
    """CalendarIntervalTrigger: steps by dates from the tick before, or from its start."""

    numbers: tuple[tuple[str, int], ...]
    local: tzinfo
    start_date: date | None
    end_date: date | None

    @property
    def anchored(self) -> bool:
        return self.start_date is not None

    def seen(self, instant: datetime) -> Rule:
        return self if self.anchored else replace(self, start_date=instant.astimezone(self.local).date())

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        due = None if previous is None else previous.astimezone(self.local)
        start_date = self.start_date or (due or instant.astimezone(self.local)).date()
        if self.end_date and start_date > self.end_date:
            return None
        trigger = self._trigger(start_date)
        while due is None or due.astimezone(UTC) <= instant:
            due = trigger.get_next_fire_time(due, instant)
            if due is None:
                return None
        return due.astimezone(UTC)

    def _trigger(self, start_date: date) -> Any:
        from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger

        return CalendarIntervalTrigger(
            start_date=start_date, end_date=self.end_date, timezone=self.local, **dict(self.numbers)
        )


@dataclass(frozen=True)
class Spaced:
    """IntervalTrigger with an explicit start or end: whole microseconds from the start, else from the tick before."""

    period: timedelta
    start: datetime | None
    end: datetime | None

    @property
    def anchored(self) -> bool:
        return self.start is not None

    def seen(self, instant: datetime) -> Rule:
        return self if self.anchored else replace(self, start=instant)

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        base = self.start or previous or instant
        due = base if base > instant else on_grid(base, self.period, instant)
        return None if due is None or (self.end and due > self.end) else due


@dataclass(frozen=True)
class Once:
    """DateTrigger."""

    run_at: datetime
    anchored = True

    def seen(self, instant: datetime) -> Rule:
        return self

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        return self.run_at if self.run_at > instant else None


@dataclass(frozen=True)
class Agreed:
    """AndTrigger: when all parts agree; every part is asked from the latest answer on, until they do."""

    parts: tuple[Rule, ...]

    @property
    def anchored(self) -> bool:
        return all(part.anchored for part in self.parts)

    def seen(self, instant: datetime) -> Rule:
        return Agreed(tuple(part.seen(instant) for part in self.parts))

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        # APScheduler 3.11's own loop asks from the previous tick each time and hangs as soon as two parts differ.
        for _ in range(_LEAPS):
            dues = [part.after(previous, instant) for part in self.parts]
            known = [due for due in dues if due is not None]
            if len(known) < len(dues):
                return None
            if min(known) == max(known):
                return known[0]
            instant = max(known) - TICK
        return None


@dataclass(frozen=True)
class Earliest:
    """OrTrigger: the earliest of its parts."""

    parts: tuple[Rule, ...]

    @property
    def anchored(self) -> bool:
        return all(part.anchored for part in self.parts)

    def seen(self, instant: datetime) -> Rule:
        return Earliest(tuple(part.seen(instant) for part in self.parts))

    def after(self, previous: datetime | None, instant: datetime) -> datetime | None:
        if previous is None or self.anchored:
            return self._earliest(None, instant)
        # A part that counts from the tick before counts from the others' ticks too: so every one is visited.
        due: datetime | None = previous
        while due is not None and due <= instant:
            due = self._earliest(due, due)
        return due

    def _earliest(self, previous: datetime | None, instant: datetime) -> datetime | None:
        dues = (part.after(None if part.anchored else previous, instant) for part in self.parts)
        return min((due for due in dues if due is not None), default=None)


def _cron(timezone: str, start_date: str | None = None, end_date: str | None = None, **fields: str) -> Rule:
    from apscheduler.triggers.cron import CronTrigger

    limits = {"start_date": _instant(start_date), "end_date": _instant(end_date)}
    return Cron(CronTrigger(timezone=zone(timezone), **limits, **fields))


def _calendar(timezone: str, start_date: str | None = None, end_date: str | None = None, **numbers: int) -> Rule:
    start = None if start_date is None else date.fromisoformat(start_date)
    end = None if end_date is None else date.fromisoformat(end_date)
    rule = Calendar(tuple(sorted(numbers.items())), zone(timezone), start, end)
    rule._trigger(start or end or date(1970, 1, 1))
    return rule


def _spaced(seconds: str, start_date: str | None = None, end_date: str | None = None) -> Rule:
    return Spaced(read_interval(seconds, "UTC").period, _instant(start_date), _instant(end_date))


def _once(run_date: str) -> Rule:
    return Once(datetime.fromisoformat(run_date).astimezone(UTC))


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
