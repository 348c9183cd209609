"""The dashboard's events: what wakes a page, how often at most, and what it costs when nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from taskrunner.api.ui import pulse
from taskrunner.registry import Registry, register_task
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.e2e.test_api_server import Served, served

pytestmark = pytest.mark.anyio

WAIT = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    @register_task("Mail")
    class Mail(Task):
        def run(self) -> None: ...

    return registry


class Page:
    """What a browser's EventSource hears."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def word(self) -> str:
        """Wait for the next event and return its name."""
        async with asyncio.timeout(WAIT):
            async for line in self._lines:
                if line.startswith("event: "):
                    return line.removeprefix("event: ")
        return "the end"


@asynccontextmanager
async def watching(api: Served) -> AsyncIterator[Page]:
    """Open a page; the first word, which every page is told, has been heard."""
    async with (
        httpx.AsyncClient(base_url=api.address, timeout=WAIT) as client,
        client.stream("GET", "/ui/events") as it,
    ):
        assert it.headers["content-type"].startswith("text/event-stream")
        assert it.headers["cache-control"] == "no-store"
        page = Page(it.aiter_lines())
        assert await page.word() == "changed"
        yield page


async def add(api: Served) -> str:
    async with httpx.AsyncClient(base_url=api.address) as client:
        added = await client.post("/tasks", json={"type": "Mail"})
        assert added.status_code == 201
        return str(added.json()["id"])


@pytest.mark.parametrize("listen", [True, False])
async def test_every_page_is_told_of_what_happens(types: Registry, taskrunner_db: Database, listen: bool) -> None:
    """SPEC OPS 48: also where NOTIFY is not to be had."""
    async with served(types, taskrunner_db.url, listen=listen) as api, watching(api) as one, watching(api) as other:
        id_ = await add(api)
        assert [await one.word(), await other.word()] == ["changed"] * 2
        async with httpx.AsyncClient(base_url=api.address) as client:
            await client.post(f"/tasks/{id_}/cancel")
        assert [await one.word(), await other.word()] == ["changed"] * 2


async def test_a_task_that_starts_or_logs_is_told_of(types: Registry, taskrunner_db: Database) -> None:
    """Nothing of it is notified by the database: the stamp alone tells."""
    async with served(types, taskrunner_db.url, listen=False) as api, watching(api) as page:
        id_ = await add(api)
        assert await page.word() == "changed"
        for statement in (
            "UPDATE taskrunner.task SET state = 'running', runner_id = id WHERE id = %s",
            "UPDATE taskrunner.task SET progress = '{\"done\": 1}' WHERE id = %s",
            (
                "INSERT INTO taskrunner.task_log (task_id, claim_no, logged_at, level, message)"
                " SELECT %s, 1, now(), '', ''"
            ),
        ):
            await asyncio.to_thread(execute, taskrunner_db.url, statement, id_)
            assert await page.word() == "changed"


def execute(url: str, statement: str, *values: Any) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(statement, values)


async def test_nobody_watching_costs_no_look_and_no_connection(
    types: Registry, taskrunner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody watches an idle dashboard it is one look each tick, for all browsers together."""
    looks = asyncio.Semaphore(0)
    stamp = pulse.Pulse._stamp

    async def counted(self: pulse.Pulse) -> str:
        looks.release()
        return await stamp(self)

    monkeypatch.setattr(pulse.Pulse, "_stamp", counted)
    monkeypatch.setattr(pulse, "TICK", 0.3)
    monkeypatch.setattr(pulse, "GAP", 0.1)
    async with served(types, taskrunner_db.url) as api:
        async with watching(api), watching(api), watching(api):
            async with asyncio.timeout(WAIT):
                for _ in range(3):
                    await looks.acquire()
            await asyncio.to_thread(until_listening, taskrunner_db.url, 1)
        await asyncio.to_thread(until_listening, taskrunner_db.url, 0)
        while not looks.locked():
            await looks.acquire()
        await asyncio.sleep(1)
        assert looks.locked()


def until_listening(url: str, count: int) -> None:
    """Wait until so many connections listen for the dashboard."""
    asked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'taskrunner api listen' AND datname = current_database()"
    )
    late = time.monotonic() + WAIT
    with psycopg.connect(url, autocommit=True) as conn:
        while conn.execute(asked).fetchone() != (count,):
            assert time.monotonic() < late
            time.sleep(0.05)


async def test_the_server_stops_at_once_though_pages_watch(types: Registry, taskrunner_db: Database) -> None:
    async with served(types, taskrunner_db.url, grace="1h") as api, watching(api) as page:
        await api.end()  # the grace period is for requests that end by themselves
        assert await page.word() == "the end"


async def test_without_a_database_pages_are_told_so_and_stay(types: Registry) -> None:
    async with served(types, "postgresql:///nothing?host=/nowhere") as api, watching(api):
        pass
