"""Procrastinate, in its own environment: psycopg with its C parts, an asynchronous worker."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.contest import main
from benchmarks.probe import ran

CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "10"))


def app_of(url: str) -> App:
    """Return the application with its one task; the pool has a connection for every job that ends."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=CONCURRENCY + 4))

    @app.task(name="noop", queue="default")
    async def noop(n: int) -> None:
        ran()

    return app


class Feed:
    """Defers jobs by name."""

    def __init__(self, app: App) -> None:
        self.job = app.configure_task("noop", queue="default")

    async def many(self, numbers: range) -> None:
        await self.job.batch_defer_async(*({"n": n} for n in numbers))

    async def one(self, n: int) -> None:
        await self.job.defer_async(n=n)


class ProcrastinateContestant:
    """Finished jobs stay in the table, with their events."""

    async def setup(self, url: str) -> None:
        async with app_of(url).open_async() as app:
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        async with app_of(url).open_async() as app:
            yield Feed(app)

    async def work(self, url: str) -> None:
        async with app_of(url).open_async() as app:
            await app.run_worker_async(concurrency=CONCURRENCY)


main(ProcrastinateContestant(), uvloop.run)
