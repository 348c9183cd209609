"""The API as it is served: uvicorn inside a loop that is there already, on a real port."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from taskrunner import schema
from taskrunner.api import serve
from taskrunner.embedded import Cluster
from taskrunner.errors import ConfigError
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.engine import WAIT

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    @register_task("Mail")
    class Mail(Task):
        def run(self) -> None: ...

    return registry


@dataclass
class Served:
    """A running API: its address, its end, and what makes it end."""

    address: str
    ended: asyncio.Task[None]
    stop: asyncio.Event

    async def end(self) -> None:
        """Stop it, and wait until it has ended."""
        self.stop.set()
        await asyncio.wait_for(self.ended, WAIT)


@asynccontextmanager
async def served(registry: Registry, url: str, **settings: Any) -> AsyncIterator[Served]:
    """Serve on a free port of loopback until the block ends."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    chosen = Settings(**{"api_port": 0, **settings})
    ended = asyncio.create_task(serve(chosen, registry, url, stop, listening=listening.set_result))
    await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    if ended.done():
        ended.result()
    yield Served(listening.result(), ended, stop)
    stop.set()
    await ended


async def test_a_task_goes_in_and_comes_out_over_the_wire(types: Registry, taskrunner_db: Database) -> None:
    async with served(types, taskrunner_db.url) as api, httpx.AsyncClient(base_url=api.address) as client:
        added = await client.post("/tasks", json={"task_name": "Mail"})
        assert added.status_code == 201
        shown = await client.get(added.headers["location"])
        assert (shown.json()["type"], shown.json()["state"]) == ("Mail", "pending")
        assert "server" not in shown.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_it_listens_where_the_settings_say(types: Registry, taskrunner_db: Database, host: str) -> None:
    async with served(types, taskrunner_db.url, api_host=host) as api, httpx.AsyncClient() as client:
        assert (await client.get(f"{api.address}/monitor/health")).status_code == 200


async def test_a_port_that_is_taken_is_told_with_the_settings_to_change(types: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}.*TASKRUNNER_API_PORT") as told:
            await serve(Settings(api_port=port), types, "postgresql:///nowhere", asyncio.Event())
    assert "it is taken" in str(told.value)
    assert str(told.value).count(str(port)) == 1


async def test_signals_stay_with_the_process_that_serves(types: Registry, taskrunner_db: Database) -> None:
    """SPEC SHU 44: the child that hosts the API decides what a signal means."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with served(types, taskrunner_db.url):
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_an_idle_api_waits_for_nobody_before_its_end(types: Registry, taskrunner_db: Database) -> None:
    """SPEC SHU 44: connections that are kept alive included."""
    async with served(types, taskrunner_db.url, grace="1h") as api, httpx.AsyncClient(base_url=api.address) as client:
        await client.get("/monitor/stats")
        await api.end()
        with pytest.raises(httpx.TransportError):
            await client.get("/monitor/health")


async def test_it_ends_while_the_database_is_away(types: Registry, tmp_path: Path) -> None:
    """SPEC SHU 44: a request that waits for the database does not hold it up."""
    with Cluster.create(tmp_path, settings={"fsync": "off"}) as cluster:
        schema.migrate(cluster.url())
        async with served(types, cluster.url(), grace="1h") as api, httpx.AsyncClient(base_url=api.address) as client:
            assert (await client.get("/monitor/stats")).status_code == 200
            cluster.kill()
            assert (await client.get("/monitor/health")).status_code == 503
            await api.end()


async def test_a_request_under_way_is_answered_before_the_end(types: Registry, taskrunner_db: Database) -> None:
    """SPEC SHU 44."""
    async with served(types, taskrunner_db.url) as api, httpx.AsyncClient(base_url=api.address) as client:
        id_ = (await client.post("/tasks", json={"type": "Mail"})).json()["id"]
        with psycopg.connect(taskrunner_db.url) as lock:
            lock.execute("SELECT 1 FROM taskrunner.task FOR UPDATE")
            asked = asyncio.create_task(client.post(f"/tasks/{id_}/cancel"))
            await until_waiting(taskrunner_db)
            api.stop.set()
            await refusing(api.address)
            assert not asked.done()
        assert (await asked).json() == {"id": id_, "state": "cancelled"}
        await api.ended


async def test_a_request_that_outlasts_the_grace_period_is_cut_off(
    types: Registry, taskrunner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44."""
    monkeypatch.setattr("taskrunner.api.door.LIMIT", 3600.0)
    async with served(types, taskrunner_db.url, grace="1s") as api, httpx.AsyncClient(base_url=api.address) as client:
        id_ = (await client.post("/tasks", json={"type": "Mail"})).json()["id"]
        with psycopg.connect(taskrunner_db.url) as lock:
            lock.execute("SELECT 1 FROM taskrunner.task FOR UPDATE")
            asked = asyncio.create_task(client.post(f"/tasks/{id_}/cancel"))
            await until_waiting(taskrunner_db)
            await api.end()
        answers = await asyncio.gather(asked, return_exceptions=True)
        assert isinstance(answers[0], httpx.TransportError) or answers[0].status_code >= 500


async def until_waiting(database: Database) -> None:
    """Wait until a session of the API waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'taskrunner api' AND wait_event_type = 'Lock'"
    )
    with database.connect() as tables:
        while tables.execute(query).fetchone() == (0,):  # noqa: ASYNC110 - the outside world tells no event
            await asyncio.sleep(0.02)


async def refusing(address: str) -> None:
    """Wait until the address takes no connections any more."""
    host, port = address.removeprefix("http://").split(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.02)  # the outside world: a socket that closes
