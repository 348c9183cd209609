"""The maintenance duties: rescue, partitions ahead of time, retention. Any number of janitors may be at work."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from psycopg.errors import LockNotAvailable

from taskrunner.db import Link, Steps
from taskrunner.leases import rescue_dead
from taskrunner.settings import Settings
from taskrunner.store import history

log = logging.getLogger(__name__)

# The first attempt at a lock does not queue for it at all, so that it holds up nobody.
AT_ONCE = timedelta(milliseconds=1)
PATIENCE = timedelta(milliseconds=100)
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # s, between attempts at a lock, each with up to as much again
LONGEST = 600.0  # s, that a statement may take: moving a day out of DEFAULT is the longest
BATCH = 5000  # rows of one deletion: some tens of milliseconds


@dataclass(slots=True)
class Maintained:
    """What one round of maintenance did; `blocked` are days whose partition somebody's transaction kept locked."""

    created: list[date] = field(default_factory=list)
    moved: int = 0
    dropped: list[date] = field(default_factory=list)
    deleted: dict[history.Kind, int] = field(default_factory=dict)
    blocked: list[date] = field(default_factory=list)


async def partitions(link: Link, ahead: int, into: Maintained | None = None) -> Maintained:
    """Make the missing partitions of history, from today to `ahead` days on, and empty DEFAULT into them."""
    done = into or Maintained()
    days = await link.run(history.wanted(ahead))
    for place, day in enumerate(days):
        try:
            outcome = await _locking(link, partial(history.create, day))
        except LockNotAvailable:
            done.blocked += days[place:]
            log.info("no partition of history for %s yet: a long transaction has task_history locked", day)
            break
        if outcome.verdict == "busy":
            break
        if outcome.verdict == "done":
            done.created.append(day)
            done.moved += outcome.moved
    if done.moved:
        log.warning("moved %d rows of history out of DEFAULT: their partitions had been missing", done.moved)
    return done


async def retention(link: Link, settings: Settings, into: Maintained | None = None) -> Maintained:
    """Remove what has been kept for as long as the settings say."""
    done = into or Maintained()
    await _drop_partitions(link, settings.history_retention, done)
    await _delete_rows(link, settings, done)
    return done


async def maintain(link: Link, settings: Settings) -> Maintained:
    """Do every duty once, the rescue of dead runners' tasks too."""
    await rescue_dead(link.run, settings.crash_limit)
    done = await partitions(link, settings.partitions_ahead)
    return await retention(link, settings, done)


async def _drop_partitions(link: Link, kept: timedelta, done: Maintained) -> None:
    days = await link.run(history.outdated(kept))
    for place, day in enumerate(days):
        try:
            outcome = await _locking(link, partial(history.drop, day))
        except LockNotAvailable:
            done.blocked += days[place:]
            log.info("history of %s is kept for now: a long transaction has task_history locked", day)
            break
        if outcome.verdict == "busy":
            break
        if outcome.verdict == "done":
            done.dropped.append(day)


async def _delete_rows(link: Link, settings: Settings, done: Maintained) -> None:
    oldest = datetime.combine(await link.run(history.cutoff(settings.history_retention)), time(), UTC)
    kinds: dict[history.Kind, timedelta] = {
        "stranded": settings.history_retention,
        "requeued": settings.history_retention,
        "keys": timedelta(0),
        "stats": settings.stats_retention,
        "logs": settings.history_retention,
        "effects": settings.history_retention,
    }
    for kind, kept in kinds.items():
        done.deleted[kind] = await _delete(link, kind, kept, oldest)


async def _delete(link: Link, kind: history.Kind, kept: timedelta, oldest: datetime) -> int:
    total = 0
    while (gone := await link.run(history.delete(kind, room=BATCH, retention=kept, before=oldest))) == BATCH:
        total += gone
    return total + gone


async def _locking(link: Link, work: Callable[[timedelta], Steps[history.Outcome]]) -> history.Outcome:
    """Run DDL whose locks may be somebody's, without holding up those who would queue behind it.

    Raises `LockNotAvailable` when a transaction did not let go for the whole time.
    """
    try:
        return await link.run(work(AT_ONCE))
    except LockNotAvailable as error:
        refusal = error
    for pause in _pauses():
        before: set[str] = await link.run(history.holders())
        await asyncio.sleep(pause)
        still: set[str] = await link.run(history.holders())
        if before & still:
            continue  # a long transaction: whoever came behind us in the queue would wait for it too
        try:
            return await link.run(work(PATIENCE))
        except LockNotAvailable as error:
            refusal = error
    raise refusal


def _pauses() -> Iterator[float]:
    return (pause * random.uniform(1, 2) for pause in PAUSES)  # noqa: S311 - so that two janitors do not keep step
