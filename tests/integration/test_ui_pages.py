"""The dashboard's pages over HTTP: what they show, what their forms do and note, and who may do it."""

from __future__ import annotations

import asyncio
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
from taskrunner.api import kept as keeping
from taskrunner.api.kept import Kept
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
    app.state.kept = Kept(times=0)  # what the database has changed by itself is seen at once
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


# ── queues ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_queue_is_paused_and_resumed_by_a_form_that_is_noted(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    await ui.post("/tasks", json={"type": "Mail"})
    page = await shown(ui, "/ui/queues")
    assert "/ui/queues/pause?queue=default" in page
    asked = await shown(ui, "/ui/queues/pause?queue=default")
    assert "taskrunner queues pause default" in words(asked)
    done = await confirmed(ui, "/ui/queues/pause?queue=default&back=/ui/queues")
    assert (done.status_code, done.headers["location"]) == (303, "/ui/queues")
    said = words(await shown(ui, "/ui/queues"))
    assert "Queue default is paused." in said
    assert re.search(r"paused \d+m?s ago", said) or re.search(r"paused 0\.\d+s ago", said)
    await confirmed(ui, "/ui/queues/resume?queue=default")
    assert "badge paused" not in await shown(ui, "/ui/queues")
    assert audited(conn) == [("ui:local", "queue.pause", "default"), ("ui:local", "queue.resume", "default")]


async def test_a_queue_becomes_fair_with_weights_and_ordinary_again(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    await ui.post("/tasks", json={"type": "Mail"})
    await confirmed(ui, "/ui/queues/fair?fair=on&queue=default")
    await confirmed(ui, "/ui/queues/weight?queue=default", tenant="acme", weight="3")
    assert "acme: 3 a round" in words(await shown(ui, "/ui/queues"))
    await confirmed(ui, "/ui/queues/fair?fair=off&queue=default")
    assert "by priority" in words(await shown(ui, "/ui/queues"))
    assert [action for _, action, _ in audited(conn)] == ["queue.fair", "queue.weight", "queue.fair"]
    refused = await confirmed(ui, "/ui/queues/weight?queue=default", tenant="acme", weight="many")
    assert refused.status_code == 422
    assert 'value="acme"' in refused.text
    assert re.search(r'name="weight" value="many"[^>]*aria-invalid', refused.text), "it is there to be mended"


async def test_names_are_nothing_but_text_on_every_page(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """FAULTS 4."""
    name = HOSTILE.replace(" ", "")
    await ui.post("/tasks", json={"type": "Mail", "queue": name})
    done = await confirmed(ui, f"/ui/queues/pause?{httpx.QueryParams(queue=name)}&back=/ui/queues")
    assert done.status_code == 303
    fields = {"name": name, "task": "Mail", "frequency": "1h", "timezone": "UTC"}
    added = await ui.post("/ui/schedules/new", data=fields)
    assert added.status_code == 303, words(added.text)
    join(conn)
    conn.execute("UPDATE taskrunner.runner SET host = %s, version = %s, queues = %s", [HOSTILE, HOSTILE, [HOSTILE]])
    for url in ("/ui/queues", "/ui/schedules", added.headers["location"], "/ui/runners", "/ui/audit", "/ui/"):
        page = await shown(ui, url)
        assert "<script>alert" not in page
    for verb in ("pause", "resume", "run", "remove"):
        done = await confirmed(ui, f"/ui/schedules/{verb}?{httpx.QueryParams(name=name)}")
        assert done.status_code == 303, words(done.text)


# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def add_schedule(ui: httpx.AsyncClient, **fields: str) -> httpx.Response:
    given = {"name": "nightly", "task": "Mail", "frequency": "0 3 * * *", "timezone": "Europe/Warsaw", **fields}
    return await ui.post("/ui/schedules/new", data=given)


async def test_a_schedule_is_added_shown_changed_and_removed(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    assert "No schedule" in words(await shown(ui, "/ui/schedules"))
    assert 'name="frequency"' in await shown(ui, "/ui/schedules/new")
    added = await add_schedule(ui, payload='{"to": "x@y.z"}', jitter="5m")
    assert added.headers["location"] == "/ui/schedules/show?name=nightly&tenant=default"
    said = words(await shown(ui, added.headers["location"]))
    assert "Schedule nightly is added." in said
    assert "taskrunner schedules add" in said
    assert '"to": "x@y.z"' in said
    assert "Coming ticks" in said
    assert len(re.findall(r"\b03:00:00 \+0[12]00", said)) == 10
    form = await shown(ui, "/ui/schedules/change?name=nightly")
    assert "Left empty, it stays" in form
    sent = {
        "task": "Mail", "frequency": "", "timezone": "Europe/Warsaw", "payload": '{\n  "to": "x@y.z"\n}',
        "catch_up": "skip", "jitter": "", "key": "", "queue": "slow", "priority": "7", "start_at": "", "end_at": "",
    }  # fmt: skip
    assert (await ui.post("/ui/schedules/change?name=nightly", data=sent)).status_code == 303
    row = conn.execute("SELECT catch_up, jitter, queue, priority, trigger FROM taskrunner.schedule").fetchone()
    assert row is not None
    assert row[:4] == ("skip", None, "slow", 7)
    assert "0 3 * * *" in row[4]
    changed = conn.execute(
        "SELECT details->'changed' FROM taskrunner.audit WHERE action = 'schedule.change'"
    ).fetchone()
    assert changed == (["catch_up", "jitter", "priority", "queue"],)
    done = await confirmed(ui, "/ui/schedules/remove?name=nightly")
    assert done.headers["location"] == "/ui/schedules"
    assert conn.execute("SELECT count(*) FROM taskrunner.schedule").fetchone() == (0,)


async def test_many_schedules_come_in_pages(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    await add_schedule(ui, tenant="acme")
    assert "Pages of the list" not in await shown(ui, "/ui/schedules")
    conn.execute(
        "INSERT INTO taskrunner.schedule (id, name, type, tenant, trigger, next_tick_at, created_at)"
        " SELECT gen_random_uuid(), 'n' || lpad(n::text, 3, '0'), 'Mail', 'acme', 'interval 3600',"
        " now() - n * '1 s'::interval, now() FROM generate_series(1, 100) n"
    )
    first = await shown(ui, "/ui/schedules?tenant=acme")
    assert first.count("data-schedule=") == 100
    assert first.index('data-schedule="n099"') < first.index('data-schedule="n001"'), "the next to tick is the first"
    link = re.search(r'rel="next" href="([^"]+)"', first)
    assert link
    last = await shown(ui, html.unescape(link[1]))
    assert re.findall(r'data-schedule="([^"]+)"', last) == ["nightly"]
    assert 'href="/ui/schedules?tenant=acme">First' in last
    assert "No further schedule" in await shown(ui, "/ui/schedules?after=zz/")


async def test_a_schedule_is_paused_resumed_and_run_now(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    await add_schedule(ui)
    for verb in ("pause", "run", "resume"):
        asked = await shown(ui, f"/ui/schedules/{verb}?name=nightly&tenant=default")
        assert f"taskrunner schedules {verb} nightly" in words(asked)
        done = await confirmed(ui, f"/ui/schedules/{verb}?name=nightly&tenant=default&back=/ui/schedules")
        assert done.headers["location"] == "/ui/schedules"
        page = words(await shown(ui, "/ui/schedules"))
        assert (" paused " in page) == (verb != "resume")
    assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (1,)
    assert [action for _, action, _ in audited(conn)] == [
        "schedule.add", "schedule.pause", "schedule.run", "schedule.resume",
    ]  # fmt: skip
    said = words(await shown(ui, "/ui/schedules/show?name=nightly"))
    assert "What people did to it" in said


async def test_the_coming_ticks_are_shown_before_a_schedule_is_stored_and_clock_changes_are_marked(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    looked = await add_schedule(ui, frequency="0 12 * 3,10 sun", look="1")
    assert looked.status_code == 200
    said = words(looked.text)
    assert "It would tick" in said
    assert "clocks went forward 1 h" in said
    assert conn.execute("SELECT count(*) FROM taskrunner.schedule").fetchone() == (0,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"frequency": "0 25 * * *"}, "hour"),
        ({"frequency": ""}, "when?"),
        ({"task": "Mial"}, "Mail"),
        ({"task": ""}, "which task type"),
        ({"name": ""}, "name"),
        ({"timezone": "Europe/Warsow"}, "Warsaw"),
        ({"payload": "{"}, "JSON"),
        ({"priority": "high"}, "priority"),
        ({"jitter": "soon"}, "jitter"),
        ({"start_at": "2026-02-31T00:00"}, "start at"),
    ],
)
async def test_a_form_that_cannot_be_stored_comes_back_with_the_reason_and_what_was_typed(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any], fields: dict[str, str], reason: str
) -> None:
    refused = await add_schedule(ui, **fields, key="kept as typed")
    assert refused.status_code == 422
    alert = re.search(r'role="alert">(.*?)</div>', refused.text, re.DOTALL)
    assert alert
    assert reason in words(alert[1])
    assert 'value="kept as typed"' in refused.text
    assert conn.execute("SELECT count(*) FROM taskrunner.schedule").fetchone() == (0,)


async def test_a_schedule_that_is_not_there_is_a_page_that_says_so(ui: httpx.AsyncClient) -> None:
    assert "no schedule 'gone'" in words(await shown(ui, "/ui/schedules/show?name=gone", 404))
    await shown(ui, "/ui/schedules/show", 404)
    await shown(ui, "/ui/queues/pause", 404)


# ── runners, audit, system ───────────────────────────────────────────────────────────────────────────────────────────


async def test_each_runner_shows_its_load_its_lease_and_what_it_runs(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    assert "taskrunner start all" in words(await shown(ui, "/ui/runners"))
    for _ in range(12):
        await ui.post("/tasks", json={"type": "Mail"})
    claim_due(conn, join(conn), 12, ["Mail"])
    conn.execute("UPDATE taskrunner.runner SET running = 12, slots = 16")
    page = await shown(ui, "/ui/runners")
    assert page.count('href="/ui/tasks/') == 10
    assert "12 of 16" in words(page)
    assert "all 12" in words(page)
    conn.execute("UPDATE taskrunner.runner SET lease_until = now() - interval '1 minute'")
    said = words(await shown(ui, "/ui/runners"))
    assert "dead" in said
    assert "ended 60s ago" in said or "ended 1m ago" in said


async def test_the_audit_is_filtered_and_goes_on_by_its_cursor(
    ui: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(
        "INSERT INTO taskrunner.audit (acted_at, tenant, actor, action, target, details)"
        " SELECT now(), 'default', 'cli:ada', 'queue.pause', 'q' || n, '{}' FROM generate_series(1, 60) n"
    )
    page = await shown(ui, "/ui/audit")
    assert page.count("<tr data-href>") == 50
    older = re.search(r'rel="next" href="([^"]*)"', page)
    assert older
    assert (await shown(ui, html.unescape(older[1]))).count("<tr data-href>") == 10
    assert (await shown(ui, "/ui/audit?action=queue&target=q7")).count("<tr data-href>") == 1
    assert "Nothing like that is noted" in words(await shown(ui, "/ui/audit?actor=ui:eve"))
    await shown(ui, "/ui/audit?after=x", 422)


async def test_the_system_page_shows_findings_with_their_remedy_tables_and_settings_without_secrets(
    types: Registry, taskrunner_db: Database, conn: psycopg.Connection[Any]
) -> None:
    join(conn)
    conn.execute("UPDATE taskrunner.runner SET lease_until = now() - interval '1 hour'")
    async with serving(types, taskrunner_db.url, api_token="most-secret-token") as client:
        client.auth = httpx.BasicAuth("", "most-secret-token")
        page = await shown(client, "/ui/system?fresh=1")
    said = words(page)
    assert "data-finding=" in page
    assert "What comes of it" in said
    assert "most-secret-token" not in page
    for name in ("task_history", "task_stats", "api_token", "history_retention"):
        assert name in said


PATHS = ("/ui/", "/ui/queues", "/ui/schedules", "/ui/schedules/show?name=nightly", "/ui/runners", "/ui/audit")


async def test_who_may_only_read_sees_no_button_and_can_do_nothing(
    ui: httpx.AsyncClient, reader: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    """FAULTS 4."""
    await add_schedule(ui)
    await ui.post("/tasks", json={"type": "Mail"})
    before = audited(conn)
    for path in PATHS:
        page = await shown(reader, path)
        assert 'method="post"' not in page
        assert 'hx-target="#dialog"' not in page
    for path in (
        "queues/pause?queue=q",
        "schedules/run?name=nightly",
        "schedules/new",
        "schedules/change?name=nightly",
    ):
        await shown(reader, f"/ui/{path}", 403)
        assert (await reader.post(f"/ui/{path}", data={"name": "x"})).status_code == 403
    assert audited(conn) == before


async def test_a_form_of_another_page_changes_nothing(ui: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    """FAULTS 4."""
    answer = await ui.post("/ui/queues/pause?queue=q", data={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert audited(conn) == []


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_asks_at_the_same_time_shares_a_look_and_who_asks_later_looks_anew() -> None:
    kept, looks = Kept(times=0), iter(range(10))

    async def look() -> int:
        await asyncio.sleep(0)
        return next(looks)

    # Who asks when a look has begun already is not told what that one finds, but shares the next.
    assert await asyncio.gather(*(kept.get("a", look) for _ in range(5))) == [(0, 0.0), *[(1, 0.0)] * 4]
    assert await kept.get("a", look) == (2, 0.0)
    assert await kept.get("b", look) == (3, 0.0)


async def test_what_took_long_is_kept_until_somebody_does_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHEAP", 0.0)
    monkeypatch.setattr(keeping, "LONGEST", 1e6)
    kept, looks = Kept(times=1e9), iter(range(10))

    async def look() -> int:
        return next(looks)

    assert await kept.get("a", look) == (0, 0.0)
    value, again = await kept.get("a", look)
    assert value == 0
    assert again > 0
    kept.forget()
    assert await kept.get("a", look) == (1, 0.0)


async def test_a_look_that_fails_is_made_anew() -> None:
    kept = Kept()

    async def fail() -> int:
        raise OSError("away")

    async def look() -> int:
        return 7

    with pytest.raises(OSError, match="away"):
        await kept.get("a", fail)
    assert await kept.get("a", look) == (7, 0.0)


async def test_what_was_good_until_just_now_is_given_at_once_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHEAP", -1.0)
    monkeypatch.setattr(keeping, "LONGEST", -1.0)  # good no longer as soon as it is there
    monkeypatch.setattr(keeping, "OLDEST", 1e6)
    kept, looks, gate = Kept(), iter(range(10)), asyncio.Event()
    gate.set()

    async def look() -> int:
        await gate.wait()
        return next(looks)

    assert await kept.get("a", look) == (0, 0.0)
    gate.clear()
    assert [await kept.get("a", look) for _ in range(3)] == [(0, keeping.SOON)] * 3
    gate.set()
    for _ in range(100):  # turns of the loop, of which it takes a few
        await asyncio.sleep(0)
    assert next(looks) == 2, "one renewal for all who asked"
    assert (await kept.get("a", look))[0] == 1


async def test_what_is_not_worth_it_is_not_kept_whatever_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHEAP", -1.0)
    kept, looks = Kept(times=1e9), iter(range(10))

    async def look() -> int:
        return next(looks)

    assert [await kept.get("a", look, worth=lambda value: value > 1) for _ in range(4)][:3] == [
        (0, 0.0),
        (1, 0.0),
        (2, 0.0),
    ]
    assert (await kept.get("a", look))[0] == 2
