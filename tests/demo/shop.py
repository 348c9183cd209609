"""The background work of a small web shop: what the dashboard shows in browser tests and on the screenshots.

A runner imports this file as its project's tasks (TASKRUNNER_TASKS=shop). Nothing here touches the outside world.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from taskrunner import Task, register_task


class CardDeclined(Exception):
    """The bank said no."""


class SupplierDown(Exception):
    """A supplier's server does not answer."""


def _released(hold: str) -> bool:
    return not hold or os.path.exists(os.path.join(os.environ["SHOP_GATES"], hold))  # noqa: PTH110, PTH118 - a loop


@register_task("SendEmail", queue="mail", max_retries=5, timeout=timedelta(seconds=30))
class SendEmail(Task):
    """Send one e-mail."""

    to: str
    subject: str = "Hello"
    template: str = "plain"

    async def run(self) -> dict[str, str]:
        self.context.logger.info("connecting to smtp.example.org")
        self.context.logger.info("accepted: %s", self.subject)
        return {"message_id": f"<{self.id}@shop.example.org>"}


@register_task("ChargeCard", queue="payments", max_retries=0, priority=200)
class ChargeCard(Task):
    """Take the money for an order; `declined` is what the bank answers to bad cards."""

    order: int
    amount: str
    currency: str = "EUR"
    declined: str = ""

    async def run(self) -> dict[str, Any]:
        self.context.logger.info("authorising %s %s for order %s", self.amount, self.currency, self.order)
        if self.declined:
            self.context.logger.error("the bank declined: %s", self.declined)
            raise CardDeclined(f"order {self.order}: {self.declined}")
        return {"authorised": True, "amount": self.amount}


@register_task("ImportCatalog", queue="imports", max_retries=3, timeout=timedelta(minutes=30))
class ImportCatalog(Task):
    """Import a supplier's catalogue; waits, half done, while SHOP_GATES has no file `hold`."""

    supplier: str
    rows: int = 1000
    hold: str = ""

    async def run(self) -> dict[str, int]:
        done = self.rows * 2 // 3
        self.context.progress(done, self.rows, f"{done:,} of {self.rows:,} articles")
        while not _released(self.hold):  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(0.02)
        self.context.progress(self.rows, self.rows, "all articles are in")
        return {"imported": self.rows}


@register_task("SyncStock", timedelta(minutes=5), queue="imports", unique=True, max_retries=2)
class SyncStock(Task):
    """Ask the warehouse what is left."""

    warehouse: str = "Rotterdam"
    down: bool = False

    async def run(self) -> dict[str, int]:
        if self.down:
            raise SupplierDown(f"{self.warehouse}: connection timed out after 10 s")
        return {"articles": 1204}


@register_task("ResizeImage", queue="media")
class ResizeImage(Task):
    """Make an article's thumbnails."""

    article: int
    sizes: list[int] = [160, 640, 1280]  # noqa: RUF012 - pydantic copies it

    async def run(self) -> list[str]:
        return [f"{self.article}-{size}.webp" for size in self.sizes]


@register_task("BuildInvoice", queue="payments")
class BuildInvoice(Task):
    """Put an order's invoice together."""

    order: int

    async def run(self) -> str:
        return f"invoice-{self.order}.pdf"


@register_task("DailyReport", "0 6 * * *", queue="reports", timezone="Europe/Berlin", unique=True)
class DailyReport(Task):
    """Say how yesterday went."""

    async def run(self) -> None:
        self.context.logger.info("report written")


@register_task("PurgeCarts", "30 3 * * sun", queue="reports", timezone="America/New_York", unique=True)
class PurgeCarts(Task):
    """Forget carts that nobody came back for."""

    async def run(self) -> None: ...
