"""PgQueuer, in its own environment: asyncpg, a single connection for the worker, `pgq autovac` after the install."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.contest import main
from benchmarks.probe import ran

BATCH = int(os.environ.get("BENCH_BATCH", "500"))


class Feed:
    """Adds jobs through one connection."""

    def __init__(self, queries: Queries) -> None:
        self.queries = queries

    async def many(self, numbers: range) -> None:
        payloads = [b'{"n": %d}' % n for n in numbers]
        await self.queries.enqueue(["noop"] * len(payloads), payloads, [0] * len(payloads))

    async def one(self, n: int) -> None:
        await self.queries.enqueue("noop", b'{"n": %d}' % n, 0)


class PgQueuerContestant:
    """Finished jobs leave the queue's table; a row of the log is kept for each."""

    async def setup(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        connection = await asyncpg.connect(url)
        yield Feed(Queries(AsyncpgDriver(connection)))
        await connection.close()

    async def work(self, url: str) -> None:
        queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

        @queue.entrypoint("noop")
        async def noop(job: Job) -> None:
            ran()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
        await queue.run(batch_size=BATCH)


main(PgQueuerContestant(), uvloop.run)
