"""The measurements: enqueues through a door, a drain by real runners, and how soon an idle one begins."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from pydantic import SecretStr

import taskrunner
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.bench.report import Delays, Rate, Report, Size, Tell
from taskrunner.bench.work import QUEUE, Noop, Pickup
from taskrunner.db import Link, Op, connect, nothing, run, scalar
from taskrunner.errors import TaskrunnerError
from taskrunner.parting import part
from taskrunner.queue import TaskQueue
from taskrunner.reads import live_runners
from taskrunner.registry import registry
from taskrunner.settings import Settings
from taskrunner.statements import bench as sql
from taskrunner.store import steering
from taskrunner.supervisor import Supervisor

T = TypeVar("T")

BATCH = 1000  # tasks of one add_many
_LOOK = 0.1  # seconds between two looks at how far a drain is
_STUCK = 60.0  # seconds without an ended task after which nothing more is waited for
_GAPS = 0.015, 0.035  # seconds between two tasks for an idle runner: it is idle again, and never in step with them


def measure(url: str, settings: Settings, size: Size, tell: Tell) -> Report | None:
    """Measure all of it in the schema that this process works in; None when a signal ended it before."""
    with connect(url, name="taskrunner bench") as conn:
        version, fsync, commits = run(conn, Op(sql.SERVER, {}, lambda rows: rows[0]))
        waits, together = _enqueue(url, size, tell)
        run(conn, Op(sql.VACUUM, {}, nothing))
        run(conn, steering.pause_queue(QUEUE, paused=True))
    ran = asyncio.run(_with_runners(url, settings, lambda link: _run(link, url, settings, size, tell)))
    if ran is None:
        return None
    drain, pickups = ran
    return Report(
        version=version,
        fsync=fsync,
        synchronous_commit=commits,
        processes=settings.processes,
        concurrency=settings.concurrency,
        batch=BATCH,
        enqueue_singly=Rate.of(len(waits), sum(waits)),
        enqueue_singly_waits=Delays.of(waits),
        enqueue_many=together,
        drain=drain,
        pickups=len(pickups),
        pickup_waits=Delays.of(pickups),
    )


# ── enqueue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _enqueue(url: str, size: Size, tell: Tell) -> tuple[list[float], Rate]:
    """Return how long each single enqueue took, and the rate of many at once."""
    with TaskQueue.connect(url, registry=registry) as door:
        waits = []
        for number in range(size.singles):
            began = time.perf_counter()
            door.add(Noop(n=number))
            waits.append(time.perf_counter() - began)
            tell("enqueue, one by one", number + 1, size.singles)
        began = time.perf_counter()
        for first in range(0, size.tasks, BATCH):
            last = min(first + BATCH, size.tasks)
            door.add_many(Noop(n=number) for number in range(first, last))
            tell("enqueue, many at once", last, size.tasks)
        return waits, Rate.of(size.tasks, time.perf_counter() - began)


# ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _with_runners(url: str, settings: Settings, work: Callable[[Link], Awaitable[T]]) -> T | None:
    """Do the work while a supervisor keeps the runners; None when a signal made it drain."""
    link = Link(url, name="taskrunner bench")
    supervisor = Supervisor(("runner",), _for_runners(settings, url), url)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, supervisor.stop)  # it hears SIGTERM and SIGINT by itself
    living = asyncio.ensure_future(supervisor.run())
    working = asyncio.ensure_future(work(link))
    try:
        await asyncio.wait({living, working}, return_when=asyncio.FIRST_COMPLETED)
        if not living.done():
            return await working
        if living.result():
            raise TaskrunnerError("the runners cannot be kept alive: the lines above say why")
        return None
    finally:
        await part([working])
        if not living.done():
            supervisor.stop()
        await asyncio.wait({living})
        await link.close()
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as the supervisor does: what is to be cleaned up now is


def _for_runners(settings: Settings, url: str) -> Settings:
    """Return the user's settings, but for what is run: they find our tasks where a project's would be."""
    return settings.model_copy(
        update={
            "database_url": SecretStr(url),
            "project": Path(taskrunner.__file__).parents[1],
            "tasks": "taskrunner.bench.work",
            "queues": {},
        }
    )


async def _run(link: Link, url: str, settings: Settings, size: Size, tell: Tell) -> tuple[Rate, list[float]]:
    tell("start the runners", 0, settings.processes)
    while (alive := await link.run(live_runners())) < settings.processes:
        tell("start the runners", alive, settings.processes)
        await asyncio.sleep(_LOOK)
    tell("start the runners", alive, settings.processes)
    stored = size.tasks + size.singles
    await link.run(steering.resume_queue(QUEUE))
    await _ended(link, stored, lambda done: tell("drain", done, stored))
    ran, seconds = await link.run(Op(sql.SPAN, {"type": "bench.noop"}, lambda rows: rows[0]))
    returned = await _pick_up(url, size.pickups, tell)
    await _ended(link, stored + size.pickups, lambda _: None)
    began: dict[UUID, float] = await link.run(Op(sql.RESULTS, {"type": "bench.pickup"}, dict))
    return Rate.of(ran, seconds), [max(0.0, began[id_] - at) for id_, at in returned.items()]


async def _pick_up(url: str, count: int, tell: Tell) -> dict[UUID, float]:
    """Add tasks one by one for runners that have nothing else to do; returns when each enqueue returned."""
    returned = {}
    async with AsyncTaskQueue.connect(url, registry=registry) as door:
        for number in range(count):
            await asyncio.sleep(random.uniform(*_GAPS))  # noqa: S311 - no secret depends on it
            added = await door.add(Pickup())
            returned[added.id] = time.monotonic()
            tell("pickup, idle runner", number + 1, count)
    return returned


async def _ended(link: Link, count: int, tell: Callable[[int], None]) -> None:
    """Wait until so many tasks have succeeded. Raises: `TaskrunnerError` when it does not go on."""
    done, since = -1, time.monotonic()
    while done < count:
        now = await link.run(Op(sql.SUCCEEDED, {}, scalar))
        if now > done:
            done, since = now, time.monotonic()
            tell(done)
        elif time.monotonic() - since > _STUCK:
            raise TaskrunnerError(f"{count - done} of {count} tasks have not been run, and none in a minute")
        await asyncio.sleep(_LOOK if done < count else 0)
