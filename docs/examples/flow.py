"""Flows: a report of many parts, put together when all are there; a step that fails and is retried where it stopped.

Run it: `DATABASE_URL=postgresql://… python docs/examples/flow.py`. The runner is in this same program only to make one
file of it; it may as well be on another host.
"""

from __future__ import annotations

import asyncio

from taskrunner import AsyncTaskQueue, Task, chain, group, register_task
from taskrunner.access import database
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load

MONTHS = range(1, 13)
mail = {"works": False}


@register_task("Prepare")
class Prepare(Task):
    """Comes first."""

    year: int

    async def run(self) -> int:
        return self.year


@register_task("Month")
class Month(Task):
    """One part; all twelve run side by side."""

    month: int

    async def run(self) -> dict[str, int]:
        return {"month": self.month, "sales": 100 * self.month}


@register_task("Report")
class Report(Task):
    """Runs once, when all parts are there, and reads what they returned."""

    async def run(self) -> int:
        parts = await self.context.parents()
        return sum(part.result["sales"] for part in parts.values())


@register_task("Send", max_retries=0)
class Send(Task):
    """Comes last, and fails at first."""

    async def run(self) -> str:
        if not mail["works"]:
            raise ConnectionError("no route to the mail server")
        (report,) = (await self.context.parents()).values()
        return f"sent: {report.result}"


@register_task("CleanUp")
class CleanUp(Task):
    """Comes after the report, whatever that came to."""

    async def run(self) -> None: ...


async def main() -> None:
    with database(load()) as way:
        async with AsyncTaskQueue.connect(way.url) as queue:
            runner = Runner(way.url, registry, load())
            running = asyncio.create_task(runner.run())

            report = Report()
            ids = await queue.add_flow(
                chain(Prepare(year=2026), group(*(Month(month=month) for month in MONTHS)), report, Send())
            )
            send = ids[-1]
            after = await queue.add(CleanUp(), after=report, on_parent_failure="run")

            print("the report:", await queue.result(report.id, 60))
            print("sending it:", (await queue.wait(send, 60)).state)
            print("clean-up:", (await queue.wait(after, 60)).state)

            mail["works"] = True
            again = await queue.retry_flow(send)
            assert list(again) == [send], "what has succeeded is not run again"
            print("sending it again:", await queue.result(again[send], 60))

            runner.stop()
            await running


if __name__ == "__main__":
    asyncio.run(main())
