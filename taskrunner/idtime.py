"""What a task's id tells of time."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID


def ended_since(ids: Collection[UUID]) -> datetime:
    """Return a day before the oldest id was made: no task with such an id ended earlier.

    A UUIDv7 begins with 48 bits of milliseconds (RFC 9562, 5.7); any other id could be of any age. The day is
    for clients whose clocks are wrong.
    """
    if any(id_.version != 7 for id_ in ids):
        return datetime(1970, 1, 1, tzinfo=UTC)
    made = datetime.fromtimestamp(min(id_.int >> 80 for id_ in ids) / 1000, tz=UTC)
    return min(made, datetime.now(UTC)) - _WRONG


def made_at(id_: UUID) -> datetime | None:
    """Return when an id was made, by the clock of who made it; None of one that does not tell."""
    if id_.version != 7:
        return None
    try:
        return datetime.fromtimestamp((id_.int >> 80) / 1000, tz=UTC)
    except (OverflowError, ValueError):
        return None


def made_before(until: datetime) -> UUID:
    """Return an id above those of all tasks created before an instant by clocks that are not an hour fast.

    A day of leeway could be a million rows, through which a list would have to go in vain.
    """
    milliseconds = min((until.timestamp() + 3600) * 1000, 2**48 - 1)
    return UUID(int=max(int(milliseconds), 0) << 80)


_WRONG = timedelta(days=1)
"""How wrong the clocks of clients may be."""
