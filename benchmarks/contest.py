"""What each contestant's script answers to, so that all are driven and timed by the same code.

`SCRIPT setup URL` makes the tables, `work URL` runs tasks until SIGTERM; `fill URL N` adds N tasks through the
contestant's own bulk call, `single URL N` one by one, `pickup URL FOLDER N` one at a time, waiting for each to run.
The last three print their figures as JSON. Standard library alone: it runs in the peers' environments.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic_ns
from typing import Protocol

from benchmarks.probe import progress

CHUNK = 2000
"""Tasks of one bulk call, the same for all."""

LOOK = 0.0005  # seconds between two looks at the counters
PATIENCE = 20.0  # seconds for one pickup


class Producer(Protocol):
    """Adds tasks with the payload {"n": n}; when a call returns, the tasks are stored."""

    async def many(self, numbers: range) -> None:
        """Add all in one call."""

    async def one(self, n: int) -> None:
        """Add one."""


class Contestant(Protocol):
    """A queue: how its tables are made, how it is fed, how it works."""

    def setup(self, url: str) -> Awaitable[None]:
        """Make the tables, as its documentation says."""

    def producer(self, url: str) -> AbstractAsyncContextManager[Producer]:
        """Open what tasks are added through."""

    def work(self, url: str) -> Awaitable[None]:
        """Run tasks until SIGTERM."""


async def fill(producer: Producer, tasks: int) -> dict[str, object]:
    """Add tasks in bulk; a small call before the clock starts warms connection and statement."""
    await producer.many(range(1))
    began = monotonic_ns()
    for first in range(1, tasks, CHUNK):
        await producer.many(range(first, min(first + CHUNK, tasks)))
    return {"tasks": tasks - 1, "seconds": (monotonic_ns() - began) / 1e9}


async def single(producer: Producer, tasks: int) -> dict[str, object]:
    """Add tasks one by one, each in its own call, after ten that warm up."""
    for n in range(10):
        await producer.one(n)
    began = monotonic_ns()
    for n in range(tasks):
        await producer.one(n)
    return {"tasks": tasks, "seconds": (monotonic_ns() - began) / 1e9}


async def pickup(producer: Producer, folder: Path, samples: int) -> dict[str, object]:
    """Add one task after the other to an idle worker: milliseconds from the enqueue's return to the task's run.

    The return is the first instant at which the caller knows of the commit; a task that ran earlier counts as 0.
    """
    waits: list[float] = []
    for n in range(-10, samples):
        before = progress(folder).runs
        await producer.one(n)
        stored = monotonic_ns()
        while (now := progress(folder)).runs == before:
            if monotonic_ns() - stored > PATIENCE * 1e9:
                raise TimeoutError(f"task {n} was not picked up")
            await asyncio.sleep(LOOK)
        if n >= 0:
            waits.append(max(0.0, (now.last_ns - stored) / 1e6))
        # The worker goes back to sleep, at no fixed phase.
        await asyncio.sleep(random.uniform(0.004, 0.024))  # noqa: S311 - no secret
    return {"milliseconds": waits}


async def answer(contestant: Contestant, command: str, url: str, rest: list[str]) -> dict[str, object] | None:
    """Do what the command line asks for."""
    if command == "setup":
        await contestant.setup(url)
        return None
    if command == "work":
        await contestant.work(url)
        return None
    async with contestant.producer(url) as producer:
        if command == "fill":
            return await fill(producer, int(rest[0]))
        if command == "single":
            return await single(producer, int(rest[0]))
        return await pickup(producer, Path(rest[0]), int(rest[1]))


def main(contestant: Contestant, run: Callable[..., object] = asyncio.run) -> None:
    """Answer the command line by `run`, which may be uvloop's."""
    command, url, *rest = sys.argv[1:]
    answered = run(answer(contestant, command, url, rest))
    if answered is not None:
        print(json.dumps(answered))
