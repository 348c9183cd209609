"""The dashboard's pages over HTTP: what they show, what their forms do and note, and who may do it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from taskrunner.api import create_app
from taskrunner.db import connect, run
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.store import runner as runners
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.engine import claim as claim_due

pytestmark = pytest.mark.anyio

RUNNER = UUID("01900000-0000-7000-8000-000000000001")
HOSTILE = "<script>alert(1)</script>\"'&/?#%"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    @register_task("Mail")
    class Mail(Task):
        to: str = "a@b.c"

        def run(self) -> None: ...

    return registry


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(taskrunner_db.url) as connection:
        yield connection


@asynccontextmanager
async def serving(registry: Registry, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(**settings), registry, url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"Accept": "text/html"}) as client,
    ):
        yield client


@pytest.fixture
async def ui(types: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(types, taskrunner_db.url) as client:
        yield client


@pytest.fixture
async def reader(types: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody whose token may read only."""
    async with serving(types, taskrunner_db.url, api_tokens="eve:read:eves-own-secret") as client:
        client.auth = httpx.BasicAuth("", "eves-own-secret")
        yield client


async def shown(ui: httpx.AsyncClient, url: str, status: int = 200) -> str:
    """Return a page's HTML."""
    answer = await ui.get(url)
    assert answer.status_code == status, answer.text
    return answer.text


def words(text: str) -> str:
    """Return what a page says."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def figure(text: str, name: str) -> str:
    found = re.search(rf'id="figure-{name}">(.*?)</dd>', text, re.DOTALL)
    assert found, name
    return words(found[1])


async def confirmed(ui: httpx.AsyncClient, url: str, **fields: str) -> httpx.Response:
    """Open the page that asks, and send its form as it stands, with these fields filled in."""
    asked = await shown(ui, url)
    form = re.search(r'<form class="form panel".*?</form>', asked, re.DOTALL)
    assert form, asked
    action = re.search(r'action="([^"]*)"', form[0])
    hidden = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', form[0]))
    assert action
    sent = {name: html.unescape(value) for name, value in hidden.items()} | fields
    return await ui.post(html.unescape(action[1]), data=sent)


def audited(conn: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    return conn.execute("SELECT actor, action, target FROM taskrunner.audit ORDER BY id").fetchall()


def join(conn: psycopg.Connection[Any], *types: str, kind: str = "runner", lease: float = 60) -> UUID:
    process = runners.Process(RUNNER, kind, "host-1", 4711, ("default",), types or ("Mail",), 5, "0.1")
    return run(conn, runners.join(process, timedelta(seconds=lease)))[0]


def ended(conn: psycopg.Connection[Any], count: int, outcome: str = "succeeded", type_: str = "Mail") -> None:
    histogram = [0, 0, 0, count] + [0] * 9
    conn.execute(
        "INSERT INTO taskrunner.task_stats"
        " VALUES (date_trunc('minute', now()), %s, 'default', 'default', %s, %s, %s, 1, 1, %s, %s)",
        [RUNNER, type_, outcome, count, histogram, histogram],
    )


# ── overview ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_project_is_told_what_to_type_first(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    said = words(await shown(ui, "/ui/"))
    assert "Nothing has run here yet" in said
    assert "taskrunner init && taskrunner start all" in said
    assert "No runner is alive" in said
    join(conn)
    said = words(await shown(ui, "/ui/"))
    assert "taskrunner enqueue Mail --wait" in said
    assert "No runner is alive" not in said


async def test_the_overview_shows_what_waits_runs_and_ended(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    """SPEC OPS 49."""
    for _ in range(3):
        await ui.post("/tasks", json={"type": "Mail"})
    claim_due(conn, join(conn), 1, ["Mail"])
    ended(conn, 7)
    ended(conn, 2, "retried")
    ended(conn, 1, "dead")
    page = await shown(ui, "/ui/")
    assert [figure(page, name) for name in ("due", "running", "pending", "runners", "tick")] == [
        "2", "1", "2", "1", "none",
    ]  # fmt: skip
    said = words(page)
    assert "Ended tasks 8 ended" in said
    assert "2 tried again, 1 dead: 30 % of all runs" in said
    assert "Waiting time half within 30ms" in said
    data = json.loads(html.unescape(re.search(r"id=\"chart-throughput\" data-chart='([^']*)'", page)[1]))  # type: ignore[index]
    assert {one["label"]: sum(one["values"]) for one in data["series"]} == {"succeeded": 7, "dead": 1}
    assert len(data["x"]) == 61
    table = re.search(r'id="table-failures">(.*?)</details>', page, re.DOTALL)
    assert table
    assert re.search(r"<th scope=\"row\"[^>]*>[^<]*</th><td class=\"num\">2</td><td class=\"num\">1</td>", table[1])


@pytest.mark.parametrize("split", ["type", "queue"])
async def test_the_charts_are_split_and_narrowed_by_their_address(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any], split: str
) -> None:
    ended(conn, 5)
    ended(conn, 4, type_=HOSTILE)
    page = await shown(ui, f"/ui/?split={split}&range=24h")
    assert "<script>alert" not in page
    assert "9 ended" in words(page)
    narrowed = re.search(r'<th scope="row"><a href="([^"]*)">', page)
    assert narrowed
    assert f"{5 if split == 'type' else 9} ended" in words(await shown(ui, html.unescape(narrowed[1])))


@pytest.mark.parametrize("query", ["range=2h", "split=tenant", "since=yesterday", "since=2026-01-02&until=2026-01-01"])
async def test_an_address_that_makes_no_sense_says_so(ui: httpx.AsyncClient, query: str) -> None:
    page = await shown(ui, f"/ui/?{query}", 422)
    assert query.partition("=")[0] in words(page) or "not after its begin" in words(page)


async def test_a_time_of_ones_own_is_read_as_utc(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    ended(conn, 5)
    page = await shown(ui, "/ui/?since=2026-01-01T00:00&until=2026-01-01T06:00")
    assert "2026-01-01 00:00:00 UTC to 2026-01-01 07:00:00 UTC, in steps of 60m" in words(page)
    assert "Nothing has ended in this time" in words(page)
