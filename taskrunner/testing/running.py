"""Running what is due: a real runner in this process, which stops when there is nothing more to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from taskrunner import reads
from taskrunner.db import Link, Op, column
from taskrunner.durations import as_delay
from taskrunner.errors import WaitTimeout
from taskrunner.reads import TaskView
from taskrunner.registry import Registry
from taskrunner.registry import registry as declared
from taskrunner.runner import Runner, Ties
from taskrunner.settings import Settings
from taskrunner.store import task as store

# A poll finds new work within this time; NOTIFY is not needed.
_POLL = timedelta(milliseconds=10)

# Nobody beats for this runner: its lease outlives the test, and a task under test may move the clock by hours.
_LEASE = timedelta(days=1)

_BUSY = "SELECT t.id FROM taskrunner.task t WHERE t.runner_id = %(runner_id)s"

_QUEUES = "SELECT DISTINCT t.queue FROM taskrunner.task t WHERE t.type = ANY(%(types)s)"

# A task that was cancelled or deleted while it waited has no runner: it is not among those that were run.
_ENDED = """
SELECT e.id
  FROM (SELECT h.id, h.runner_id, h.finished_at FROM taskrunner.task_history h
         UNION ALL
        SELECT d.id, d.runner_id, d.finished_at FROM taskrunner.dead_letter d) e
 WHERE e.runner_id = ANY(%(runners)s)
 ORDER BY e.finished_at, e.id
"""


def run_due(url: str, registry: Registry | None = None, *, timeout: timedelta | float = 30) -> list[TaskView]:
    """Run all due tasks of the registry's types, and those that they make due, to their end; return what ended.

    A retry or a snooze whose time has not come stays where it is: move the clock and call again. Paused queues stay
    paused. Raises `WaitTimeout` when something is still running or due after `timeout`. From asynchronous code:
    `await asyncio.to_thread(run_due, …)`.
    """
    return asyncio.run(_run_due(url, registry or declared, as_delay(timeout, "timeout").total_seconds()))


async def _run_due(url: str, registry: Registry, seconds: float) -> list[TaskView]:
    link = Link(url, name="taskrunner run_due")
    runners: list[UUID] = []
    until = time.monotonic() + seconds
    try:
        # Again, because a task may have put others into a queue that nobody had heard of.
        while queues := await _due(link, registry):
            await _run_until_idle(url, registry, queues, link, runners, until)
        ended: list[UUID] = await link.run(Op(_ENDED, {"runners": runners}, column))
        found = [await link.run(reads.task_by_id(id_)) for id_ in ended]
    finally:
        await link.close()
    return [task for task in found if task is not None]


async def _due(link: Link, registry: Registry, among: Collection[str] | None = None) -> list[str]:
    """Return the queues that have due tasks of known types."""
    types = registry.names_and_aliases()
    if among is None:
        found: list[str] = await link.run(Op(_QUEUES, {"types": types}, column))
        among = found
    surveyed = await link.run(store.survey(among, types))
    return [queue for queue, due_in in surveyed.items() if due_in <= 0]


async def _run_until_idle(
    url: str, registry: Registry, queues: list[str], link: Link, runners: list[UUID], until: float
) -> None:
    settings = Settings(queues=dict.fromkeys(queues, 1), listen=False, poll=_POLL, lease=_LEASE, grace=timedelta(0))
    runner = Runner(url, registry, settings, Ties(beaten=True, rejoined=runners.append))
    running = asyncio.create_task(runner.run())
    try:
        await _idle(runner, registry, queues, link, running, until)
    finally:
        runner.stop()
        await running


async def _idle(
    runner: Runner, registry: Registry, queues: list[str], link: Link, running: asyncio.Task[Any], until: float
) -> None:
    """Return when nothing is due in these queues and nothing runs, by the tables."""
    while not running.done():
        busy: list[UUID] = await link.run(Op(_BUSY, {"runner_id": runner.id}, column))
        if not busy and runner.joined.is_set() and not await _due(link, registry, queues):
            return
        if time.monotonic() > until:
            names = ", ".join(map(str, busy[:5])) or f"something in {', '.join(queues)}, again and again"
            raise WaitTimeout(f"run_due: still running or due: {names}")
        await asyncio.sleep(_POLL.total_seconds())
