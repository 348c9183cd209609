"""Old minutes of `task_stats` made coarser, so that 30 days of them stay a table that is added up at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskrunner.buckets import Level
from taskrunner.db import Op, Steps, nothing, scalar
from taskrunner.statements import reads as clock
from taskrunner.statements import stats as sql

ANCIENT = datetime(2000, 1, 1, tzinfo=UTC)
"""What is dated before, by somebody's own SQL, stays as it is."""


def roll_up(level: Level, after: datetime = ANCIENT) -> Steps[datetime | None]:
    """Make the first span after this instant, of those that are old enough and finer than the level, as coarse.

    Returns where the next look may begin; None when there was nothing to do.
    """
    now: datetime = yield Op(clock.NOW, {}, scalar)
    params = {"after": after, "before": _floored(now - level.age, level.span), "span": level.span.total_seconds()}
    found: datetime | None = yield Op(sql.FINE, params, scalar)
    if found is None:
        return None
    begin = _floored(found, level.span)
    yield Op(sql.ROLL_UP, {"begin": begin, "end": begin + level.span}, nothing)
    return begin + level.span


def _floored(instant: datetime, span: timedelta) -> datetime:
    return instant - (instant - ANCIENT) % span
