"""awa-pg, in its own environment: a core in Rust, handlers in Python, queue storage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvloop
from awa import AsyncClient

from benchmarks.contest import main
from benchmarks.probe import ran

WORKERS = int(os.environ.get("BENCH_CONCURRENCY", "1024"))


@dataclass
class Noop:
    n: int


class Feed:
    """COPY for many, its ordinary insert for one."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def many(self, numbers: range) -> None:
        await self.client.enqueue_many_copy([Noop(n) for n in numbers], queue="noop")

    async def one(self, n: int) -> None:
        await self.client.insert(Noop(n), queue="noop")


class AwaContestant:
    """Finished jobs stay for a day, in its rotating tables."""

    async def setup(self, url: str) -> None:
        client = AsyncClient(url)
        await client.migrate()
        await client.install_queue_storage()
        await client.close()

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        client = AsyncClient(url)
        yield Feed(client)
        await client.close()

    async def work(self, url: str) -> None:
        client = AsyncClient(url, 24)  # queues × 4 + 20 connections, as its notes on benchmarking say

        @client.task(Noop, queue="noop")
        async def noop(job: object) -> None:
            ran()

        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await client.start([("noop", WORKERS)])
        await stopped.wait()
        await client.shutdown()


main(AwaContestant(), uvloop.run)
