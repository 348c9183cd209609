"""Several rules of one schedule: it is due whenever one of them is, once where they meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from taskrunner.errors import TriggerInvalid
from taskrunner.triggers.crontab import Crontab
from taskrunner.triggers.foreign import Foreign
from taskrunner.triggers.instants import utc
from taskrunner.triggers.interval import Interval, on_grid
from taskrunner.triggers.trigger import Trigger

MOST = 100
"""Triggers in one list: each is asked for its next due time at every tick."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Several:
    """Two or more rules, each with a grid of its own that no tick of another one moves.

    So its intervals do not begin when the schedule does: 300 s means the full five minutes, counted from 1970 in UTC.
    """

    parts: tuple[Trigger, ...]
    timezone: str

    def first_after(self, instant: datetime) -> datetime | None:
        return self._after(utc(instant))

    def next_after(self, previous: datetime, instant: datetime) -> datetime | None:
        return self._after(max(utc(previous), utc(instant)))

    def text(self) -> str:
        return f"several {json.dumps([part.text() for part in self.parts], separators=(',', ':'))}"

    def describe(self) -> str:
        return ", ".join(part.describe() for part in self.parts)

    def _after(self, instant: datetime) -> datetime | None:
        dues = (_due(part, instant) for part in self.parts)
        return min((due for due in dues if due is not None), default=None)


def _due(part: Trigger, instant: datetime) -> datetime | None:
    if isinstance(part, Interval):
        return on_grid(EPOCH, part.period, instant)
    return part.first_after(instant)  # of those that `combine` takes, all but intervals answer later than that


def combine(parts: Sequence[Trigger], timezone: str) -> Trigger:
    """Return the rule that is due when one of the parts is; the same parts in any order make equal ones.

    Raises: `TriggerInvalid` for no part or too many, and for a part whose grid would hang on the ticks of the others.
    """
    if not 1 <= len(parts) <= MOST:
        raise TriggerInvalid(f"a list of {len(parts)} frequencies: give 1 to {MOST}")
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if not isinstance(part, Interval | Crontab) and not (isinstance(part, Foreign) and part.anchored):
            raise TriggerInvalid(
                f"{part.describe()} in a list needs start_date=, another day than today (which APScheduler fills in "
                "by itself), or its grid would move with the ticks of the others"
            )
    unique = {part.text(): part for part in parts}
    ordered = tuple(unique[text] for text in sorted(unique))
    return ordered[0] if len(ordered) == 1 else Several(ordered, timezone)


def read_several(text: str, timezone: str, read: Callable[[str, str], Trigger]) -> Trigger:
    """Return the trigger of a stored list, whose parts `read` reads; raise TriggerInvalid if it cannot be read."""
    try:
        return combine([read(part, timezone) for part in json.loads(text)], timezone)
    except (ValueError, TypeError, AttributeError) as error:
        raise TriggerInvalid(f"stored triggers {text!r} cannot be read: {error}") from error
