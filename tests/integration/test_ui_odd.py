"""The dashboard and odd requests: whatever an address, a form or a header holds, the answer is never a 500."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.routing import Route

from taskrunner.api import create_app
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.testing.database import Database

pytestmark = pytest.mark.anyio

NAMES = (
    *("back", "q", "type", "queue", "tenant", "name", "actor", "action", "target", "since", "until", "range", "split"),
    *("after", "error", "id", "state", "priority", "at", "delay", "weight", "payload", "key", "rule", "timezone"),
)
ODD = (
    "a\0b",
    "http://[",
    "//[x]/",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "9" * 400,
    "-1",
    "0001-01-01",
)
SAME = {"Sec-Fetch-Site": "same-origin"}


class World:
    """The application on a real database, and its addresses."""

    def __init__(self, app: Any, client: httpx.AsyncClient) -> None:
        self.client = client
        routes = [route for route in app.routes if isinstance(route, Route) and route.path.startswith("/ui")]
        routes = [route for route in routes if route.path not in ("/ui/events", "/ui/static/{name}")]
        self.pages = {
            method: sorted({_path(route) for route in routes if method in (route.methods or ())})
            for method in ("GET", "POST")
        }


def _path(route: Route) -> str:
    path = route.path
    for name in route.param_convertors:
        path = path.replace(f"{{{name}:uuid}}", str(uuid4())).replace(f"{{{name}}}", str(uuid4()))
    return path


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def world(registry: Registry, taskrunner_db: Database) -> AsyncIterator[World]:
    app = create_app(Settings(), registry, taskrunner_db.url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"Accept": "text/html"}) as client,
    ):
        yield World(app, client)


@pytest.mark.parametrize("odd", ODD, ids=ascii)
async def test_no_parameter_of_a_page_is_answered_by_500(world: World, odd: str) -> None:
    """FAULTS F28."""
    assert len(world.pages["GET"]) > 15
    seen = {}
    for path in world.pages["GET"]:
        given = dict.fromkeys(NAMES, odd)
        for params in (given, {"name": odd, "queue": odd, "type": odd, "actor": odd}, {"back": odd}):
            answer = await world.client.get(path, params=params)
            seen[path, str(params)[:20]] = answer.status_code
    assert {place: status for place, status in seen.items() if status >= 500} == {}


@pytest.mark.parametrize("odd", ODD, ids=ascii)
async def test_no_field_of_a_form_is_answered_by_500(world: World, odd: str) -> None:
    """FAULTS F28."""
    assert len(world.pages["POST"]) > 8
    seen = {}
    for path in world.pages["POST"]:
        for fields, params in ((dict.fromkeys(NAMES, odd), {}), ({"back": odd}, {"name": odd, "queue": odd})):
            answer = await world.client.post(path, data=fields, params=params, headers=SAME)
            seen[path, str(params)] = answer.status_code
    assert {place: status for place, status in seen.items() if status >= 500} == {}


@pytest.mark.parametrize("origin", ["http://[", "null", "https://[::1", "http://localhost.evil", "localhost", ""])
async def test_an_origin_that_cannot_be_read_is_a_foreign_one(world: World, origin: str) -> None:
    """FAULTS 4."""
    answer = await world.client.post("/tasks", json={"type": "X"}, headers={"Origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize("place", ["http://[", "http://[x]/ui/", "\\\\x", "//x/ui/"])
async def test_where_one_came_from_may_be_anything(world: World, place: str) -> None:
    answer = await world.client.get("/ui/queues/pause", params={"queue": "mail"}, headers={"HX-Current-URL": place})
    assert answer.status_code == 200
    done = await world.client.post("/ui/queues/pause?queue=mail", data={"back": place}, headers=SAME)
    assert (done.status_code, done.headers["location"]) == (303, "/ui/")


async def test_a_queue_that_no_runner_could_take_from_is_refused(world: World) -> None:
    for verb in ("pause", "resume"):
        answer = await world.client.post(f"/ui/queues/{verb}", params={"queue": "a b"}, headers=SAME, data={"back": ""})
        assert answer.status_code == 422


async def test_the_charts_begin_with_the_calendar_at_the_earliest(world: World) -> None:
    answer = await world.client.get("/ui/", params={"since": "0001-01-01T00:00", "until": "9999-12-31T00:00"})
    assert answer.status_code == 200
