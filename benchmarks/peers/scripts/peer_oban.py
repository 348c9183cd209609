"""oban-py, in its own environment (Python 3.12 or newer): psycopg and uvloop, as its own command runs it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install

from benchmarks.contest import main
from benchmarks.probe import ran

LIMIT = int(os.environ.get("BENCH_CONCURRENCY", "500"))


@worker(queue="default")
class Noop:
    async def process(self, job: Job) -> None:
        ran()


class Feed:
    """Enqueues through a pool of its own."""

    def __init__(self, oban: Oban) -> None:
        self.oban = oban

    async def many(self, numbers: range) -> None:
        await self.oban.enqueue_many([Noop.new({"n": n}) for n in numbers])

    async def one(self, n: int) -> None:
        await self.oban.enqueue(Noop.new({"n": n}))


class ObanContestant:
    """Finished jobs stay in the table, as completed, until they are pruned after a day."""

    async def setup(self, url: str) -> None:
        pool = await Oban.create_pool(url)
        await install(pool)
        await pool.close()

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        pool = await Oban.create_pool(url)
        async with Oban(pool=pool) as oban:
            yield Feed(oban)
        await pool.close()

    async def work(self, url: str) -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        pool = await Oban.create_pool(url)
        async with Oban(pool=pool, queues={"default": LIMIT}):
            await stopped.wait()
        await pool.close()


main(ObanContestant(), uvloop.run)
