"""Running what is due: a real runner in this process, which stops when there is nothing more to do."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
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

# A poll finds new work within this time; NOTIFY is not needed.
_POLL = timedelta(milliseconds=10)

# Nobody beats for this runner: its lease outlives the test, and a task under test may move the clock by hours.
_LEASE = timedelta(days=1)

# What is due and what runs, by one snapshot: between two of them a task could pass from the one to the other unseen.
_OPEN = """
SELECT t.id, t.queue
  FROM taskrunner.task t
 WHERE t.type = ANY(%(types)s)
   AND (t.state = 'running' AND t.runner_id = ANY(%(runners)s)
        OR t.state = 'pending' AND t.maturity_at <= taskrunner.clock()
       AND NOT EXISTS (SELECT FROM taskrunner.queue_settings s WHERE s.queue = t.queue AND s.paused))
"""

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
    """Run all due tasks of the registry's types, and those that they make due, to their end; return what ended, whole.

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
        while due := await _open(link, registry, runners):
            await _run_until_idle(url, registry, set(due.values()), link, runners, until)
        ended: list[UUID] = await link.run(Op(_ENDED, {"runners": runners}, column))
        found = [await link.run(reads.task_by_id(id_, whole=True)) for id_ in ended]
    finally:
        await link.close()
    return [task for task in found if task is not None]


async def _open(link: Link, registry: Registry, runners: list[UUID]) -> dict[UUID, str]:
    """Return the tasks of known types that are due or run here, each with its queue."""
    return await link.run(Op(_OPEN, {"types": registry.names_and_aliases(), "runners": runners}, dict))


async def _run_until_idle(
    url: str, registry: Registry, queues: set[str], link: Link, runners: list[UUID], until: float
) -> None:
    settings = Settings(queues=dict.fromkeys(queues, 1), listen=False, poll=_POLL, lease=_LEASE, grace=timedelta(0))
    runner = Runner(url, registry, settings, Ties(beaten=True, rejoined=runners.append))
    running = asyncio.create_task(runner.run())
    try:
        while not running.done():
            left = [id_ for id_, queue in (await _open(link, registry, runners)).items() if queue in queues]
            if not left:
                return
            if time.monotonic() > until:
                raise WaitTimeout(f"run_due: still running or due: {', '.join(map(str, left[:5]))}")
            await asyncio.sleep(_POLL.total_seconds())
    finally:
        runner.stop()
        await running
