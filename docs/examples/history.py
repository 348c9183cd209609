"""History: one list over what waits, runs and has ended, page by page, while tasks move from one to the other.

Run `taskrunner migrate` first, then this file, with DATABASE_URL or with the private server of the project.
The runner is in this same program only to make one file of it; it may as well be on another host.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from taskrunner import AsyncTaskQueue, Task, TaskStatus, register_task
from taskrunner.access import database
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load


@register_task("Resize")
class Resize(Task):
    """Resizes a picture, unless it is small."""

    picture: int

    async def run(self) -> TaskStatus:
        return TaskStatus.IGNORED if self.picture % 5 == 0 else TaskStatus.SUCCESS


async def listed(queue: AsyncTaskQueue, **filters: str) -> list[UUID]:
    """Return the ids of all tasks of a list. A page may be short, or empty, with more behind it."""
    page = await queue.list_tasks(limit=10, **filters)
    ids = [task.id for task in page.items]
    while page.next is not None:
        page = await queue.list_tasks(limit=10, after=page.next, **filters)
        ids += [task.id for task in page.items]
    return ids


async def main() -> None:
    with database(load()) as way:
        async with AsyncTaskQueue.connect(way.url) as queue:
            added = [task.id for task in await queue.add_many(Resize(picture=number) for number in range(50))]
            runner = Runner(way.url, registry, load())
            running = asyncio.create_task(runner.run())

            # They end while they are listed: none is missed, and none comes twice.
            assert await listed(queue, type="Resize") == added[::-1]
            await queue.wait_all(added, 30)
            assert await listed(queue, type="Resize") == added[::-1]

            ignored = await listed(queue, state="ignored")
            print(len(added), "tasks in the list,", len(ignored), "of them ignored")
            assert ignored == added[::5][::-1]
            runner.stop()
            await running


if __name__ == "__main__":
    asyncio.run(main())
