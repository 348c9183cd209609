"""The task of the measurements, and the two processes that are measured: a runner, and the bare statement."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta

from uuid_utils.compat import uuid7

from taskrunner import Task, register_task
from taskrunner.db import aconnect, arun
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.runner import Process
from taskrunner.store.task import Cycle, Ending


@register_task("bench.noop")
class Noop(Task):
    """Does nothing, as fast as it can."""

    n: int

    async def run(self) -> None:
        """Do nothing."""


async def drain(url: str) -> None:
    """Be a runner with its settings from the environment until the table is empty."""
    runner = Runner(url, registry, load())
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
    while True:
        asked = Cycle(runner_id, endings=endings, queue="default", types=["bench.noop"], room=batch)
        cycled = await arun(conn, store.cycle(asked))
        endings = [Ending(task.id, task.claim_no, 0.0001, 0.0002) for task in cycled.claimed]
        if not endings:
            break
    await conn.close()


def main() -> None:
    """Measure this process's CPU time and print it, for the parent."""
    what, url, *rest = sys.argv[1:]
    import uvloop

    began = time.process_time()
    uvloop.run(drain(url) if what == "drain" else bare(url, int(rest[0])))
    print(time.process_time() - began)


if __name__ == "__main__":
    main()
