"""The HTTP API against a real database: what its paths answer, what they refuse, and in which words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import AsyncTaskQueue, reads, schema
from taskrunner.api import create_app
from taskrunner.api.body import MAX_BODY
from taskrunner.db import connect, run
from taskrunner.embedded import Cluster
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.states import State
from taskrunner.store import log as log_store
from taskrunner.store import runner as runners
from taskrunner.store import task as store
from taskrunner.store.log import Line
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.engine import WAIT
from tests.engine import claim as claim_due

pytestmark = pytest.mark.anyio

TOKEN = "correct-horse"  # noqa: S105 - a test's own
NOWHERE = "postgresql:///nothing?host=/nowhere"
LATER = datetime(2100, 1, 1, tzinfo=UTC)
RUNNER = UUID("01900000-0000-7000-8000-000000000001")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    """Three task types as a project would declare them."""

    @register_task("SendEmail", queue="mail", max_retries=5)
    class SendEmail(Task):
        to: str
        size: int = 0

        def run(self) -> None: ...

    @register_task("Anything", aliases=("Whatever",))
    class Anything(Task):
        value: Any = None

        def run(self) -> None: ...

    @register_task("Only", unique=True)
    class Only(Task):
        def run(self) -> None: ...

    return registry


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(taskrunner_db.url) as connection:
        yield connection


@asynccontextmanager
async def serving(registry: Registry, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Open the application and lend a client that speaks to it as to http://localhost."""
    app = create_app(Settings(**settings), registry, url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.fixture
async def api(types: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(types, taskrunner_db.url) as client:
        yield client


@pytest.fixture
async def offline(types: Registry) -> AsyncIterator[httpx.AsyncClient]:
    """The API without a database: for what must be refused before one is asked."""
    async with serving(types, NOWHERE) as client:
        yield client


async def add(api: httpx.AsyncClient, **fields: Any) -> str:
    """Add a task and return its id."""
    answer = await api.post("/tasks", json={"type": "Anything", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def claim(conn: psycopg.Connection[Any], *types: str) -> store.Claimed:
    """Claim the next task as a runner whose lease lasts."""
    process = runners.Process(RUNNER, "runner", "host", 1, ("default",), types or ("Anything",), 5, "0.1")
    run(conn, runners.join(process, timedelta(minutes=1)))
    return claim_due(conn, RUNNER, 1, types or ("Anything",))[0]


def finish(conn: psycopg.Connection[Any], claimed: store.Claimed) -> None:
    ending = store.Ending(claimed.id, claimed.claim_no, 0.1, 0.1, "succeeded", '{"done": true}')
    run(conn, store.cycle(store.Cycle(RUNNER, [ending])))


def bury(conn: psycopg.Connection[Any], claimed: store.Claimed) -> None:
    error = '[{"message": "no luck", "traceback": ""}]'
    run(conn, store.bury(RUNNER, [store.Ending(claimed.id, claimed.claim_no, detail=error)]))


def check_problem(answer: httpx.Response, status: int, slug: str = "") -> dict[str, Any]:
    """Check that the response is a problem of RFC 9457 and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= set(body)
    assert body["status"] == status
    assert body["type"] == (f"urn:taskrunner:problem:{slug}" if slug else "about:blank")
    assert body["instance"] == answer.request.url.path
    return body


# Adding


async def test_a_task_is_added_with_the_defaults_of_its_type(api: httpx.AsyncClient) -> None:
    """SPEC ENQ 7."""
    answer = await api.post("/tasks", json={"type": "SendEmail", "payload": {"to": "a@b.c"}})
    assert answer.status_code == 201
    assert answer.json() == {"id": answer.json()["id"], "created": True}
    assert answer.headers["location"] == f"/tasks/{answer.json()['id']}"
    shown = (await api.get(answer.headers["location"])).json()
    assert (shown["type"], shown["queue"], shown["priority"], shown["state"]) == ("SendEmail", "mail", 100, "pending")
    assert shown["payload"] == {"to": "a@b.c", "size": 0}


async def test_every_option_reaches_the_row(api: httpx.AsyncClient) -> None:
    """SPEC ENQ 7."""
    id_ = await add(
        api, payload={"value": 1}, maturity_at=LATER.isoformat(), priority=-5, max_retries=0, queue="slow", key="k"
    )
    shown = (await api.get(f"/tasks/{id_}")).json()
    assert (shown["priority"], shown["queue"], shown["maturity_at"]) == (-5, "slow", "2100-01-01T00:00:00Z")


async def test_both_spellings_mean_the_same(api: httpx.AsyncClient) -> None:
    answer = await api.post("/tasks", json={"task_name": "Anything", "scheduled_at": "2100-01-01T01:00:00+01:00"})
    shown = (await api.get(answer.headers["location"])).json()
    assert (shown["type"], shown["maturity_at"]) == ("Anything", "2100-01-01T00:00:00Z")
    agreeing = {"task_name": "Anything", "type": "Anything", "scheduled_at": LATER.isoformat()}
    assert (await api.post("/tasks", json={**agreeing, "maturity_at": "2100-01-01T00:00:00Z"})).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"type": "Anything", "task_name": "SendEmail"},
        {"type": "Anything", "maturity_at": "2100-01-01T00:00:00Z", "scheduled_at": "2100-01-01T00:00:01Z"},
    ],
)
async def test_two_spellings_with_different_values_are_refused(
    offline: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    problem = check_problem(await offline.post("/tasks", json=body), 422, "invalid-request")
    assert "give one of them" in problem["detail"]


async def test_an_alias_adds_a_task_of_the_present_name(api: httpx.AsyncClient) -> None:
    """SPEC REG 6."""
    assert (await api.get(f"/tasks/{await add(api, type='Whatever')}")).json()["type"] == "Anything"


async def test_numbers_come_back_exactly(api: httpx.AsyncClient) -> None:
    """SPEC ENQ 8."""
    value = {"big": 2**53 + 1, "bigger": -(10**30), "whole": 1e22, "part": 0.1, "text": "zażółć 🐍", "deep": [[[{}]]]}
    id_ = await add(api, payload={"value": value})
    shown = await api.get(f"/tasks/{id_}")
    assert json.loads(shown.text, parse_float=Decimal)["payload"]["value"]["bigger"] == -(10**30)
    assert shown.json()["payload"]["value"] == value


async def test_a_payload_of_a_megabyte_is_taken(api: httpx.AsyncClient) -> None:
    """SPEC ENQ 8."""
    value = "é" * 500_000
    assert (await api.get(f"/tasks/{await add(api, payload={'value': value})}")).json()["payload"]["value"] == value


async def test_a_key_that_is_taken_answers_with_the_live_task(api: httpx.AsyncClient) -> None:
    """SPEC UNQ 13, 15."""
    first = await add(api, key="once")
    again = await api.post("/tasks", json={"type": "Anything", "key": "once"})
    assert (again.status_code, again.json()) == (201, {"id": first, "created": False})
    only = await add(api, type="Only")
    assert (await api.post("/tasks", json={"type": "Only"})).json() == {"id": only, "created": False}


async def test_a_key_that_is_taken_is_replaced_or_an_error_where_that_is_said(api: httpx.AsyncClient) -> None:
    """SPEC UNQ 15."""
    id_ = await add(api, key="once", priority=1)
    body = {"type": "Anything", "key": "once", "priority": 7}
    answer = await api.post("/tasks", json=body | {"on_conflict": "replace"})
    assert (answer.status_code, answer.json()) == (201, {"id": id_, "created": False})
    assert (await api.get(f"/tasks/{id_}")).json()["priority"] == 7
    answer = await api.post("/tasks", json=body | {"on_conflict": "error"})
    assert id_ in check_problem(answer, 409, "conflict")["detail"]
    answer = await api.post("/tasks", json={"type": "Anything", "on_conflict": "replace"})
    assert "needs key" in check_problem(answer, 422, "invalid-argument")["detail"]
    answer = await api.post("/tasks", json=body | {"on_conflict": "no"})
    assert check_problem(answer, 422, "invalid-request")["errors"][0]["field"] == "body.on_conflict"


@pytest.mark.parametrize("place", ["body", "header"])
async def test_an_idempotency_key_answers_with_the_first_task(api: httpx.AsyncClient, place: str) -> None:
    """SPEC UNQ 16."""
    first = await add(api, idempotency_key="order-7")
    headers = {"Idempotency-Key": "order-7"} if place == "header" else {}
    body = {"type": "Anything"} | ({"idempotency_key": "order-7"} if place == "body" else {})
    assert (await api.post("/tasks", json=body, headers=headers)).json() == {"id": first, "created": False}


async def test_two_different_idempotency_keys_are_refused(offline: httpx.AsyncClient) -> None:
    body = {"type": "Anything", "idempotency_key": "a"}
    answer = await offline.post("/tasks", json=body, headers={"Idempotency-Key": "b"})
    assert check_problem(answer, 422, "invalid-request")["errors"][0]["field"] == "header.Idempotency-Key"


async def test_an_unknown_type_is_refused_with_near_names(offline: httpx.AsyncClient) -> None:
    """SPEC ENQ 12."""
    problem = check_problem(await offline.post("/tasks", json={"type": "SendMail"}), 422, "unknown-type")
    assert "did you mean 'SendEmail'" in problem["detail"]


@pytest.mark.parametrize(
    ("payload", "field"),
    [({}, "body.payload.to"), ({"to": 1}, "body.payload.to"), ({"to": "a", "cc": "b"}, "body.payload.cc")],
)
async def test_a_payload_that_does_not_fit_is_refused_with_its_path(
    offline: httpx.AsyncClient, payload: dict[str, Any], field: str
) -> None:
    """SPEC ENQ 8."""
    problem = check_problem(
        await offline.post("/tasks", json={"type": "SendEmail", "payload": payload}), 422, "payload-invalid"
    )
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(
    "text", ['"\\u0000"', '"\\ud800"', "NaN", "Infinity", "1e999", '{"\\ud800": 1}', '{"a\\u0000": 1}']
)
async def test_what_cannot_be_stored_is_refused(offline: httpx.AsyncClient, text: str) -> None:
    """SPEC ENQ 8."""
    content = f'{{"type": "Anything", "payload": {{"value": {text}}}}}'
    check_problem(
        await offline.post("/tasks", content=content, headers={"content-type": "application/json"}),
        422,
        "payload-invalid",
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"type": ""}, "body"),
        ({"type": 5}, "body.type"),
        ({"type": "Anything", "payload": []}, "body.payload"),
        ({"type": "Anything", "priority": "7"}, "body.priority"),
        ({"type": "Anything", "priority": True}, "body.priority"),
        ({"type": "Anything", "priority": 2**31}, "body.priority"),
        ({"type": "Anything", "max_retries": -1}, "body.max_retries"),
        ({"type": "Anything", "key": "k" * 256}, "body.key"),
        ({"type": "Anything", "key": ""}, "body.key"),
        ({"type": "Anything", "paylod": {}}, "body.paylod"),
        ({"type": "Anything", "maturity_at": 60}, "body.maturity_at"),
        ({"type": "Anything", "maturity_at": "60"}, "body.maturity_at"),
        ({"type": "Anything", "maturity_at": "2100-01-01T00:00:00"}, "body.maturity_at"),
        ({"type": "Anything", "scheduled_at": "9999-12-31T23:59:59-14:00"}, "body.scheduled_at"),
    ],
)
async def test_a_wrong_field_is_named(offline: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    problem = check_problem(await offline.post("/tasks", json=body), 422, "invalid-request")
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("name", ["queue", "key", "idempotency_key", "type"])
async def test_a_nul_character_is_refused_everywhere(offline: httpx.AsyncClient, name: str) -> None:
    """SPEC ENQ 8."""
    answer = await offline.post("/tasks", json={"type": "Anything", name: "a\0b"})
    assert answer.status_code == 422, answer.text
    assert (await offline.get("/tasks", params={"type": "a\0b"})).status_code == 422


async def test_the_ends_of_time_can_be_written_and_read(api: httpx.AsyncClient) -> None:
    for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        id_ = await add(api, maturity_at=at)
        assert (await api.get(f"/tasks/{id_}")).json()["maturity_at"] == at


async def test_a_form_is_no_json(offline: httpx.AsyncClient) -> None:
    answer = await offline.post("/tasks", content='{"type": "Anything"}', headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in check_problem(answer, 415)["detail"]


@pytest.mark.parametrize("content", ['{"type": ', "", "[" * 100_000, "\xff"])
async def test_a_body_that_cannot_be_read_is_refused(offline: httpx.AsyncClient, content: str) -> None:
    answer = await offline.post(
        "/tasks", content=content.encode("latin-1"), headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "place"), [('{"type": ', "line 1, column 10"), ('{\n  "type": Mail\n}', "line 2, column 11")]
)
async def test_a_body_that_is_no_json_is_told_with_its_line_and_column(
    offline: httpx.AsyncClient, content: str, place: str
) -> None:
    answer = await offline.post("/tasks", content=content, headers={"content-type": "application/json"})
    (error,) = check_problem(answer, 422, "invalid-request")["errors"]
    assert error == {"field": "body", "detail": f"is no JSON: Expecting value, at {place}"}


async def test_a_body_beyond_the_limit_is_refused(offline: httpx.AsyncClient) -> None:
    content = json.dumps({"type": "Anything", "payload": {"value": "x" * MAX_BODY}})
    headers = {"content-type": "application/json"}
    check_problem(await offline.post("/tasks", content=content, headers=headers), 413)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 2**20

    check_problem(await offline.post("/tasks", content=chunks(), headers=headers), 413)


# Looking


async def test_a_task_is_shown_with_its_parents_and_children(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    parent, child = await add(api), await add(api)
    conn.execute("INSERT INTO taskrunner.dependency (parent_id, child_id) VALUES (%s, %s)", (parent, child))
    shown = [(await api.get(f"/tasks/{id_}")).json() for id_ in (parent, child)]
    assert [(task["parents"], task["children"]) for task in shown] == [([], [child]), ([parent], [])]


async def test_of_very_many_children_the_first_are_shown_and_all_are_counted(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    parent = await add(api)
    conn.execute(
        "INSERT INTO taskrunner.dependency (parent_id, child_id)"
        " SELECT %s, gen_random_uuid() FROM generate_series(1, 600)",
        [parent],
    )
    shown = (await api.get(f"/tasks/{parent}")).json()
    assert (len(shown["children"]), shown["children_count"], shown["parents_count"]) == (500, 600, 0)
    assert shown["children"] == sorted(shown["children"])
    assert "After it come 600 tasks: 500 that are read, and 100 more." in (await api.get(f"/ui/tasks/{parent}")).text


async def test_a_task_is_shown_in_every_state(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49: the fields of `tasks show`."""
    done, dead = await add(api), await add(api)
    finish(conn, claim(conn))
    bury(conn, claim(conn))
    shown = (await api.get(f"/tasks/{done}")).json()
    assert (shown["state"], shown["result"]) == ("succeeded", {"done": True})
    buried = (await api.get(f"/tasks/{dead}")).json()
    assert (buried["state"], buried["errors"][0]["message"]) == ("dead", "no luck")
    assert list(shown) == [
        "id", "type", "queue", "tenant", "state", "priority", "payload", "tries", "crashes", "maturity_at",
        "created_at", "started_at", "finished_at", "runner_id", "errors", "result", "progress", "meta",
        "parents", "children", "parents_count", "children_count",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")]
)
async def test_an_unknown_id_is_not_found_and_a_malformed_one_is_invalid(
    api: httpx.AsyncClient, method: str, path: str
) -> None:
    body = {"maturity_at": LATER.isoformat()} if method == "PATCH" else None
    unknown = await api.request(method, f"/tasks/{uuid7()}{path}", json=body)
    assert "no task" in check_problem(unknown, 404, "not-found")["detail"]
    malformed = check_problem(await api.request(method, f"/tasks/42{path}", json=body), 422, "invalid-request")
    assert malformed["errors"][0]["field"] == "path.id"


async def test_pages_follow_each_other_by_their_links(api: httpx.AsyncClient) -> None:
    """SPEC OPS 49: stable keyset cursors."""
    ids = [await add(api, queue="here") for _ in range(5)]
    await add(api, queue="there")
    seen: list[str] = []
    path: str | None = "/tasks?queue=here&limit=2"
    while path:
        page = await api.get(path)
        seen += [task["id"] for task in page.json()["tasks"]]
        path = page.links["next"]["url"] if "next" in page.links else None
        assert (page.json()["next"] is None) == (path is None)
        assert path is None or page.json()["next"] in path
    assert seen == ids[::-1]


async def test_a_page_with_nothing_on_it_says_where_to_go_on(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC OPS 49, SPEED 12."""
    monkeypatch.setattr(reads, "list_tasks", partial(reads.list_tasks, room=2))
    mail = await add(api, type="SendEmail", payload={"to": "a"})
    for _ in range(5):
        await add(api)
    url, pages = "/tasks?queue=mail", []
    while True:
        answer = await api.get(url)
        pages.append([task["id"] for task in answer.json()["tasks"]])
        assert ("next" in answer.links) == (answer.json()["next"] is not None)
        if not answer.links:
            break
        url = answer.links["next"]["url"]
    assert pages[0] == []
    assert [id_ for page in pages for id_ in page] == [mail]


async def test_filters_narrow_the_list(api: httpx.AsyncClient, taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    await add(api)
    taskrunner_db.travel(timedelta(days=1))
    mail = await add(api, type="SendEmail", payload={"to": "a"})
    await api.delete(f"/tasks/{mail}")
    since = (taskrunner_db.now() - timedelta(hours=1)).isoformat()
    for wanted in ({"state": "cancelled"}, {"type": "SendEmail"}, {"queue": "mail"}, {"since": since}):
        assert [task["id"] for task in (await api.get("/tasks", params=wanted)).json()["tasks"]] == [mail], wanted
    assert (await api.get("/tasks", params={"tenant": "acme"})).json() == {"tasks": [], "next": None}


@pytest.mark.parametrize(
    "wanted",
    [{"state": "failed"}, {"limit": 0}, {"limit": 1001}, {"after": "x"}, {"since": "2026-01-01T00:00:00"}, {"stat": 1}],
)
async def test_a_filter_that_makes_no_sense_is_named(offline: httpx.AsyncClient, wanted: dict[str, Any]) -> None:
    problem = check_problem(await offline.get("/tasks", params=wanted), 422, "invalid-request")
    assert problem["errors"][0]["field"] == f"query.{next(iter(wanted))}"


@pytest.mark.parametrize(("wrong", "right"), [("task_name", "type"), ("stat", "state"), ("querystring", "known: ")])
async def test_a_filter_that_there_is_not_is_told_by_the_name_that_is_meant(
    offline: httpx.AsyncClient, wrong: str, right: str
) -> None:
    problem = check_problem(await offline.get("/tasks", params={wrong: "Mail"}), 422, "invalid-request")
    assert problem["errors"][0]["field"] == f"query.{wrong}"
    assert "there is no such parameter" in problem["detail"]
    assert right in problem["detail"]


# Steering


async def test_a_pending_task_is_rescheduled_and_others_are_a_conflict(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    """SPEC OPS 48."""
    id_ = await add(api)
    for name in ("scheduled_at", "maturity_at"):
        moved = await api.patch(f"/tasks/{id_}", json={name: LATER.isoformat()})
        assert (moved.status_code, moved.json()["maturity_at"]) == (200, "2100-01-01T00:00:00Z")
    await api.patch(f"/tasks/{id_}", json={"maturity_at": "2020-01-01T00:00:00Z"})
    claim(conn)
    problem = check_problem(await api.patch(f"/tasks/{id_}", json={"maturity_at": LATER.isoformat()}), 409, "conflict")
    assert "running" in problem["detail"]
    check_problem(await api.patch(f"/tasks/{id_}", json={}), 422, "invalid-request")


async def test_a_pending_task_is_deleted_once(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 48."""
    id_ = await add(api)
    gone = await api.delete(f"/tasks/{id_}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.get(f"/tasks/{id_}")).json()["state"] == "cancelled"
    assert "cancelled" in check_problem(await api.delete(f"/tasks/{id_}"), 409, "conflict")["detail"]
    running = await add(api)
    claim(conn)
    assert "running" in check_problem(await api.delete(f"/tasks/{running}"), 409, "conflict")["detail"]


async def test_cancelling_a_running_task_asks_its_runner(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 48."""
    id_ = await add(api)
    claimed = claim(conn)
    asked = await api.post(f"/tasks/{id_}/cancel")
    assert (asked.status_code, asked.json()) == (202, {"id": id_, "state": "running"})
    assert run(conn, store.cancel_requests(RUNNER)) == [claimed.id]
    finish(conn, claimed)
    assert "succeeded" in check_problem(await api.post(f"/tasks/{id_}/cancel"), 409, "conflict")["detail"]


async def test_cancelling_a_pending_task_ends_it(api: httpx.AsyncClient) -> None:
    """SPEC OPS 48."""
    id_ = await add(api)
    ended = await api.post(f"/tasks/{id_}/cancel")
    assert (ended.status_code, ended.json()) == (200, {"id": id_, "state": "cancelled"})


async def test_retrying_makes_a_pending_task_due_and_requeues_a_dead_one(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    """SPEC OPS 48, RTY 32."""
    id_ = await add(api, maturity_at=LATER.isoformat())
    assert (await api.post(f"/tasks/{id_}/retry")).json() == {"id": id_, "state": "pending"}
    bury(conn, claim(conn))
    again = await api.post(f"/tasks/{id_}/retry")
    assert again.status_code == 200
    assert again.json()["id"] != id_
    assert (await api.get(again.headers["location"])).json()["state"] == State.PENDING
    check_problem(await api.post(f"/tasks/{id_}/retry"), 409, "conflict")


# Monitoring


async def test_a_healthy_api_says_ok(api: httpx.AsyncClient) -> None:
    """SPEC OPS 50."""
    answer = await api.get("/monitor/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_it_is_ready_once_a_runner_is_alive_and_not_when_its_lease_has_ended(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any], taskrunner_db: Database
) -> None:
    """SPEC OPS 50."""
    problem = check_problem(await api.get("/monitor/ready"), 503)
    assert "no runner is alive" in problem["detail"]
    await add(api)
    claim(conn)
    answer = await api.get("/monitor/ready")
    assert (answer.status_code, answer.json()) == (
        200, {"status": "ok", "database_schema": schema.head(), "runners": 1}
    )  # fmt: skip
    taskrunner_db.travel(timedelta(minutes=2))
    check_problem(await api.get("/monitor/ready"), 503)


async def test_it_is_healthy_but_not_ready_without_a_schema(types: Registry, taskrunner_db: Database) -> None:
    """SPEC OPS 50."""
    schema.downgrade(taskrunner_db.url)
    async with serving(types, taskrunner_db.url) as api:
        assert (await api.get("/monitor/health")).status_code == 200
        for path in ("/monitor/ready", "/tasks", "/monitor/stats"):
            assert "taskrunner migrate" in check_problem(await api.get(path), 503, "schema-behind")["detail"]


async def test_stats_count_every_state(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49: zero-filled states."""
    await add(api)
    await add(api)
    await add(api, maturity_at=LATER.isoformat())
    finish(conn, claim(conn))
    assert (await api.get("/monitor/stats")).json() == {
        "pending": 2, "due": 1, "running": 0, "blocked": 0, "retrying": 0,
        "succeeded": 1, "ignored": 0, "cancelled": 0, "dead": 0,
    }  # fmt: skip


# Errors of HTTP itself


async def test_unknown_paths_and_methods_are_problems(offline: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/tasks/", "/docs/nothing.js", "/docs/../app.py"):
        check_problem(await offline.get(path), 404)
    refused = await offline.put("/tasks", json={})
    check_problem(refused, 405)
    assert set(refused.headers["allow"].split(", ")) == {"GET", "POST"}


async def test_an_unexpected_error_is_told_without_its_insides(types: Registry, taskrunner_db: Database) -> None:
    with taskrunner_db.connect() as tables:
        tables.execute("ALTER TABLE taskrunner.task ADD CONSTRAINT secret_rule CHECK (priority < 1000)")
    async with serving(types, taskrunner_db.url) as api:
        answer = await api.post("/tasks", json={"type": "Anything", "priority": 5000})
    problem = check_problem(answer, 500)
    assert "secret" not in answer.text
    assert "log" in problem["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


# Security


async def test_with_a_token_only_health_is_open(types: Registry, taskrunner_db: Database) -> None:
    async with serving(types, taskrunner_db.url, api_token=TOKEN) as api:
        assert (await api.get("/monitor/health")).status_code == 200
        for path in ("/tasks", "/monitor/ready", "/monitor/stats", "/docs", "/openapi.json", "/nothing"):
            refused = await api.get(path)
            check_problem(refused, 401)
            assert refused.headers["www-authenticate"] == 'Bearer realm="taskrunner"'
        assert (await api.get("/tasks", headers={"Authorization": f"bearer {TOKEN}"})).status_code == 200
        assert (await api.post("/tasks", json={"type": "Anything"})).status_code == 401


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff", f"Bearer {TOKEN} x"]
)
async def test_any_other_token_is_refused(types: Registry, given: str) -> None:
    async with serving(types, NOWHERE, api_token=TOKEN) as api:
        refused = await api.get("/tasks", headers={"Authorization": given.encode("latin-1")})
        check_problem(refused, 401)
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


METRICS = ["text/plain", "application/openmetrics-text"]
TOKENS = "grafana:read:reading,ada:write:writing"


@pytest.mark.parametrize("path", ["/docs", "/tasks", "/nothing"])
async def test_a_browser_is_asked_for_a_password_which_is_a_token(types: Registry, path: str) -> None:
    async with serving(types, NOWHERE, api_tokens=TOKENS) as api:
        browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        for authorization in (None, ("ada", "wrong")):
            refused = await api.get(path, headers=browser, auth=authorization)
            check_problem(refused, 401)
            assert refused.headers["www-authenticate"] == 'Basic realm="taskrunner", charset="UTF-8"'
        assert (await api.get("/docs", headers=browser, auth=("anybody", "reading"))).status_code == 200
        for junk in ("Basic", "Basic !!", "Basic YWRh", "Basic \xff"):
            answer = await api.get("/docs", headers={**browser, "Authorization": junk.encode("latin-1")})
            check_problem(answer, 401)


async def test_a_token_that_may_only_read_changes_nothing(types: Registry, taskrunner_db: Database) -> None:
    async with serving(types, taskrunner_db.url, api_tokens=TOKENS, api_token=TOKEN) as api:
        reading, writing = ({"Authorization": f"Bearer {secret}"} for secret in ("reading", "writing"))
        body = {"type": "Anything"}
        id_ = (await api.post("/tasks", json=body, headers=writing)).json()["id"]
        assert (await api.get(f"/tasks/{id_}", headers=reading)).status_code == 200
        for method, path in (("POST", "/tasks"), ("DELETE", f"/tasks/{id_}"), ("POST", f"/tasks/{id_}/cancel")):
            refused = await api.request(method, path, json=body, headers=reading)
            assert "grafana may only read" in check_problem(refused, 403)["detail"]
        assert (await api.get(f"/tasks/{id_}", headers=reading)).json()["state"] == "pending"
        assert (await api.post("/tasks", json=body, headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 201


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("127.0.0.9", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_on_loopback_a_foreign_host_name_is_refused(types: Registry, host: str, status: int) -> None:
    async with serving(types, NOWHERE, api_host="127.0.0.9") as api:
        assert (await api.get("/docs", headers={"Host": host})).status_code == status


async def test_off_loopback_the_token_protects_under_any_name(types: Registry, taskrunner_db: Database) -> None:
    async with serving(types, taskrunner_db.url, api_host="0.0.0.0", api_token=TOKEN) as api:  # noqa: S104
        headers = {"Host": "tasks.example", "Authorization": f"Bearer {TOKEN}"}
        assert (await api.get("/tasks", headers=headers)).status_code == 200
        assert (await api.get("/tasks", headers={"Host": "tasks.example"})).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_a_foreign_page_may_not_write(api: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    assert (await api.post("/tasks", json={"type": "Anything"}, headers=headers)).status_code == status
    assert (await api.get("/tasks", headers=headers)).status_code == 200


async def test_every_response_tells_browsers_to_be_careful(offline: httpx.AsyncClient) -> None:
    for path in ("/monitor/health", "/nothing", "/docs", "/docs/docs.js", "/openapi.json"):
        headers = (await offline.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


# The description


async def test_the_docs_need_no_foreign_host(offline: httpx.AsyncClient) -> None:
    page = await offline.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    for path in ("swagger-ui.css", "swagger-ui-bundle.js", "docs.js", "favicon.png"):
        assert f"docs/{path}" in page.text
        assert (await offline.get(f"/docs/{path}")).status_code == 200


async def test_what_a_task_has_logged_comes_page_by_page(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    id_ = await add(api)
    run(conn, log_store.keep([Line(UUID(id_), "default", 1, 1.0, "info", f"{number}") for number in range(5)]))
    seen, url = [], f"/tasks/{id_}/log?limit=2"
    while url:
        answer = await api.get(url)
        seen += [line["message"] for line in answer.json()["lines"]]
        url = answer.links.get("next", {}).get("url", "")
    assert seen == list("01234")
    assert (await api.get(f"/tasks/{UUID(int=7)}/log")).status_code == 404
    assert (await api.get(f"/tasks/{id_}/log?limit=0")).status_code == 422


async def test_the_description_names_every_path_and_its_errors(offline: httpx.AsyncClient) -> None:
    described = (await offline.get("/openapi.json")).json()
    paths = {path: set(operations) for path, operations in described["paths"].items()}
    assert (
        paths.items()
        >= {
            "/tasks": {"get", "post"},
            "/tasks/{id}": {"get", "patch", "delete"},
            "/tasks/{id}/cancel": {"post"},
            "/tasks/{id}/retry": {"post"},
            "/tasks/{id}/log": {"get"},
            "/tasks/{id}/why": {"get"},
            "/doctor": {"get"},
            "/monitor/health": {"get"},
            "/monitor/ready": {"get"},
            "/monitor/stats": {"get"},
        }.items()
    )
    for operations in described["paths"].values():
        for operation in operations.values():
            assert operation["operationId"].islower()
            assert operation["tags"]
            for status, response in operation["responses"].items():
                normal = METRICS if operation["operationId"] == "metrics" else ["application/json"]
                expected = ["application/problem+json"] if status >= "400" else normal
                assert list(response.get("content", dict.fromkeys(expected))) == expected


async def test_the_reference_page_names_every_operation(offline: httpx.AsyncClient) -> None:
    paths = (await offline.get("/openapi.json")).json()["paths"]
    described = {f"`{method.upper()} {path}`" for path, operations in paths.items() for method in operations}
    page = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
    named = set(re.findall(r"^\| (`[A-Z]+ /\S*`) \|", page.read_text(encoding="utf-8"), re.M))
    assert named == described


# Without a database


async def test_while_the_database_is_away_it_answers_503_and_recovers_by_itself(
    types: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36, OPS 50: it has less patience with a database than other doors."""
    monkeypatch.setattr(AsyncTaskQueue, "patience", 3600)
    with Cluster.create(tmp_path, settings={"fsync": "off"}) as cluster:
        schema.migrate(cluster.url())
        cluster.stop()
        async with serving(types, cluster.url()) as api:
            await check_away(api)
            cluster.start()
            await found_again(api)
            id_ = await add(api)
            cluster.kill()
            await check_away(api)
            cluster.start()
            await found_again(api)
            assert (await api.get(f"/tasks/{id_}")).json()["state"] == "pending"


async def test_a_lock_fails_the_requests_that_wait_for_it_and_not_the_health(
    api: httpx.AsyncClient, taskrunner_db: Database
) -> None:
    """SPEC OPS 50: all connections of the pool wait, and the database is there."""
    with psycopg.connect(taskrunner_db.url) as lock:
        lock.execute("LOCK TABLE taskrunner.task IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(WAIT):  # the lock is there until all are answered
            answers = await asyncio.gather(*(api.get("/tasks") for _ in range(10)), api.get("/monitor/health"))
        assert [answer.status_code for answer in answers] == [503] * 10 + [200]
    assert (await api.get("/tasks")).status_code == 200


async def check_away(api: httpx.AsyncClient) -> None:
    for path in ("/monitor/health", "/tasks"):
        async with asyncio.timeout(WAIT):
            answer = await api.get(path)
        problem = check_problem(answer, 503, "database-unreachable")
        assert "socket" not in problem["detail"]
        assert answer.headers["retry-after"] == "5"


async def found_again(api: httpx.AsyncClient) -> None:
    """Wait until the database is found again, by the probe and by the pool."""
    async with asyncio.timeout(WAIT):
        for path in ("/monitor/health", "/tasks"):
            while (await api.get(path)).status_code != 200:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.05)  # the outside world: a server that starts
