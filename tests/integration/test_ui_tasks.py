"""The dashboard's pages of tasks over HTTP: what they show, what forms do without JavaScript, what is refused."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from taskrunner.api import create_app
from taskrunner.db import connect
from taskrunner.reads.dead import alike
from taskrunner.redaction import covered
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.task import Task
from taskrunner.testing.database import Database

pytestmark = pytest.mark.anyio

DEAD = """
INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, priority, tries,
       crashes, max_retries, tenant, queue, type, payload, meta, errors)
VALUES (%s, now(), now(), now(), now(), 3, 100, 2, 0, 2, 'default', 'default', 'Mail', '{"to": "ada"}', '{}',
        jsonb_build_array(jsonb_build_object('at', now(), 'try', 3, 'message', %s::text,
                                             'traceback', 'Traceback: line 1')))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def types(registry: Registry) -> Registry:
    @register_task("Mail")
    class Mail(Task):
        to: str = ""
        value: Any = None

        def run(self) -> None: ...

    @register_task("Strict", queue="slow")
    class Strict(Task):
        number: int

        def run(self) -> None: ...

    return registry


@asynccontextmanager
async def browsing(registry: Registry, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Lend what a browser without JavaScript is."""
    app = create_app(Settings(**settings), registry, url)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://localhost",
            headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
        ) as client,
    ):
        yield client


@pytest.fixture
async def ui(types: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with browsing(types, taskrunner_db.url) as client:
        yield client


@pytest.fixture
def conn(taskrunner_db: Database) -> Any:
    with connect(taskrunner_db.url) as connection:
        yield connection


async def add(ui: httpx.AsyncClient, **fields: Any) -> str:
    answer = await ui.post("/tasks", json={"type": "Mail", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def bury(conn: psycopg.Connection[Any], message: str) -> UUID:
    id_ = uuid7()
    conn.execute(DEAD, (id_, message))
    return id_


async def shown(ui: httpx.AsyncClient, url: str, status: int = 200) -> str:
    """Return the words of a page."""
    answer = await ui.get(url)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def words(page: str) -> str:
    """Return what of a page is read: without its elements."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


async def sent(ui: httpx.AsyncClient, url: str, **fields: Any) -> tuple[str, str]:
    """Ask for the form, send it as a browser would, and return where that leads and what is said there."""
    asked = await shown(ui, url)
    form = re.search(r'<form class="form panel" method="post" action="([^"]*)"(.*?)</form>', asked, re.DOTALL)
    assert form is not None
    hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[2])
    data: dict[str, Any] = {}
    for name, value in hidden:
        data.setdefault(name, []).append(html.unescape(value))
    answer = await ui.post(html.unescape(form[1]), data={**data, **fields})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"], words(await shown(ui, answer.headers["location"]))


def audited(conn: psycopg.Connection[Any], target: object) -> list[tuple[str, str]]:
    rows = conn.execute(
        "SELECT actor, action FROM taskrunner.audit WHERE target = %s ORDER BY id", (str(target),)
    ).fetchall()
    return [(actor, action) for actor, action in rows]


# The list


async def test_the_list_shows_what_is_searched_for(ui: httpx.AsyncClient, conn: Any) -> None:
    live = await add(ui, payload={"to": "grace"})
    dead = bury(conn, "no luck")
    page = await shown(ui, "/ui/tasks")
    assert live in page
    assert str(dead) in page
    page = await shown(ui, "/ui/tasks?q=state:dead")
    assert live not in page
    assert str(dead) in page
    assert "no luck" in page
    page = await shown(ui, "/ui/tasks?q=payload.to:grace")
    assert live in page
    assert str(dead) not in page


BIG = {"aa": "x" * 300_000, "list": list(range(50_000)), "password": "hunter2", "z" * 5_000: 1}


@pytest.mark.parametrize("where", ["/ui/tasks", "/ui/dead?type=Mail&error=big"])
async def test_a_list_reads_the_beginning_of_what_is_big(
    ui: httpx.AsyncClient, conn: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for _ in range(3):
        await ui.post("/tasks", json={"type": "Mail", "payload": {"to": "grace"}})
        bury(conn, "big\n" + "y" * 100_000)
    for table in ("task", "dead_letter"):
        conn.execute(f"UPDATE taskrunner.{table} SET payload = %s, progress = %s", (Jsonb(BIG), Jsonb(BIG)))
    read: list[str] = []

    def counting(row: dict[str, Any]) -> dict[str, Any]:
        read.append(json.dumps(row, default=str))
        return covered(row)

    monkeypatch.setattr("taskrunner.reads.tasks.covered", counting)
    page = await shown(ui, where)
    assert read
    assert max(map(len, read)) < 2_000, "bytes of a row"
    assert "&#34;aa&#34;: &#34;xxx" in page
    assert "hunter2" not in page


async def test_a_message_is_looked_into_once_however_often_its_page_is_refreshed(
    ui: httpx.AsyncClient, conn: Any
) -> None:
    bury(conn, f"order {uuid7()} is lost")
    await shown(ui, "/ui/dead")
    before = alike.cache_info()
    assert "order &lt;id&gt; is lost" in await shown(ui, "/ui/dead")
    after = alike.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


async def test_filters_become_part_of_the_search(ui: httpx.AsyncClient) -> None:
    answer = await ui.get("/ui/tasks?q=state:dead+type:Old+error:%22timed+out%22&type=Mail&queue=&tenant=a+b")
    assert answer.status_code == 303
    location = httpx.URL(answer.headers["location"])
    assert location.params["q"] == 'state:dead error:"timed out" type:Mail tenant:"a b"'


async def test_an_id_leads_to_its_task(ui: httpx.AsyncClient) -> None:
    id_ = await add(ui)
    answer = await ui.get("/ui/tasks", params={"q": f" {id_} "})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/tasks/{id_}")


async def test_a_search_that_cannot_be_read_is_explained(ui: httpx.AsyncClient) -> None:
    for text in ("stat:dead", 'error:"open', "state:gone", "since:soon", "id:1", "payload.password:x"):
        page = await shown(ui, f"/ui/tasks?{httpx.QueryParams(q=text)}", 422)
        assert 'id="search-problem"' in page
        assert f'value="{html.escape(text)}"' in page.replace("&#34;", "&quot;")


async def test_the_list_goes_on(ui: httpx.AsyncClient) -> None:
    ids = [await add(ui) for _ in range(51)]
    page = await shown(ui, "/ui/tasks")
    older = re.search(r'rel="next" href="([^"]*)"', page)
    assert older is not None
    assert ids[0] not in page
    page = await shown(ui, html.unescape(older[1]))
    assert ids[0] in page
    assert ids[-1] not in page
    assert "Newest" in page
    await shown(ui, "/ui/tasks?after=7", 422)


# What is on a page


async def test_hostile_texts_are_only_text(ui: httpx.AsyncClient, conn: Any) -> None:
    """FAULTS 4."""
    bad = "</pre><script>alert(1)</script>\"'{{7*7}}"
    live = await add(ui, payload={"to": bad}, key=bad)
    dead = bury(conn, bad)
    for url in (
        "/ui/tasks",
        f"/ui/tasks/{live}",
        f"/ui/tasks/{dead}",
        "/ui/dead",
        f"/ui/tasks?{httpx.QueryParams(q=bad)}",
    ):
        page = (await ui.get(url)).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


async def test_scripts_have_the_nonce_of_their_response(ui: httpx.AsyncClient) -> None:
    """FAULTS 4."""
    nonces = set()
    for _ in range(2):
        answer = await ui.get("/ui/tasks")
        policy = answer.headers["content-security-policy"]
        found = re.search(r"script-src 'nonce-([^']+)'", policy)
        assert found is not None
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert set(re.findall(r'<script nonce="([^"]*)"', answer.text)) == {found[1]}
        assert answer.text.count("<script") == answer.text.count("<script nonce=")
        assert " style=" not in answer.text
        assert " onclick" not in answer.text
        nonces.add(found[1])
    assert len(nonces) == 2


async def test_files_are_kept_for_ever_under_names_of_their_content(ui: httpx.AsyncClient) -> None:
    page = await shown(ui, "/ui/tasks")
    files = re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', page)
    assert len(files) >= 4
    for url in files:
        answer = await ui.get(url, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text == (await ui.get(url, headers={"Accept-Encoding": "identity"})).text
    assert (await ui.get("/ui/static/app.0123456789ab.js")).status_code == 404
    assert (await ui.get("/ui/static/..%2Fframe.py")).status_code == 404


async def test_integers_are_shown_exactly(ui: httpx.AsyncClient) -> None:
    id_ = await add(ui, payload={"value": 2**63 + 1})
    assert str(2**63 + 1) in await shown(ui, f"/ui/tasks/{id_}")


async def test_a_task_says_why_it_does_not_run_and_how_it_failed(ui: httpx.AsyncClient, conn: Any) -> None:
    """SPEC OPS 50."""
    id_ = await add(ui, payload={"to": "ada"})
    page = words(await shown(ui, f"/ui/tasks/{id_}"))
    assert "pending" in page
    assert "no runner" in page.lower()
    page = words(await shown(ui, f"/ui/tasks/{bury(conn, 'no luck')}"))
    assert "try 3 failed" in page
    assert "no luck" in page
    assert "Traceback: line 1" in page
    assert "Requeue" in page
    assert "Run now" not in page


async def test_a_task_shows_what_it_logged(ui: httpx.AsyncClient, conn: Any) -> None:
    id_ = await add(ui)
    conn.execute(
        "INSERT INTO taskrunner.task_log (task_id, claim_no, logged_at, level, message) VALUES (%s, 1, now(), %s, %s)",
        (id_, "WARNING", "<b>slow</b>"),
    )
    page = await shown(ui, f"/ui/tasks/{id_}")
    assert "&lt;b&gt;slow&lt;/b&gt;" in page
    assert "WARNING" in page


async def test_a_flow_is_drawn_in_stages(ui: httpx.AsyncClient, types: Registry, taskrunner_db: Database) -> None:
    from taskrunner.flow import chain, group
    from taskrunner.queue import TaskQueue

    mail = types.get("Mail").cls
    with TaskQueue.connect(taskrunner_db.url, registry=types) as queue:
        ids = queue.add_flow(chain(group(mail(), mail()), mail(), mail()))
    page = await shown(ui, f"/ui/tasks/{ids[2]}")
    stages = re.search(r'<ol class="stages.*?</ol>', page, re.DOTALL)
    assert stages is not None
    parts = stages[0].split("<ul>")[1:]
    assert [sum(f"/ui/tasks/{id_}" in part for id_ in ids) for part in parts] == [2, 1, 1]
    assert '<li aria-current="true">' in parts[1]
    assert "Cancel the flow" in page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskrunner.reads.flows.MOST", 2)
        page = await shown(ui, f"/ui/tasks/{ids[0]}")
    assert "2 of more than 2 tasks are shown" in page
    assert "Requeue the flow" in page  # there may be a dead one among the others


# What forms do


async def test_a_form_asks_does_says_so_and_is_noted(ui: httpx.AsyncClient, conn: Any) -> None:
    id_ = await add(ui, maturity_at="2100-01-01T00:00:00Z")
    where, page = await sent(ui, f"/ui/tasks/{id_}/retry?back=/ui/tasks/{id_}")
    assert where == f"/ui/tasks/{id_}"
    assert "The task is due now." in page
    assert f"taskrunner tasks retry {id_}" in page
    where, page = await sent(ui, f"/ui/tasks/{id_}/cancel?back=/ui/tasks?q=state:pending")
    assert where == "/ui/tasks?q=state:pending"
    assert "cancelled" in page
    assert audited(conn, id_) == [("ui:local", "task.retry"), ("ui:local", "task.cancel")]
    answer = await ui.post(f"/ui/tasks/{id_}/cancel", data={"back": "/ui/"})
    assert answer.status_code == 409
    assert "is cancelled and cannot be cancelled" in words(answer.text)
    assert len(audited(conn, id_)) == 2


async def test_what_was_done_is_said_once(ui: httpx.AsyncClient) -> None:
    id_ = await add(ui)
    _, page = await sent(ui, f"/ui/tasks/{id_}/retry?back=/ui/tasks/{id_}")
    assert "The task is due now." in page
    assert "The task is due now." not in await shown(ui, f"/ui/tasks/{id_}")


async def test_a_dead_letter_is_requeued_and_its_new_task_shown(ui: httpx.AsyncClient, conn: Any) -> None:
    dead = bury(conn, "no luck")
    where, page = await sent(ui, f"/ui/tasks/{dead}/retry?back=/ui/tasks/{dead}")
    assert where != f"/ui/tasks/{dead}"
    assert "Requeued as" in page
    assert "pending" in page
    assert where.removeprefix("/ui/tasks/") in await shown(ui, f"/ui/tasks/{dead}")


async def test_a_dead_letter_is_deleted(ui: httpx.AsyncClient, conn: Any) -> None:
    dead = bury(conn, "no luck")
    where, page = await sent(ui, f"/ui/tasks/{dead}/delete?back=/ui/tasks/{dead}")
    assert where == "/ui/dead"
    assert "deleted" in page
    await shown(ui, f"/ui/tasks/{dead}", 404)


async def test_an_instant_that_is_none_is_explained_beside_its_field(ui: httpx.AsyncClient) -> None:
    id_ = await add(ui)
    for when in ("soon", "2026-12-01T08:00:00", "2026-13-01", "", "-5"):
        answer = await ui.post(f"/ui/tasks/{id_}/reschedule", data={"when": when, "back": "/ui/"})
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.text
        assert 'id="error-when"' in answer.text


async def test_a_task_is_rescheduled(ui: httpx.AsyncClient, conn: Any) -> None:
    for when in ("2100-01-01T08:00:00Z", "2h", "90"):
        id_ = await add(ui)
        await sent(ui, f"/ui/tasks/{id_}/reschedule?back=/ui/tasks", when=when)
        later = conn.execute("SELECT maturity_at > now() + interval '80 s' FROM taskrunner.task WHERE id = %s", (id_,))
        assert later.fetchone() == (True,)


async def test_ticked_tasks_are_counted_done_with_and_told(ui: httpx.AsyncClient, conn: Any) -> None:
    pending, dead = await add(ui), bury(conn, "no luck")
    query = httpx.QueryParams([("id", pending), ("id", str(dead)), ("id", str(uuid7())), ("back", "/ui/tasks")])
    page = words(await shown(ui, f"/ui/act/cancel?{query}"))
    assert "Cancel: 1 task?" in page
    assert "2 of the 3 ticked are left as they are" in page
    assert "taskrunner tasks bulk cancel" in page
    where, page = await sent(ui, f"/ui/act/cancel?{query}")
    assert where == "/ui/tasks"
    assert "Cancel: 1 done." in page
    noted = conn.execute("SELECT actor, action FROM taskrunner.audit ORDER BY id").fetchall()
    assert noted == [("ui:local", "bulk.cancel"), ("ui:local", "bulk.cancel.done")]
    page = words(await shown(ui, f"/ui/act/cancel?{query}"))
    assert "Nothing here is in a state for it." in page


async def test_all_that_match_are_counted_exactly_and_no_more_are_met(ui: httpx.AsyncClient, conn: Any) -> None:
    for n in range(60):
        bury(conn, f"order {n}: declined")
    page = await shown(ui, "/ui/tasks?q=state:dead+error:declined")
    link = re.search(r'href="(/ui/act/requeue[^"]*)"', page)
    assert link is not None
    asked = html.unescape(link[1])
    assert "Requeue: 60 tasks?" in words(await shown(ui, asked))
    where, page = await sent(ui, asked)
    assert where.startswith("/ui/tasks?")
    assert "Requeue: 60 done." in page
    answer = await ui.post("/ui/act/requeue", data={"q": "state:dead", "expected": "0", "back": "/ui/"})
    assert answer.status_code == 303
    bury(conn, "late")
    answer = await ui.post("/ui/act/requeue", data={"q": "state:dead", "expected": "0", "back": "/ui/"})
    assert answer.status_code == 409
    assert "1 tasks match now, and 0 were expected" in words(answer.text)


async def test_many_are_rescheduled_and_a_bad_instant_is_explained(ui: httpx.AsyncClient, conn: Any) -> None:
    ids = [await add(ui) for _ in range(3)]
    query = httpx.QueryParams([("id", id_) for id_ in ids] + [("back", "/ui/tasks")])
    answer = await ui.post("/ui/act/reschedule", data={"id": ids, "when": "soon", "back": "/ui/tasks"})
    assert answer.status_code == 422
    assert 'id="error-when"' in answer.text
    await sent(ui, f"/ui/act/reschedule?{query}", when="3h")
    later = conn.execute("SELECT count(*) FROM taskrunner.task WHERE maturity_at > now() + interval '2 hours'")
    assert later.fetchone() == (3,)


async def test_what_cannot_be_done_is_refused(ui: httpx.AsyncClient) -> None:
    many = "id=" + "&id=".join(str(UUID(int=n)) for n in range(1001))
    for query in ("", "verb=1", "q=", "q=stat:dead", "q=state:succeeded", "id=7", many):
        await shown(ui, f"/ui/act/cancel?{query}", 422)
    await shown(ui, "/ui/act/burn?id=7", 404)


async def test_dead_letters_are_grouped_by_what_they_died_of(ui: httpx.AsyncClient, conn: Any) -> None:
    for n in range(3):
        bury(conn, f"order {n}: declined")
    other = bury(conn, "timed out")
    page = words(await shown(ui, "/ui/dead"))
    assert "4 dead letters in 2 groups" in page
    assert "3 Mail order <n>: declined" in page
    group = f"/ui/dead?{httpx.QueryParams(type='Mail', error='order <n>: declined')}"
    assert str(other) not in await shown(ui, group)
    asked = f"/ui/dead/requeue?{httpx.QueryParams(type='Mail', error='order <n>: declined', back=group)}"
    _, page = await sent(ui, asked)
    assert "Requeue: 3 done." in page
    assert "No dead letter has this error any more." in page
    await shown(ui, asked, 404)
    assert "1 dead letter in 1 group," in words(await shown(ui, "/ui/dead"))


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ("HTTP 503 from host-7:8080 after 2.5 s\nmore", "HTTP <n> from host-<n> after <n> s"),
        ("no task 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60 of ada@example.org", "no task <id> of <address>"),
        ("at 0x7f3a, hash 9f86d081884c7d65", "at <hex>, hash <hex>"),
        (None, ""),
    ],
)
def test_errors_that_differ_in_ids_addresses_and_numbers_are_alike(message: str | None, plain: str) -> None:
    assert alike(message) == plain


async def test_a_task_is_added_by_hand(ui: httpx.AsyncClient) -> None:
    page = await shown(ui, "/ui/tasks/new?type=Strict")
    assert "&#34;number&#34;" in page
    assert '<option value="Strict" selected>' in page
    where, page = await sent(ui, "/ui/tasks/new", type="Strict", payload='{"number": 7}', when="2h", priority="300")
    assert where.startswith("/ui/tasks/0")
    assert "Added." in page
    assert "Priority 300" in page
    assert """taskrunner enqueue Strict '{"number": 7}' --priority 300 --delay 2h""" in page


async def test_what_is_wrong_is_said_beside_its_field(ui: httpx.AsyncClient, conn: Any) -> None:
    for fields, field, reason in (
        ({"type": "Strict", "payload": '{"number": "x"}'}, "payload", "number: "),
        ({"type": "Strict", "payload": "{"}, "payload", "no JSON"),
        ({"type": "Strict", "payload": "[]"}, "payload", "a JSON object"),
        ({"type": "Stric", "payload": "{}"}, "type", "did you mean"),
        ({"type": "Mail", "when": "soon"}, "when", "soon"),
        ({"type": "Mail", "priority": "high"}, "priority", "whole number"),
        ({"type": "Mail", "priority": "99999999999"}, "priority", "priority"),
        ({"type": "Mail", "queue": "x" * 300}, "queue", "queue"),
    ):
        answer = await ui.post("/ui/tasks/new", data=fields)
        assert answer.status_code == 422
        said = re.search(rf'id="error-{field}">([^<]*)<', answer.text)
        assert said is not None, fields
        assert reason in html.unescape(said[1])
    assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (0,)


# Who may not, and what is not there


async def test_a_reader_sees_no_buttons_and_may_not_act(types: Registry, taskrunner_db: Database, conn: Any) -> None:
    tokens = "ada:write:adas-own-secret,eve:read:eves-own-secret"
    dead = bury(conn, "no luck")
    async with browsing(types, taskrunner_db.url, api_tokens=tokens) as ui:
        assert (await ui.get("/ui/tasks")).headers["www-authenticate"].startswith("Basic ")
        assert "the password is a token" in words(await shown(ui, "/ui/tasks", 401))
        ui.auth = httpx.BasicAuth("", "adas-own-secret")
        id_ = await add(ui)
        assert "Run now" in await shown(ui, f"/ui/tasks/{id_}")
        ui.auth = httpx.BasicAuth("", "eves-own-secret")
        for url in ("/ui/tasks?q=queue:default", f"/ui/tasks/{id_}", f"/ui/tasks/{dead}", "/ui/dead"):
            page = await shown(ui, url)
            assert "eve (read only)" in page
            assert "/cancel" not in page
            assert "/requeue" not in page
            assert 'type="checkbox"' not in page
        assert '<button class="primary' not in await shown(ui, f"/ui/act/cancel?id={id_}")
        for url in (f"/ui/tasks/{id_}/cancel", f"/ui/tasks/{dead}/retry", "/ui/act/cancel", "/ui/tasks/new"):
            answer = await ui.post(url, data={"id": id_, "type": "Mail"})
            assert answer.status_code == 403, url
        for url in (f"/ui/tasks/{id_}/cancel", f"/ui/tasks/{id_}/reschedule", f"/ui/tasks/{dead}/retry"):
            assert "may read only" in words(await shown(ui, url, 403)), url
    assert conn.execute("SELECT count(*) FROM taskrunner.audit").fetchone() == (0,)


async def test_a_foreign_page_may_not_act(ui: httpx.AsyncClient, conn: Any) -> None:
    """FAULTS 4."""
    id_ = await add(ui)
    answer = await ui.post(f"/ui/tasks/{id_}/cancel", headers={"Sec-Fetch-Site": "cross-site"}, data={"back": "/ui/"})
    assert answer.status_code == 403
    assert audited(conn, id_) == []


async def test_what_is_not_there_is_a_page_for_browsers_and_a_problem_for_others(ui: httpx.AsyncClient) -> None:
    missing = uuid7()
    assert f"no task {missing}" in words(await shown(ui, f"/ui/tasks/{missing}", 404))
    for url in ("/ui/tasks/7", f"/ui/tasks/{missing}/burn", "/ui/nothing"):
        assert "nothing at" in words(await shown(ui, url, 404))
    answer = await ui.get(f"/ui/tasks/{missing}", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_no_form_leads_to_a_foreign_page(ui: httpx.AsyncClient) -> None:
    id_ = await add(ui)
    for back in ("https://evil.example/", "//evil.example/", "/ui/../../x", "javascript:alert(1)", "/tasks"):
        answer = await ui.post(f"/ui/tasks/{id_}/retry", data={"back": back})
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/ui/")
        assert "evil" not in answer.headers["location"]


async def test_without_a_database_each_page_says_so(types: Registry) -> None:
    async with browsing(types, "postgresql:///nothing?host=/nowhere") as ui:
        for url in ("/ui/tasks", f"/ui/tasks/{uuid7()}", "/ui/dead"):
            page = await shown(ui, url, 503)
            assert "the database cannot be reached" in page
            assert 'id="live"' in page
        assert (await ui.get("/ui/tasks")).headers["retry-after"] == "5"
