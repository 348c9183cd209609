"""The API where people steer: schedules, queues, dead letters, flows; and the trail that each action leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from taskrunner.api import create_app
from taskrunner.db import connect, run
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.store import runner as runners
from taskrunner.store import task as store
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.engine import claim as claim_due

pytestmark = pytest.mark.anyio

TOKENS = "grafana:read:reading,ada:write:writing"
READING, WRITING = ({"Authorization": f"Bearer {secret}"} for secret in ("reading", "writing"))
NOWHERE = "postgresql:///nothing?host=/nowhere"
RUNNER = UUID("01900000-0000-7000-8000-000000000001")
NIGHTLY = {"name": "nightly", "type": "Report", "frequency": "0 3 * * *", "timezone": "Europe/Warsaw"}

READS = ["/schedules", "/schedules/nightly", "/schedules/nightly/next", "/schedule-preview?frequency=30", "/queues"]
READS += ["/runners", "/dead-letters", f"/dead-letters/{UUID(int=1)}", "/audit"]
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/schedules", NIGHTLY),
    ("PATCH", "/schedules/nightly", {"jitter": 5}),
    ("DELETE", "/schedules/nightly", None),
    ("POST", "/schedules/nightly/pause", None),
    ("POST", "/schedules/nightly/resume", None),
    ("POST", "/schedules/nightly/run", None),
    ("POST", "/queues/mail/pause", None),
    ("POST", "/queues/mail/resume", None),
    ("PATCH", "/queues/mail", {"fair": True}),
    ("POST", "/dead-letters", {"action": "delete", "ids": [str(UUID(int=1))]}),
    ("POST", f"/dead-letters/{UUID(int=1)}/requeue", None),
    ("DELETE", f"/dead-letters/{UUID(int=1)}", None),
    ("POST", f"/tasks/{UUID(int=1)}/cancel?flow=true", None),
    ("POST", f"/tasks/{UUID(int=1)}/retry?flow=true", None),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    @register_task("Report", aliases=("OldReport",))
    class Report(Task):
        day: str = "today"

        def run(self) -> None: ...

    return registry


@asynccontextmanager
async def serving(registry: Registry, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(**settings), registry, url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.fixture
async def api(types: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(types, taskrunner_db.url, api_tokens=TOKENS) as client:
        client.headers.update(WRITING)
        yield client


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(taskrunner_db.url) as connection:
        yield connection


async def add(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post("/tasks", json={"type": "Report", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def bury(conn: psycopg.Connection[Any]) -> str:
    """Let the next due task die."""
    process = runners.Process(RUNNER, "runner", "host", 1, ("default",), ("Report",), 5, "0.1")
    run(conn, runners.join(process, timedelta(minutes=1)))
    claimed = claim_due(conn, RUNNER, 1, ("Report",))[0]
    error = '[{"message": "no luck", "traceback": ""}]'
    run(conn, store.bury(RUNNER, [store.Ending(claimed.id, claimed.claim_no, detail=error)]))
    return str(claimed.id)


async def dead(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> str:
    await add(api)
    return bury(conn)


async def trail(api: httpx.AsyncClient, **wanted: Any) -> list[tuple[str, str, str]]:
    """Return what was noted: who, what, to which thing, the newest first."""
    entries = (await api.get("/audit", params=wanted)).json()["entries"]
    return [(entry["actor"], entry["action"], entry["target"]) for entry in entries]


def check_problem(answer: httpx.Response, status: int, words: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert words in answer.json()["detail"]


# Schedules


async def test_a_schedule_is_added_shown_changed_paused_run_and_removed(api: httpx.AsyncClient) -> None:
    made = await api.post("/schedules", json={**NIGHTLY, "payload": {"day": "sunday"}, "jitter": "5m"})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/schedules/nightly"
    assert (made.json()["jitter"], made.json()["timezone"]) == ("PT5M", "Europe/Warsaw")
    assert (await api.get("/schedules/nightly")).json() == made.json()
    assert (await api.get("/schedules")).json() == {"schedules": [made.json()], "next": None}

    changed = await api.patch("/schedules/nightly", json={"frequency": ["6h", "0 4 * * *"], "jitter": None})
    assert (changed.status_code, changed.json()["jitter"]) == (200, None)
    assert changed.json()["payload"] == {"day": "sunday"}
    assert (await api.post("/schedules/nightly/pause")).json()["paused"] is True
    assert (await api.post("/schedules/nightly/resume")).json()["paused"] is False
    ran = await api.post("/schedules/nightly/run")
    assert (ran.status_code, ran.json()["created"]) == (201, True)
    assert (await api.get(ran.headers["location"])).json()["payload"] == {"day": "sunday"}
    assert (await api.delete("/schedules/nightly")).status_code == 204
    check_problem(await api.get("/schedules/nightly"), 404, "no schedule 'nightly'")

    noted = ["remove", "run", "resume", "pause", "change", "add"]
    assert await trail(api) == [("api:ada", f"schedule.{verb}", "nightly") for verb in noted]


async def test_schedules_belong_to_tenants(api: httpx.AsyncClient) -> None:
    made = await api.post("/schedules", json={**NIGHTLY, "name": "each night?"}, params={"tenant": "ac/me"})
    assert made.headers["location"] == "/schedules/each%20night%3F?tenant=ac%2Fme"
    assert (await api.get(made.headers["location"])).json() == made.json()
    check_problem(await api.get("/schedules/each%20night%3F"), 404)
    assert (await api.get("/schedules?tenant=default")).json()["schedules"] == []
    (entry,) = (await api.get("/audit")).json()["entries"]
    assert entry["tenant"] == "ac/me"


async def test_schedules_come_in_pages_that_do_not_shift_while_they_tick(api: httpx.AsyncClient) -> None:
    """One whose next tick moves behind all the others does not come again; the header has the next page's address."""
    for name in ("f%2F", "e", "c & d", "b", "a/ä"):
        await api.post("/schedules", json={**NIGHTLY, "frequency": "1h", "name": name}, params={"tenant": "ac/me"})
    await api.post("/schedules", json={**NIGHTLY, "name": "a"}, params={"tenant": "other"})
    seen, url = [], "/schedules?tenant=ac/me&limit=2"
    while url:
        answer = await api.get(url)
        seen.append([one["name"] for one in answer.json()["schedules"]])
        assert (answer.json()["next"] is None) == ("next" not in answer.links)
        url = answer.links.get("next", {}).get("url", "")
        changed = await api.patch("/schedules/b?tenant=ac/me", json={"start_at": "2999-01-01T00:00:00Z"})
        assert changed.status_code == 200
    assert [sorted(page) for page in seen] == [["a/ä", "b"], ["c & d", "e"], ["f%2F"]]
    whole = (await api.get("/schedules?limit=1000")).json()["schedules"]
    assert len(whole) == 6
    assert [one["next_tick_at"] for one in whole] == sorted(one["next_tick_at"] for one in whole)
    assert whole[-1]["name"] == "b"
    assert (await api.get("/schedules", params={"after": "zz/"})).json() == {"schedules": [], "next": None}
    check_problem(await api.get("/schedules?after=%2500"), 422, "NUL")
    check_problem(await api.get("/schedules?tenat=x"), 422, "did you mean 'tenant'?")


async def test_the_next_ticks_are_in_both_zones(api: httpx.AsyncClient) -> None:
    await api.post("/schedules", json=NIGHTLY)
    ahead = (await api.get("/schedules/nightly/next?count=3")).json()
    assert len(ahead["ticks"]) == 3
    assert {instant[11:19] for instant in ahead["local"]} == {"03:00:00"}
    asked = {"frequency": ["0 3 * * *", "0 4 * * *"], "timezone": "Europe/Warsaw", "since": "2026-03-28T20:00:00Z"}
    preview = (await api.get("/schedule-preview", params={**asked, "count": 2})).json()
    assert preview["ticks"] == ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]  # the clocks went forward
    assert preview["local"] == ["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"]
    assert len((await api.get("/schedule-preview?frequency=5m", headers=READING)).json()["ticks"]) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frequency": "every day"}, ""),
        ({"frequency": "61 * * * *"}, ""),
        ({"frequency": []}, ""),
        ({"frequency": True}, "must be seconds"),
        ({"frequency": -1}, ""),
        ({"frequency": 0}, ""),
        ({"frequency": None}, "must be seconds"),
        ({"frequency": {"hours": 1}}, "must be seconds"),
        ({"timezone": "Europe/Atlantis"}, "Atlantis"),
        ({"type": "Nothing"}, "Nothing"),
        ({"name": ""}, "name"),
        ({"name": "nul\0"}, "name"),
        ({"key": "nul\0"}, "key"),
        ({"queue": "nul\0"}, "queue"),
        ({"jitter": "soon"}, "jitter"),
        ({"jitter": 1e300}, "jitter"),
        ({"catch_up": "never"}, "catch_up"),
        ({"priority": 2**31}, "priority"),
        ({"payload": []}, "payload"),
        ({"start_at": "2026-03-01T08:00:00"}, "start_at"),
        ({"start_at": "2026-03-02T00:00:00Z", "end_at": "2026-03-01T00:00:00Z"}, "end_at"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_a_bad_schedule_is_refused_whole(api: httpx.AsyncClient, wrong: dict[str, Any], words: str) -> None:
    check_problem(await api.post("/schedules", json={**NIGHTLY, **wrong}), 422, words)
    assert (await api.get("/schedules")).json()["schedules"] == []
    assert await trail(api) == []


async def test_a_name_that_is_taken_and_an_empty_change_are_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/schedules", json=NIGHTLY)).status_code == 201
    check_problem(await api.post("/schedules", json=NIGHTLY), 409, "nightly")
    assert (await api.post("/schedules", json={**NIGHTLY, "replace": True})).status_code == 201
    check_problem(await api.patch("/schedules/nightly", json={}), 422, "nothing to change")
    check_problem(await api.patch("/schedules/nightly", json={"timezone": None}), 422, "timezone")
    assert [action for _, action, _ in await trail(api)] == ["schedule.add", "schedule.add"]


# Queues and runners


async def test_queues_are_listed_paused_resumed_and_tuned(api: httpx.AsyncClient) -> None:
    await add(api, queue="mail")
    assert (await api.post("/queues/mail/pause")).json() == {"name": "mail", "paused": True}
    assert (await api.post("/queues/mail/resume")).json() == {"name": "mail", "paused": False}
    tuned = await api.patch("/queues/mail", json={"fair": True, "weights": {"acme": 3, "corp": 2}})
    assert tuned.json() == {"name": "mail", "fair": True, "weights": {"acme": 3, "corp": 2}, "settled": True}
    (queue,) = (await api.get("/queues")).json()["queues"]
    assert (queue["name"], queue["fair"], queue["weights"]) == ("mail", True, {"acme": 3, "corp": 2})
    assert (queue["pending"], queue["paused"]) == (1, False)
    assert (await api.patch("/queues/mail", json={"fair": False})).json()["settled"] is True
    noted = ["fair", "weight", "weight", "fair", "resume", "pause"]
    assert await trail(api, action="queue") == [("api:ada", f"queue.{verb}", "mail") for verb in noted]


async def test_a_queue_that_cannot_be_settled_says_so(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.api.turns.PATIENCE", 0.1)
    await add(api)
    with conn.transaction():
        conn.execute("UPDATE taskrunner.task SET priority = 7")
        tuned = await api.patch("/queues/default", json={"fair": True})
    assert tuned.json()["settled"] is False
    assert (await api.patch("/queues/default", json={"fair": True})).json()["settled"] is True


@pytest.mark.parametrize(
    "wrong", [{}, {"weights": {"acme": 0}}, {"weights": {"acme": 1001}}, {"weights": {"": 2}}, {"fair": "yes"}]
)
async def test_a_bad_tuning_is_refused_whole(api: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    check_problem(await api.patch("/queues/mail", json={"fair": True, **wrong} if wrong else wrong), 422)
    assert (await api.get("/queues")).json() == {"queues": []}
    assert await trail(api) == []


@pytest.mark.parametrize("name", ["two%20words", "a:b", "a,b", "nul%00", "x" * 201])
async def test_what_cannot_be_a_queue_is_refused(api: httpx.AsyncClient, name: str) -> None:
    for verb in ("pause", "resume"):
        check_problem(await api.post(f"/queues/{name}/{verb}"), 422)
    check_problem(await api.patch(f"/queues/{name}", json={"fair": True}), 422)


async def test_runners_are_listed(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    await dead(api, conn)
    (runner,) = (await api.get("/runners")).json()["runners"]
    assert (runner["id"], runner["alive"], runner["types"]) == (str(RUNNER), True, ["Report"])


# Dead letters


async def test_a_dead_letter_is_shown_requeued_and_deleted(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    first, second = await dead(api, conn), await dead(api, conn)
    shown = (await api.get(f"/dead-letters/{first}")).json()
    assert (shown["state"], shown["errors"][0]["message"], shown["requeued_as"]) == ("dead", "no luck", None)
    requeued = await api.post(f"/dead-letters/{first}/requeue")
    assert requeued.json()["requeued_from"] == first
    assert (await api.get(requeued.headers["location"])).json()["state"] == "pending"
    check_problem(await api.post(f"/dead-letters/{first}/requeue"), 409)
    assert (await api.delete(f"/dead-letters/{second}")).status_code == 204
    check_problem(await api.get(f"/dead-letters/{second}"), 404)
    check_problem(await api.delete(f"/dead-letters/{second}"), 404)
    assert (await api.get("/dead-letters")).json()["dead_letters"] == []
    listed = (await api.get("/dead-letters?requeued=true")).json()["dead_letters"]
    assert [letter["requeued_as"] for letter in listed] == [requeued.json()["id"]]
    assert await trail(api) == [("api:ada", "dead.delete", second), ("api:ada", "dead.requeue", first)]


async def test_dead_letters_are_listed_by_pages_which_are_linked(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    ids = [await dead(api, conn) for _ in range(3)]
    url, seen = "/dead-letters?limit=2&type=Report", []
    while url:
        page = await api.get(url)
        seen += [letter["id"] for letter in page.json()["dead_letters"]]
        url = page.links.get("next", {}).get("url", "")
    assert seen == ids[::-1]
    assert (await api.get("/dead-letters?type=Nothing")).json() == {"dead_letters": [], "next": None}
    assert len((await api.get("/dead-letters?q=type:Report since:1h")).json()["dead_letters"]) == 3
    check_problem(await api.get("/dead-letters?q=state:pending"), 422, "state:pending")
    check_problem(await api.get("/dead-letters?state=dead"), 422, "state")
    check_problem(await api.get("/dead-letters?limit=1001"), 422, "limit")


async def test_several_dead_letters_are_steered_each_for_itself(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    first, second, nobody = await dead(api, conn), await dead(api, conn), str(uuid4())
    order = {"action": "requeue", "ids": [first, first, nobody]}
    done = (await api.post("/dead-letters", json=order)).json()
    assert (list(done["requeued"]), [each["id"] for each in done["refused"]]) == ([first], [nobody])
    deleted = (await api.post("/dead-letters", json={"action": "delete", "ids": [second, nobody]})).json()
    assert (deleted["deleted"], [each["id"] for each in deleted["refused"]]) == ([second], [nobody])
    assert [each[1:] for each in await trail(api)] == [("dead.delete", second), ("dead.requeue", first)]
    for ids in ([], [first] * 501, ["1"]):
        check_problem(await api.post("/dead-letters", json={"action": "requeue", "ids": ids}), 422, "ids")


# Tasks and flows


async def test_what_is_done_to_tasks_is_noted_with_who_did_it(
    api: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    ids = [await add(api) for _ in range(4)]
    await api.post(f"/tasks/{ids[0]}/cancel")
    await api.post(f"/tasks/{ids[1]}/retry")
    await api.patch(f"/tasks/{ids[2]}", json={"scheduled_at": "2100-01-01T00:00:00Z"})
    await api.delete(f"/tasks/{ids[3]}")
    check_problem(await api.delete(f"/tasks/{ids[3]}"), 409)
    verbs = ["cancel", "reschedule", "retry", "cancel"]  # a DELETE cancels
    expected = [("api:ada", f"task.{verb}", id_) for verb, id_ in zip(verbs, ids[::-1], strict=True)]
    assert await trail(api) == expected
    assert await trail(api, target=ids[1]) == [expected[2]]
    assert await trail(api, action="task.cancel", actor="api:ada") == [expected[0], expected[3]]
    assert await trail(api, actor="api:bob") == []
    assert await trail(api, since=(datetime.now(UTC) + timedelta(days=1)).isoformat()) == []


async def test_the_trail_is_listed_by_pages_which_are_linked(api: httpx.AsyncClient) -> None:
    for _ in range(3):
        await api.post("/queues/mail/pause")
    first = await api.get("/audit?limit=2")
    second = await api.get(first.links["next"]["url"])
    assert [len(page.json()["entries"]) for page in (first, second)] == [2, 1]
    assert second.json()["next"] is None
    for wrong in ("after=-1", "after=x", "limit=0", "since=yesterday", "since=1", "actor=%00", "colour=red"):
        check_problem(await api.get(f"/audit?{wrong}"), 422)


async def test_a_whole_flow_is_cancelled_and_retried(api: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    alone = await add(api)
    cancelled = await api.post(f"/tasks/{alone}/cancel?flow=true")
    assert cancelled.json() == {"outcomes": {alone: "cancelled"}}
    check_problem(await api.post(f"/tasks/{alone}/cancel?flow=true"), 409)
    buried = await dead(api, conn)
    retried = (await api.post(f"/tasks/{buried}/retry?flow=true")).json()
    assert list(retried["requeued"]) == [buried]
    assert [action for _, action, _ in await trail(api)] == ["flow.retry", "flow.cancel"]


async def test_where_no_token_is_set_the_trail_names_this_machine(types: Registry, taskrunner_db: Database) -> None:
    async with serving(types, taskrunner_db.url) as api:
        await api.post("/queues/mail/pause")
        assert await trail(api) == [("api:local", "queue.pause", "mail")]


# What every one of these paths refuses


async def test_what_is_read_needs_a_token_and_what_is_written_one_that_may_write(types: Registry) -> None:
    async with serving(types, NOWHERE, api_tokens=TOKENS) as api:
        for path in READS:
            check_problem(await api.get(path), 401)
        for method, path, body in WRITES:
            check_problem(await api.request(method, path, json=body), 401)
            check_problem(await api.request(method, path, json=body, headers=READING), 403, "grafana may only read")
            foreign = {**WRITING, "Sec-Fetch-Site": "cross-site"}
            check_problem(await api.request(method, path, json=body, headers=foreign), 403, "another origin")


async def test_a_token_for_reading_reads_everything(
    api: httpx.AsyncClient, types: Registry, taskrunner_db: Database
) -> None:
    await api.post("/schedules", json=NIGHTLY)
    for path in READS:
        assert (await api.get(path, headers=READING)).status_code in (200, 404), path


async def test_without_a_database_each_of_them_is_503(types: Registry) -> None:
    async with serving(types, NOWHERE) as api:
        answers = [await api.get(READS[0])]
        answers += [await api.request(method, path, json=body) for method, path, body in (WRITES[1], WRITES[6])]
    for answer in answers:
        check_problem(answer, 503)
        assert answer.headers["retry-after"] == "5"


async def test_bodies_must_be_json_and_methods_those_of_the_path(types: Registry) -> None:
    async with serving(types, NOWHERE) as api:
        for method, path, body in WRITES:
            if body is not None:
                check_problem(await api.request(method, path, content=b"{}"), 415)
                broken = await api.request(method, path, content=b"{", headers={"Content-Type": "application/json"})
                check_problem(broken, 422)
        for path in (*READS, "/schedules/nightly/pause", "/queues/mail"):
            refused = await api.put(path.partition("?")[0])
            check_problem(refused, 405)
            assert refused.headers["allow"]
