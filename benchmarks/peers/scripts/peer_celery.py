"""Celery with Redis, in its own environment: results ignored, many messages fetched ahead."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import Celery
from kombu.pools import producers

from benchmarks.contest import main
from benchmarks.probe import ran

CHILDREN = os.environ.get("BENCH_CONCURRENCY", "1")
POOL = os.environ.get("BENCH_POOL", "solo")


def app_of(url: str) -> Celery:
    """Return the application with its one task."""
    app = Celery("bench", broker=url)
    app.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=int(os.environ.get("BENCH_BATCH", "128")),
        task_acks_late=os.environ.get("BENCH_ACKS_LATE") == "1",
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="noop")
    def noop(n: int) -> None:
        ran()

    return app


class Feed:
    """Sends through one connection; there is no bulk call."""

    def __init__(self, app: Celery, producer: object) -> None:
        self.task, self.producer = app.tasks["noop"], producer

    async def many(self, numbers: range) -> None:
        for n in numbers:
            self.task.apply_async((n,), producer=self.producer)

    async def one(self, n: int) -> None:
        self.task.apply_async((n,), producer=self.producer)


class CeleryContestant:
    """A message is gone once it is acknowledged; nothing is kept."""

    async def setup(self, url: str) -> None:
        """Redis has no tables."""

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        app = app_of(url)
        app.finalize()
        with app.connection_for_write() as connection, producers[connection].acquire(block=True) as producer:
            yield Feed(app, producer)

    async def work(self, url: str) -> None:
        options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
        name = f"--hostname=bench{os.getpid()}@%h"
        app_of(url).worker_main(["worker", f"--pool={POOL}", f"--concurrency={CHILDREN}", name, *options])


if __name__ == "__main__":
    main(CeleryContestant())
