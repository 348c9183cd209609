"""Due times as people read them: in the schedule's own zone and in UTC, with a mark where the clocks change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Tick(NamedTuple):
    """One due time; `mark` says what the clocks of the zone have done since the one before."""

    at: datetime
    local: str
    mark: str


def ticks(due: Sequence[datetime], zone: str, since: datetime | None = None) -> list[Tick]:
    """Return the due times; clocks that changed between `since` and the first are marked too."""
    before = offset(since, zone) if since is not None else None
    made = []
    for at in due:
        now = offset(at, zone)
        made.append(Tick(at, local(at, zone), _mark(now - before) if before is not None and now != before else ""))
        before = now
    return made


def local(at: datetime | None, zone: str) -> str:
    """Return an instant in a zone, with its offset; UTC where this machine knows no such zone."""
    return "" if at is None else f"{at.astimezone(_zone(zone)):%a %Y-%m-%d %H:%M:%S %z}"


def offset(at: datetime, zone: str) -> timedelta:
    """Return how far a zone's clocks are from UTC."""
    return at.astimezone(_zone(zone)).utcoffset() or timedelta(0)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # a newer release's, or of another machine's tzdata
        return ZoneInfo("UTC") if name != "UTC" else UTC  # type: ignore[return-value]  # without tzdata at all


def _mark(change: timedelta) -> str:
    minutes = round(abs(change).total_seconds() / 60)
    length = f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
    return f"clocks went {'forward' if change > timedelta(0) else 'back'} {length}"
