"""The processes that are measured: a runner, the bare statement, producers.

`python -m benchmarks.workload COMMAND URL …`: `drain` runs until the table is empty and `bare BATCH` does the same
without tasks, both print the CPU seconds they used; `work` runs until SIGTERM; `setup`, `fill`, `single` and `pickup`
are those of `benchmarks.contest`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import uvloop
from uuid_utils.compat import uuid7

from benchmarks.contest import main as contest
from benchmarks.probe import ran
from benchmarks.tasks import Noop
from taskrunner import schema
from taskrunner.child import settle_memory
from taskrunner.db import aconnect, arun
from taskrunner.queue import TaskQueue
from taskrunner.recorder import Recorder
from taskrunner.registry import registry
from taskrunner.runner import Runner, Ties
from taskrunner.settings import load
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.runner import Process
from taskrunner.store.task import Cycle, Ending, Floor, Front


class Feed:
    """Adds tasks through the public door; each is validated by its class."""

    def __init__(self, queue: TaskQueue) -> None:
        self.queue = queue

    async def many(self, numbers: range) -> None:
        """Add all in one call."""
        self.queue.add_many(Noop(n=n) for n in numbers)

    async def one(self, n: int) -> None:
        """Add one."""
        self.queue.add(Noop(n=n))


class Ours:
    """This project as a contestant: finished tasks are kept in history, each with its row."""

    async def setup(self, url: str) -> None:
        """Migrate."""
        await asyncio.to_thread(schema.migrate, url)

    @asynccontextmanager
    async def producer(self, url: str) -> AsyncIterator[Feed]:
        """Open the door."""
        with TaskQueue.connect(url) as queue:
            yield Feed(queue)

    async def work(self, url: str) -> None:
        """Be a runner with its settings from the environment until SIGTERM."""
        runner = _runner(url)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop)
        await runner.run()


def _runner(url: str) -> Runner:
    """A runner as `taskrunner start runner` makes one: with a flight recorder, and with its memory settled."""
    settle_memory()
    settings = load()
    record = Path(tempfile.mkdtemp()) / "record"
    return Runner(url, registry, settings, Ties(recorder=Recorder(record, settings.concurrency)))


async def drain(url: str) -> None:
    """Be a runner with its settings from the environment until the table is empty."""
    runner = _runner(url)
    running = asyncio.create_task(runner.run())
    conn = await aconnect(url, name="bench watch")
    while (await (await conn.execute("SELECT EXISTS (SELECT FROM taskrunner.task)")).fetchone()) != (False,):  # noqa: ASYNC110 - looks from outside
        await asyncio.sleep(0.05)
    await conn.close()
    runner.stop()
    await running


async def bare(url: str, batch: int) -> None:
    """Run the runner's own statement in a loop, without tasks: what the server and the driver give at most."""
    conn = await aconnect(url, name="bench bare")
    runner_id = uuid7()
    process = Process(runner_id, "runner", "bench", 0, ("default",), ("bench.noop",), batch, "0")
    await arun(conn, runner_store.join(process, timedelta(minutes=10)))
    endings: list[Ending] = []
    front = Front("bench.noop", 100)
    while True:
        asked = Cycle(runner_id, endings=endings, queue="default", fronts=[front], room=batch)
        cycled = await arun(conn, store.cycle(asked))
        endings = [Ending(task.id, task.claim_no, 0.0001, 0.0002) for task in cycled.claimed]
        if not endings:
            break
        front = front._replace(floor=Floor(cycled.claimed[0].maturity_at, cycled.claimed[0].id))  # as the runner does
        ran(len(endings))
    await conn.close()


def main() -> None:
    """Do what the command line asks for."""
    what, url, *rest = sys.argv[1:]
    if what not in ("drain", "bare"):
        contest(Ours(), uvloop.run)
        return
    began = time.process_time()
    uvloop.run(drain(url) if what == "drain" else bare(url, int(rest[0])))
    print(time.process_time() - began)


if __name__ == "__main__":
    main()
