"""A task and a schedule made by hand: once, noted, and nothing secret in what the page says afterwards."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from taskrunner.api import create_app
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.task import Task
from taskrunner.testing.database import Database

pytestmark = pytest.mark.anyio

SECRET = "hunter2-hunter2"  # noqa: S105
SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def ui(registry: Registry, taskrunner_db: Database) -> AsyncIterator[httpx.AsyncClient]:
    @register_task("Mail")
    class Mail(Task):
        to: str = "a@b.c"
        pin: SecretStr | None = None
        headers: dict[str, str] | None = None
        text: str = ""

        def run(self) -> None: ...

    app = create_app(Settings(), registry, taskrunner_db.url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"Accept": "text/html"}) as client,
    ):
        yield client


async def entries(ui: httpx.AsyncClient) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await ui.get("/audit", headers={"Accept": "*/*"})).json()["entries"]
    return found


def said(answer: httpx.Response) -> str:
    """Return all that an answer tells, what is in its cookies decoded."""
    kept = re.findall(r"taskrunner_note=\"?([\w=-]+)", str(answer.headers.get_list("set-cookie")))
    return answer.text + str(answer.headers) + "".join(urlsafe_b64decode(one).decode() for one in kept)


async def form(ui: httpx.AsyncClient, **fields: str) -> dict[str, str]:
    """Return the fields that the blank form would send, with these filled in."""
    page = (await ui.get("/ui/tasks/new")).text
    (once,) = re.findall(r'name="once" value="(\w+)"', page)
    return {"type": "Mail", "payload": "{}", "once": once, **fields}


async def test_a_form_that_is_sent_twice_adds_one_task_and_notes_it_once(ui: httpx.AsyncClient) -> None:
    given = await form(ui)
    first, second = [await ui.post("/ui/tasks/new", data=given, headers=SAME) for _ in range(2)]
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["location"] == second.headers["location"]
    other = await ui.post("/ui/tasks/new", data=await form(ui), headers=SAME)
    assert other.headers["location"] != first.headers["location"]
    noted = await entries(ui)
    assert [entry["action"] for entry in noted] == ["task.add", "task.add"]
    assert {f"/ui/tasks/{entry['target']}" for entry in noted} == {first.headers["location"], other.headers["location"]}


@pytest.mark.parametrize("payload", [{"pin": SECRET}, {"headers": {"api_key": SECRET}}], ids=["typed", "named"])
async def test_what_was_added_by_hand_tells_no_secret_afterwards(
    ui: httpx.AsyncClient, payload: dict[str, object]
) -> None:
    """FAULTS 4."""
    answer = await ui.post("/ui/tasks/new", data=await form(ui, payload=json.dumps(payload)), headers=SAME)
    assert answer.status_code == 303
    shown = await ui.get(answer.headers["location"])
    assert "taskrunner enqueue Mail" in said(answer)
    assert SECRET not in said(answer) + said(shown) + str(await entries(ui))
    schedule = {"name": "s", "task": "Mail", "payload": json.dumps(payload), "frequency": "5m"}
    made = await ui.post("/ui/schedules/new", data=schedule, headers=SAME)
    assert made.status_code == 303, made.text
    listed = await ui.get(made.headers["location"])
    assert "schedules add" in said(made)
    assert SECRET not in said(made) + said(listed) + str(await entries(ui))


async def test_a_long_command_is_left_out_of_what_the_browser_has_to_keep(ui: httpx.AsyncClient) -> None:
    given = await form(ui, payload=json.dumps({"text": "é" * 9000}))
    answer = await ui.post("/ui/tasks/new", data=given, headers=SAME)
    assert answer.status_code == 303
    assert all(len(cookie) < 4000 for cookie in answer.headers.get_list("set-cookie"))
    assert "Added." in (await ui.get(answer.headers["location"])).text


@pytest.mark.parametrize("note", ['{"text": "\\ud800", "kind": "good", "command": ""}', "[" * 9000, "5", "x"])
async def test_a_note_that_is_not_ours_says_nothing_wrong(ui: httpx.AsyncClient, note: str) -> None:
    from base64 import urlsafe_b64encode

    cookie = urlsafe_b64encode(note.encode()).decode()
    answer = await ui.get("/ui/queues", headers={"Cookie": f"taskrunner_note={cookie}"})
    assert answer.status_code == 200


async def test_a_priority_is_read_whole_or_refused(ui: httpx.AsyncClient) -> None:
    answer = await ui.post("/ui/tasks/new", data=await form(ui, priority="0000000000007"), headers=SAME)
    assert answer.status_code == 422
