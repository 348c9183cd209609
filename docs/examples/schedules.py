"""Schedules that users make: a report by mail for each tenant, changed, paused and removed while everything runs.

Run `taskrunner migrate` first, then this file, with DATABASE_URL or with the private server of the project.
The runner and the scheduler are in this same program only to make one file of it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from taskrunner import AsyncTaskQueue, Task, register_task
from taskrunner.access import database
from taskrunner.errors import Conflict, PayloadInvalid
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.scheduler import Scheduler
from taskrunner.settings import load

sent: list[tuple[str, str]] = []
twice = asyncio.Event()


@register_task("SendReport")
class SendReport(Task):
    """Sends a tenant's report."""

    to: str
    pages: int = 1

    async def run(self) -> None:
        sent.append((self.tenant, self.to))
        if sent.count(("acme", "ada@example.org")) >= 2:
            twice.set()


async def main() -> None:
    with database(load()) as way:
        async with AsyncTaskQueue.connect(way.url) as queue:
            await look_ahead(queue)
            await make(queue)
            runner, scheduler = Runner(way.url, registry, load()), Scheduler(way.url, registry, load())
            running = [asyncio.create_task(runner.run()), asyncio.create_task(scheduler.run())]
            await asyncio.wait_for(twice.wait(), 30)
            await steer(queue)
            runner.stop()
            scheduler.stop()
            await asyncio.gather(*running)


async def look_ahead(queue: AsyncTaskQueue) -> None:
    """Show what a rule comes to, before anything is stored: here where the clocks go back."""
    october = datetime(2026, 10, 24, tzinfo=UTC)
    dues = await queue.schedules.preview("30 2 * * *", 3, after=october, timezone="Europe/Warsaw")
    print("half past two in Warsaw:", ", ".join(f"{due:%d %H:%M} UTC" for due in dues))
    assert [due.hour for due in dues] == [0, 0, 1]


async def make(queue: AsyncTaskQueue) -> None:
    """Store one schedule for each tenant; what cannot work is refused now, not when it is due."""
    report = SendReport(to="ada@example.org")
    await queue.schedules.add("report", report, timedelta(seconds=0.5), tenant="acme", replace=True)
    nightly = await queue.schedules.add(
        "report", SendReport(to="bob@example.org"), ["0 3 * * *", "0 15 * * *"],
        timezone="America/New_York", tenant="globex", jitter=timedelta(minutes=5), replace=True,
    )  # fmt: skip
    print("globex:", nightly.description, "next at", nightly.next_tick_at)
    try:
        await queue.schedules.add("typo", "SendReport", 60, payload={"too": "ada@example.org"})
    except PayloadInvalid as error:
        print("refused:", error)
    try:
        await queue.schedules.add("report", report, 60, tenant="acme")
    except Conflict as error:
        print("refused:", error)


async def steer(queue: AsyncTaskQueue) -> None:
    """Change, pause, run by hand, resume, remove."""
    schedules = queue.schedules
    changed = await schedules.change("report", tenant="acme", frequency="@daily", task=SendReport(to="cy@example.org"))
    assert changed.next_tick_at is not None
    assert (await schedules.pause("report", tenant="acme")).paused
    by_hand = await schedules.run("report", tenant="acme")
    await queue.result(by_hand.id, 30)
    assert ("acme", "cy@example.org") in sent
    resumed = await schedules.resume("report", tenant="acme")
    assert not resumed.paused
    for tenant in ("acme", "globex"):
        await schedules.remove("report", tenant=tenant)
        assert await schedules.list(tenant=tenant) == []
    print(f"{resumed.ticks} ticks, and one by hand: {len(sent)} reports")


if __name__ == "__main__":
    asyncio.run(main())
