"""What a process does for itself at intervals, driven by APScheduler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from taskrunner.errors import TaskrunnerError

log = logging.getLogger("taskrunner.scheduler")

TROUBLE = (TaskrunnerError, psycopg.Error, OSError)
"""What a database that is away, locked or restarting may raise: it passes by itself."""

Duty = Callable[[], Awaitable[object]]


class Duties:
    """APScheduler drives what this process does for itself; nothing else of APScheduler shows."""

    def __init__(self) -> None:
        self._apscheduler: Any = None
        self._running: set[asyncio.Task[Any]] = set()
        self._failing: set[str] = set()
        self._offset = _clock_offset()

    def start(self, duties: dict[str, tuple[timedelta, Duty]]) -> None:
        """Begin each duty at once and repeat it; a duty never overlaps with itself, and missed turns are one turn."""
        from apscheduler.executors.asyncio import AsyncIOExecutor
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        quiet = log.getChild("duties")
        logging.getLogger("apscheduler.executors.taskrunner").disabled = True  # duties report for themselves
        quiet.disabled = True
        self._apscheduler = AsyncIOScheduler(timezone=UTC, logger=quiet, executors={"taskrunner": AsyncIOExecutor()})
        for name, (every, duty) in duties.items():
            self._apscheduler.add_job(
                self._do,
                "interval",
                args=[name, duty],
                seconds=every.total_seconds(),
                jitter=min(every.total_seconds() / 4, 60),
                executor="taskrunner",
                next_run_time=datetime.now(UTC),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        self._apscheduler.start()

    def follow_clock(self) -> None:
        """Begin all duties anew when somebody has set this machine's clock: APScheduler goes by it."""
        offset = _clock_offset()
        if self._apscheduler is not None and abs(offset - self._offset) > 1:
            for job in self._apscheduler.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))
        self._offset = offset

    def stop(self) -> list[asyncio.Task[Any]]:
        """Begin no more duties; returns those under way."""
        if self._apscheduler is not None:
            self._apscheduler.pause()
            self._apscheduler.remove_all_jobs()
            running, self._apscheduler = list(self._running), None
            return running
        return []

    async def _do(self, name: str, duty: Duty) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - APScheduler's executor makes a task of a coroutine function
        self._running.add(task)
        try:
            await duty()
            self._failing.discard(name)
        except Exception as error:
            complain(name, error, first=name not in self._failing)
            self._failing.add(name)
        finally:
            self._running.discard(task)


def _clock_offset() -> float:
    return time.time() - time.monotonic()


def complain(what: str, error: Exception, *, first: bool) -> None:
    """Say once that the database is in trouble, not with every attempt; a fault of ours is told with its trace."""
    if not isinstance(error, TROUBLE):
        log.error("%s failed", what, exc_info=error)
    elif first:
        log.warning("%s is interrupted, it is tried again until it works: %s", what, error)
    else:
        log.debug("%s is still interrupted: %s", what, error)
