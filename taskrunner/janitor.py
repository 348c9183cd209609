"""The maintenance duties: rescue, partitions ahead of time, retention. Any number of janitors may be at work."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import partial

from psycopg.errors import LockNotAvailable

from taskrunner.archive import Archive, Archived, ArchiveError
from taskrunner.buckets import LEVELS
from taskrunner.db import Link, Steps
from taskrunner.errors import SchemaBehind
from taskrunner.keeping import Keeping, Rule
from taskrunner.leases import rescue_dead
from taskrunner.settings import Settings
from taskrunner.store import history, rollup
from taskrunner.store import retention as rows
from taskrunner.store.history import Outcome, Partition

log = logging.getLogger(__name__)

# The first attempt at a lock does not queue for it at all, so that it holds up nobody.
AT_ONCE = timedelta(milliseconds=1)
PATIENCE = timedelta(milliseconds=100)
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # s, between attempts at a lock, each with up to as much again
LONGEST = 600.0  # s, that a statement may take: moving a day out of DEFAULT is the longest
BATCH = 5000  # rows of one deletion: some tens of milliseconds


@dataclass(slots=True)
class Maintained:
    """What one round of maintenance did, by the partitions' names; `blocked`: somebody's transaction has them locked.

    `swept` are rows that went from partitions that stay, `archived` the files, `failed` why something could not be
    archived, and was kept; `rolled_up` the spans of figures that were made coarser.
    """

    created: list[str] = field(default_factory=list)
    moved: int = 0
    dropped: list[str] = field(default_factory=list)
    swept: dict[str, int] = field(default_factory=dict)
    archived: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    deleted: dict[rows.Kind, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    rolled_up: int = 0


class OtherJanitor(Exception):
    """Another janitor is at work: the rest of the round is left to it."""


async def partitions(link: Link, settings: Settings, into: Maintained | None = None) -> Maintained:
    """Make the missing partitions of history, from today on, and empty DEFAULT into them."""
    done = into or Maintained()
    spans = await link.run(history.wanted(settings.partitions_ahead, settings.history_partition))
    names = [history.name_of(span.begin) for span in spans]
    for place, span in enumerate(spans):
        try:
            outcome = await _locking(link, partial(history.create, span))
        except LockNotAvailable:
            done.blocked += names[place:]
            log.info("no partition of history for %s yet: a long transaction has task_history locked", span.begin)
            break
        if outcome.verdict == "busy":
            break
        if outcome.verdict == "done":
            done.created.append(names[place])
            done.moved += outcome.moved
    if done.moved:
        log.warning("moved %d rows of history out of DEFAULT: their partitions had been missing", done.moved)
    return done


async def retention(link: Link, settings: Settings, into: Maintained | None = None) -> Maintained:
    """Remove what has been kept for as long as the settings say."""
    done = into or Maintained()
    await Retention(link, settings, done).history()
    await _delete_rows(link, settings, done)
    done.rolled_up = await _roll_up(link)
    return done


async def maintain(link: Link, settings: Settings) -> Maintained:
    """Do every duty once, the rescue of dead runners' tasks too."""
    await rescue_dead(link.run, settings.crash_limit)
    done = await partitions(link, settings)
    return await retention(link, settings, done)


def kept(settings: Settings) -> Keeping:
    """Return for how long history is kept."""
    return Keeping(settings.history_retention, settings.history_keep)


class Retention:
    """One round over the partitions of history that have something to go."""

    def __init__(self, link: Link, settings: Settings, done: Maintained) -> None:
        self._link, self._settings, self._done = link, settings, done
        self._keeping = kept(settings)

    async def history(self) -> None:
        """Drop the partitions of which all may go, and delete what may go of others."""
        due = await self._link.run(history.outdated(self._keeping.shortest))
        for place, (partition, age) in enumerate(due):
            try:
                await self._pass(partition, self._keeping.rules(age))
            except LockNotAvailable:
                self._done.blocked += [each.name for each, _ in due[place:]]
                log.info("%s is kept for now: a long transaction has task_history locked", partition.name)
                return
            except OtherJanitor:
                return
            except ArchiveError as error:
                self._done.failed[partition.name] = str(error)
                log.error("%s is kept, because it could not be archived: %s", partition.name, error)
            except SchemaBehind:  # no such table: dropped by another janitor while this one looked at it
                log.debug("%s is gone already", partition.name)

    async def _pass(self, partition: Partition, rules: Sequence[Rule]) -> None:
        if rows.is_swept(partition, rules):
            return
        all_may_go = all(rule.may_go for rule in rules)
        if all_may_go or not await self._link.run(rows.any_left(partition, rules, may_go=False)):
            await self._drop(partition)
        else:
            await self._sweep(partition, rules)

    async def _drop(self, partition: Partition) -> None:
        archived = await self._archive(partition, None)
        count = archived.rows if archived else None
        outcome = await _locking(self._link, lambda patience: history.drop(partition.span, patience, count))
        if outcome.verdict == "busy":
            raise OtherJanitor
        if outcome.verdict == "changed":
            raise ArchiveError("its rows have changed since; the next round archives it anew")
        if outcome.verdict == "done":
            self._done.dropped.append(partition.name)

    async def _sweep(self, partition: Partition, rules: Sequence[Rule]) -> None:
        """Delete what may go, archived first, and remember that it was done."""
        if await self._link.run(rows.any_left(partition, rules, may_go=True)):
            await self._archive(partition, rules)
            self._done.swept[partition.name] = await self._delete(partition, rules)
        if not await self._link.run(rows.any_left(partition, rules, may_go=True)):
            await self._link.run(rows.mark(partition, rules, PATIENCE))

    async def _delete(self, partition: Partition, rules: Sequence[Rule]) -> int:
        total, after = 0, rows.NOWHERE
        while True:
            swept = await self._link.run(rows.sweep(partition, rules, after=after, room=BATCH))
            total += swept.rows
            if swept.rows < BATCH or swept.last is None:
                return total
            after = swept.last

    async def _archive(self, partition: Partition, rules: Sequence[Rule] | None) -> Archived | None:
        """Write what is to go into a file, where the settings name a folder. Raises: `ArchiveError`, `OtherJanitor`."""
        folder = self._settings.archive_dir
        if folder is None:
            return None
        archive = Archive(self._link.url, folder, prepare=self._settings.prepare)
        name = partition.name if rules is None else f"{partition.name}-swept"
        try:
            archived = await asyncio.to_thread(archive.write, name, rows.going(partition, rules))
        except asyncio.CancelledError:
            archive.abort()
            raise
        if archived is None:
            raise OtherJanitor
        self._done.archived.append(str(archived.path))
        log.info("archived %d rows of %s in %s", archived.rows, partition.name, archived.path)
        return archived


async def _delete_rows(link: Link, settings: Settings, done: Maintained) -> None:
    oldest = datetime.combine(await link.run(history.cutoff(kept(settings).longest)), time(), UTC)
    kinds: dict[rows.Kind, timedelta] = {
        "requeued": settings.history_retention,
        "keys": timedelta(0),
        "stats": settings.stats_retention,
        "logs": settings.history_retention,
        "effects": settings.history_retention,
        "dependencies": timedelta(0),  # as soon as the child has gone
        "audit": settings.audit_retention,
    }
    if settings.archive_dir is None:  # else they wait for their partition, with which they are archived
        kinds["stranded"] = settings.history_retention
    for kind, age in kinds.items():
        done.deleted[kind] = await _delete(link, kind, age, oldest)


async def _delete(link: Link, kind: rows.Kind, age: timedelta, oldest: datetime) -> int:
    total = 0
    while (gone := await link.run(rows.delete(kind, room=BATCH, retention=age, before=oldest))) == BATCH:
        total += gone
    return total + gone


async def _roll_up(link: Link) -> int:
    """Make figures coarser that are old enough, a span at a time, each in a transaction of its own."""
    spans = 0
    for level in LEVELS:
        after = rollup.ANCIENT
        while (next_ := await link.run(rollup.roll_up(level, after))) is not None:
            after, spans = next_, spans + 1
    return spans


async def _locking(link: Link, work: Callable[[timedelta], Steps[Outcome]]) -> Outcome:
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
