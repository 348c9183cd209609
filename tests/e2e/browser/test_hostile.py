"""FAULTS F28: hostile texts wherever people and tasks can put one; stored as they are, or refused with a reason."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Browser, Page

from taskrunner.errors import InvalidArgument
from taskrunner.testing.database import Server
from tests.e2e.browser.conftest import Site, served, watched
from tests.e2e.browser.corpus import UNSTORABLE, VECTORS
from tests.e2e.browser.pages import LISTS, injected
from tests.processes import eventually

LATER = "2100-01-01T00:00:00Z"
TASK = "0197c5e0-0000-7000-8000-000000000000"
ALL = (*VECTORS, *UNSTORABLE)


@pytest.fixture(scope="module")
def site(taskrunner_template: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation whose every text is hostile."""
    with served(taskrunner_template, tmp_path_factory.mktemp("hostile"), "echo", filled=False) as site:
        site.ids = plant(site)
        yield site


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.address) as client:
        yield client


def chunks(size: int = 3000) -> list[str]:
    """Return the vectors joined by lines, each text small enough to be kept whole as an error's message."""
    texts = [""]
    for vector in VECTORS:
        if len(texts[-1]) + len(vector) > size and texts[-1]:
            texts.append("")
        texts[-1] += vector + "\n"
    return texts


def plant(site: Site) -> list[UUID]:
    """Store the vectors as values, keys, errors, progress, log lines, queues, tenants and schedules' names.

    Returns the tasks that have many of them each.
    """
    echo, named = site.tasks.Echo, site.tasks.HostileName
    ends = [echo(value=text, end=end) for text in chunks() for end in ("fail", "succeed", "snooze")]
    ran = site.queue.add_many(ends)
    everything = dict(zip(VECTORS, VECTORS, strict=True))
    laden = [site.queue.add(named(value=everything)), site.queue.add(echo(value=everything), meta=everything)]
    for vector in VECTORS:
        with suppress(InvalidArgument):
            site.queue.add(echo(value=vector), delay=9e6, queue=vector[:200], key=vector[:255])
        with suppress(InvalidArgument):
            site.queue.add(echo(value=vector), delay=9e6, tenant=vector[:60])
        with suppress(InvalidArgument):
            site.queue.schedules.add(vector[:100], echo(value=vector), timedelta(days=400))
    waiting = "SELECT count(*) FROM taskrunner.task WHERE id = ANY(%s) AND (state <> 'pending' OR progress IS NULL)"
    eventually(lambda: site.value(waiting, [one.id for one in ran]) == 0, "the end of all")
    return [one.id for one in (*ran, *laden)]


def check(answer: httpx.Response) -> None:
    """Check that the answer is what was asked for or a typed refusal, and no header is the caller's."""
    assert answer.status_code < 500, f"{answer.request.url}: {answer.text}"
    assert "set-cookie" not in answer.headers
    if answer.status_code >= 400 and answer.content:
        assert answer.headers["content-type"] == "application/problem+json", f"{answer.request.url}: {answer.text}"


def test_the_corpus_is_large() -> None:
    assert len(set(VECTORS)) >= 200


@pytest.mark.parametrize("field", ["type", "queue", "key", "idempotency_key", "payload", "name", "maturity_at"])
def test_hostile_fields_of_a_new_task_are_stored_or_refused(http: httpx.Client, field: str) -> None:
    for vector in ALL:
        order: dict[str, Any] = {"type": "Echo", "maturity_at": LATER}
        order |= {"payload": {"value": [vector, {vector: 1}]}} if field == "payload" else {field: vector}
        if field == "name":
            order = {"type": "Echo", "payload": {vector: 1}}
        body = json.dumps(order)  # escapes: also lone surrogates are sent
        answer = http.post("/tasks", content=body, headers={"content-type": "application/json"})
        check(answer)
        assert answer.status_code in (201, 422)
        if answer.status_code == 201 and field == "payload":
            value, keys = http.get(answer.headers["location"]).json()["payload"]["value"]
            assert (value, list(keys)) == (vector, [vector])


def test_hostile_parts_of_a_url_are_answered(http: httpx.Client) -> None:
    """Each vector as every parameter of every list in turn, as a path, and as a part of one."""
    described = http.get("/openapi.json").json()["paths"].items()
    asked = [
        (path.format_map(defaultdict(lambda: TASK)), parameter["name"])
        for path, operations in described
        for parameter in operations.get("get", {}).get("parameters", ())
        if parameter["in"] == "query"
    ]
    assert ("/tasks", "queue") in asked
    for number, vector in enumerate(ALL):
        part = quote(vector.encode("utf-8", "surrogatepass"), safe="")
        for path, name in asked[number % 7 :: 7]:
            check(http.get(f"{path}?{name}={part}"))
        check(http.get(f"/tasks/{part}"))
        check(http.get(f"/{part}"))


def test_hostile_headers_are_answered(http: httpx.Client) -> None:
    for vector in VECTORS:
        value = vector.encode().replace(b"\r", b"").replace(b"\n", b"")[:2000]
        printable = bytes(byte for byte in value if byte >= 32 and byte != 127).strip()
        headers = {"idempotency-key": printable, "authorization": b"Bearer " + printable, "if-none-match": printable}
        check(http.get("/tasks?limit=1", headers={**headers, "origin": printable, "user-agent": printable}))
        check(http.post("/tasks", json={"type": "Echo", "maturity_at": LATER}, headers=headers))


# ── in the browser ───────────────────────────────────────────────────────────────────────────────────────────────────

_HOOK = "window.pwned = () => console.error('A SCRIPT RAN')"


def look(page: Page, path: str) -> str:
    """Open a page where nothing may run or load that it shows; returns its text."""
    answer = page.goto(path)
    assert answer is not None
    assert answer.status < 500, path
    assert "unsafe" not in answer.headers["content-security-policy"]
    found = injected(page)
    assert not found, f"{path}: {found}"
    return str(page.evaluate("document.querySelector('main').textContent"))


def bare(text: str) -> str:
    """Return a text without white space and characters that HTML drops or replaces."""
    return "".join(one for one in text if one.isprintable() and not one.isspace())


def test_no_page_runs_what_it_shows_and_shows_all_of_it(browser: Browser, site: Site) -> None:
    """Every list, and the tasks that are full of vectors: as value, key, error, progress, result and log line."""
    with watched(browser, site.address) as (context, watch):
        watch.allow("answer 4|Failed to load resource: the server responded with a status of 4")
        context.add_init_script(_HOOK)
        page = context.new_page()
        for path in LISTS.values():
            look(page, path)
        shown = "".join(bare(look(page, f"/ui/tasks/{id_}")) for id_ in site.ids)
        escaped = [json.dumps(vector, ensure_ascii=False)[1:-1] for vector in VECTORS]
        hidden = [one for one in escaped if bare(one) not in shown]
        assert not hidden


def test_every_page_of_a_list_of_hostile_tasks_is_harmless(browser: Browser, site: Site) -> None:
    """Queues, keys, tenants and a type are vectors; a click on one leads to its tasks and not elsewhere."""
    with watched(browser, site.address) as (context, _):
        context.add_init_script(_HOOK)
        page = context.new_page()
        path: str | None = "/ui/tasks"
        pages = 0
        while path is not None and pages < 40:
            look(page, path)
            older = page.locator("a[rel=next]")
            path = older.first.get_attribute("href") if older.count() else None
            pages += 1
        assert pages > 3


def test_what_is_searched_for_is_shown_as_text(browser: Browser, site: Site, http: httpx.Client) -> None:
    """In what the server sends for each vector, and in a browser for one in twelve."""
    with watched(browser, site.address) as (context, watch):
        watch.allow("answer 4|Failed to load resource: the server responded with a status of 4")
        context.add_init_script(_HOOK)
        page = context.new_page()
        for number, vector in enumerate(VECTORS):
            part = quote(vector, safe="")
            paths = (
                f"/ui/tasks?q={part}",
                f"/ui/tasks?q={part}&queue={part}&tenant={part}&type={part}",
                f"/ui/dead?q={part}&type={part}&error={part}",
                f"/ui/?range={part}&split={part}&type={part}&since={part}",
                f"/ui/tasks/{part}",
            )
            if number % 12 == 0:
                for path in paths:
                    look(page, path)
            for path in paths[number % 2 :: 2]:
                answer = http.get(path, headers={"accept": "text/html"}, follow_redirects=True)
                assert answer.status_code < 500, path
                if answer.headers["content-type"].startswith("text/html") and "<" in vector and len(vector) > 12:
                    assert vector not in answer.text, path
