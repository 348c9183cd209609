"""Tenants: doors that are bound to one, and a queue in which they take turns.

Run `taskrunner migrate` first, then this file, with DATABASE_URL or with the private server of the project.
The runner is in this same program only to make one file of it; it may as well be on another host.
"""

from __future__ import annotations

import asyncio

from taskrunner import AsyncTaskQueue, Task, register_task
from taskrunner.access import database
from taskrunner.errors import InvalidArgument, NotFound
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load

started: list[str] = []


@register_task("Export", queue="exports")
class Export(Task):
    """A part of somebody's data."""

    part: int

    async def run(self) -> int:
        started.append(self.context.tenant)
        return self.part


async def main() -> None:
    with database(load()) as way:
        async with (
            AsyncTaskQueue.connect(way.url) as everybody,
            AsyncTaskQueue.connect(way.url, tenant="big") as big,
            AsyncTaskQueue.connect(way.url, tenant="small") as small,
        ):
            await everybody.set_fair("exports")
            await everybody.set_weight("exports", "big", 2)  # two of its tasks in each round
            theirs = await big.add_many([Export(part=part) for part in range(1000)])
            ours = await small.add(Export(part=1))
            await keep_apart(small, theirs[0].id)

            runner = Runner(way.url, registry, load())
            running = asyncio.create_task(runner.run())
            await small.result(ours.id, 30)
            print("of the big tenant's tasks", started.index("small"), "had started before the small one's")
            assert started.index("small") < 50
            await big.wait_all([task.id for task in theirs], 60)
            print("done:", (await big.stats())["succeeded"], "and", (await small.stats())["succeeded"])
            runner.stop()
            await running


async def keep_apart(small: AsyncTaskQueue, foreign: object) -> None:
    """A bound door sees its own tasks, whatever the database login may see."""
    assert (await small.stats())["pending"] == 1
    try:
        await small.cancel(str(foreign))
    except NotFound as error:
        print(error)
    try:
        await small.add(Export(part=2), tenant="big")
    except InvalidArgument as error:
        print(error)


if __name__ == "__main__":
    asyncio.run(main())
