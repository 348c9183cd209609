"""An order is charged once and invoiced once, though its first try fails in between.

Run `taskrunner migrate` first, then this file, with DATABASE_URL or with the private server of the project.
The runner is in this same program only to make one file of it; it may as well be on another host.
"""

from __future__ import annotations

import asyncio

import psycopg
from sqlalchemy import text

from taskrunner import AsyncTaskQueue, Task, register_task
from taskrunner.access import database
from taskrunner.registry import registry
from taskrunner.runner import Runner
from taskrunner.settings import load

charged: list[str] = []


@register_task("Order")
class Order(Task):
    customer: str

    async def run(self) -> str:
        payment: str = await self.context.run_once("charge", self.charge)
        if self.tries == 0:
            raise RuntimeError("the printer is on fire")
        async with self.context.session() as session:
            await session.execute(text("INSERT INTO invoice VALUES (:customer)"), {"customer": self.customer})
        return payment  # now the invoice is committed, with the end of the task

    async def charge(self) -> str:
        charged.append(self.customer)  # somebody else's service, in real life
        return f"payment {len(charged)}"

    def next_try(self) -> float:
        return 0.0


async def main() -> None:
    with database(load()) as way:
        with psycopg.connect(way.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS invoice (customer text)")
        runner = Runner(way.url, registry, load())
        running = asyncio.create_task(runner.run())
        async with AsyncTaskQueue.connect(way.url) as queue:
            order = await queue.add(Order(customer="Ada"))
            print("result:", await queue.result(order.id, timeout=30))
        runner.stop()
        await running
        with psycopg.connect(way.url) as connection:
            invoiced = connection.execute("DELETE FROM invoice RETURNING customer").fetchall()
    print("charged:", charged, "invoiced:", invoiced)
    assert charged == ["Ada"]
    assert invoiced == [("Ada",)]


asyncio.run(main())
