"""Old minutes of `task_stats` made coarser, so that 30 days of it stay a table that is added up at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from taskrunner.db import Op, Steps, scalar
from taskrunner.statements import reads as clock
from taskrunner.statements import stats as sql

_ANCIENT = datetime(2000, 1, 1, tzinfo=UTC)


class Level(NamedTuple):
    """Of what age on a row stands for a whole span, and no runner in particular."""

    age: timedelta
    span: timedelta


LEVELS = (
    Level(timedelta(minutes=90), timedelta(minutes=5)),
    Level(timedelta(hours=25), timedelta(hours=1)),
)
"""The younger first. Who asks for the last 24 hours gets them to five minutes."""


def roll_up(level: Level, after: datetime = _ANCIENT) -> Steps[tuple[int, datetime | None]]:
    """Make one row of each sort of the first span that has more; returns how many rows are left of it.

    Besides, where the next look may begin: None when no span of this age had anything to do.
    """
    now: datetime = yield Op(clock.NOW, {}, scalar)
    params = {"after": after, "before": _floor(now - level.age, level.span), "span": int(level.span.total_seconds())}
    found: datetime | None = yield Op(sql.FINE, params, scalar)
    if found is None:
        return 0, None
    begin = _floor(found, level.span)
    rows: int = yield Op(sql.ROLL_UP, {"begin": begin, "end": begin + level.span}, len)
    return rows, begin + level.span


def _floor(instant: datetime, span: timedelta) -> datetime:
    return instant - (instant - _ANCIENT) % span
