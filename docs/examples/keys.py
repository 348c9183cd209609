"""Keys: the newest work replaces what waits and follows what runs; tasks are steered without knowing their ids.

Run `taskrunner migrate` first, then this file, with DATABASE_URL or with the private server of the project.
The runner is in this same program only to make one file of it; it may as well be on another host.
"""

from __future__ import annotations

import asyncio

from taskrunner import AsyncTaskQueue, Task, register_task
from taskrunner.access import database
from taskrunner.errors import NotFound
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load

indexed: list[tuple[int, int]] = []
begun, enough = asyncio.Event(), asyncio.Event()


@register_task("Index")
class Index(Task):
    """Indexes one version of a document: only the newest is worth it."""

    document: int
    version: int

    async def run(self) -> int:
        begun.set()
        await enough.wait()
        indexed.append((self.document, self.version))
        return self.version


async def main() -> None:
    with database(load()) as way:
        async with AsyncTaskQueue.connect(way.url) as queue:
            await steer(queue)
            # Everybody saves the document many times, and nobody indexes it yet: the task is one, the work the latest.
            for version in range(1, 6):
                first = await queue.add(Index(document=7, version=version), key="7", on_conflict="replace")
            runner = Runner(way.url, registry, load())
            running = asyncio.create_task(runner.run())
            await begun.wait()

            # Version 5 runs. What is saved now must not be lost: it follows, again as one.
            for version in range(6, 10):
                next_ = await queue.add(Index(document=7, version=version), key="7", on_conflict="replace")
            assert next_.replaced
            enough.set()
            print("the first task indexed version", await queue.result(first.id, 30))
            print("the next one indexed version", await queue.result(next_.id, 30))
            assert indexed == [(7, 5), (7, 9)]
            runner.stop()
            await running


async def steer(queue: AsyncTaskQueue) -> None:
    """Find a task by its key, and cancel it."""
    await queue.add(Index(document=8, version=1), key="8", delay=3600)
    view = await queue.get_by_key(Index, "8")
    print("document 8 is to be indexed at", view.maturity_at, "by task", view.id)
    await queue.cancel_by_key("Index", "8")
    try:
        await queue.get_by_key(Index, "8")
    except NotFound as error:
        print(error)


if __name__ == "__main__":
    asyncio.run(main())
