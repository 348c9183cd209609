"""Results: add tasks, and wait for one, for many, and for each as it ends, while another process runs them.

Run it: `DATABASE_URL=postgresql://… python docs/examples/results.py`.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskrunner import AsyncTaskQueue, Task, TaskQueue, register_task
from taskrunner.errors import TaskDead, WaitTimeout


@register_task("Fetch")
class Fetch(Task):
    """Pretends to fetch a page, the first ones taking longest."""

    page: int

    async def run(self) -> dict[str, int]:
        for part in range(4):
            self.context.progress(part + 1, 4, f"page {self.page}")
            await asyncio.sleep(0.2 / self.page)
        return {"page": self.page, "bytes": 1000 * self.page}


@register_task("Broken", max_retries=0)
class Broken(Task):
    """Dies at once."""

    async def run(self) -> None:
        raise ConnectionError("no route to host")


def waiting_in_threads() -> None:
    """`TaskQueue` is for code that blocks, and may be shared between threads."""
    with TaskQueue.connect() as queue:
        print("one:", queue.result(queue.add(Fetch(page=7)), timeout=60))

        try:
            queue.result(queue.add(Broken()), timeout=60)
        except TaskDead as error:
            print("dead:", error)

        later = queue.add(Fetch(page=1), delay=3600)
        try:
            queue.result(later, timeout=0.1)
        except WaitTimeout as error:
            print("late:", error)
        queue.delete(later.id)


async def waiting_in_coroutines() -> None:
    """`AsyncTaskQueue` has the same methods; any number of coroutines wait on one connection."""
    async with AsyncTaskQueue.connect() as queue:
        added = await queue.add_many([Fetch(page=page) for page in range(1, 6)])
        async for task in queue.as_completed(added, timeout=60):
            print("ended:", task.result, task.progress)
        results = await queue.results(added)
        print("in the order asked for:", [result["page"] for result in results])
        assert results == await asyncio.gather(*(queue.result(one) for one in added))


@contextmanager
def a_runner() -> Iterator[None]:
    """Start `taskrunner start runner` with this file's tasks; it drains at the end."""
    here = Path(__file__).resolve()
    environment = {**os.environ, "TASKRUNNER_PROJECT": str(here.parent), "TASKRUNNER_TASKS": here.stem}
    subprocess.run([sys.executable, "-m", "taskrunner", "migrate"], env=environment, check=True)
    runner = subprocess.Popen([sys.executable, "-m", "taskrunner", "start", "runner"], env=environment)
    try:
        yield
    finally:
        runner.terminate()
        runner.wait()


if __name__ == "__main__":
    with a_runner():
        waiting_in_threads()
        asyncio.run(waiting_in_coroutines())
