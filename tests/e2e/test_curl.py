"""DESIGN 13 by curl, against a real `taskrunner start api`: both spellings of the fields, and the database stopped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from taskrunner import schema
from taskrunner.embedded import Cluster
from tests.processes import eventually, fleet

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")

NOBODY = "0197c5e0-0000-7000-8000-000000000000"
TYPE = "work.nothing"
LATER, AGAIN = "2100-01-01T00:00:00Z", "2100-02-03T04:05:06Z"
EVERY: list[tuple[str, str, Any]] = [
    ("GET", "/monitor/health", None),
    ("GET", "/monitor/ready", None),
    ("GET", "/monitor/stats", None),
    ("GET", "/tasks", None),
    ("GET", f"/tasks/{NOBODY}", None),
    ("POST", "/tasks", {"task_name": TYPE, "scheduled_at": LATER}),
    ("PATCH", f"/tasks/{NOBODY}", {"maturity_at": LATER}),
    ("DELETE", f"/tasks/{NOBODY}", None),
    ("POST", f"/tasks/{NOBODY}/cancel", None),
    ("POST", f"/tasks/{NOBODY}/retry", None),
    ("GET", "/dead-letters", None),
    ("POST", f"/dead-letters/{NOBODY}/requeue", None),
    ("GET", "/schedules", None),
    ("POST", "/schedules/nightly/run", None),
    ("GET", "/queues", None),
    ("POST", "/queues/mail/pause", None),
    ("GET", "/runners", None),
    ("GET", "/audit", None),
]
PATIENCE = "60"
"""Seconds that curl waits at most."""


@dataclass
class Answer:
    """What curl was told."""

    status: int
    kind: str
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Api:
    """The address of an API, and the token that it is asked with."""

    address: str
    token: str = "writing"  # noqa: S105 - a test's own

    def __call__(
        self, method: str, path: str, body: object = None, *options: str, kind: str = "application/json"
    ) -> Answer:
        """Ask by curl."""
        sent = [] if body is None else ["--header", f"Content-Type: {kind}", "--data", "@-"]
        shown = ["--silent", "--show-error", "--max-time", PATIENCE, "--write-out", "\n%{http_code} %{content_type}"]
        token = ["--header", f"Authorization: Bearer {self.token}"] if self.token else []
        command = ["curl", *shown, "--request", method, *token, *sent, *options, f"{self.address}{path}"]
        asked = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True)
        text, _, line = asked.stdout.rpartition("\n")
        status, _, kind = line.partition(" ")
        return Answer(int(status), kind, text)


def is_problem(answer: Answer, status: int) -> bool:
    return (answer.status, answer.kind, answer.json["status"]) == (status, "application/problem+json", status)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster.create(tmp_path_factory.mktemp("server"), settings={"fsync": "off"}) as made:
        schema.migrate(made.url())
        yield made


@pytest.fixture(scope="module")
def api(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    tokens = "grafana:read:reading,ada:write:writing"
    with fleet(cluster.url(), tmp_path_factory.mktemp("fleet"), TASKRUNNER_API_TOKENS=tokens) as lent:
        group = lent.start("api", api_port="0")
        listening = eventually(lambda: re.search(r"the API listens on (\S+)", group.log), "an API")
        lent_api = Api(listening[1])
        eventually(lambda: lent_api("GET", "/monitor/health").status == 200, "a database")
        yield lent_api
        assert "writing" not in group.log


@pytest.mark.parametrize(("type_", "maturity"), [("task_name", "scheduled_at"), ("type", "maturity_at")])
def test_a_task_is_added_listed_shown_moved_and_deleted(api: Api, type_: str, maturity: str) -> None:
    added = api("POST", "/tasks", {type_: TYPE, maturity: LATER, "priority": 7, "max_retries": 1, "queue": "q"})
    assert (added.status, added.json["created"]) == (201, True)
    id_ = added.json["id"]
    shown = api("GET", f"/tasks/{id_}")
    assert (shown.status, shown.kind) == (200, "application/json")
    assert {name: shown.json[name] for name in ("id", "type", "state", "priority", "queue", "maturity_at")} == {
        "id": id_, "type": TYPE, "state": "pending", "priority": 7, "queue": "q", "maturity_at": LATER,
    }  # fmt: skip
    assert id_ in [task["id"] for task in api("GET", f"/tasks?type={TYPE}&state=pending").json["tasks"]]
    moved = api("PATCH", f"/tasks/{id_}", {maturity: AGAIN})
    assert (moved.status, moved.json["maturity_at"]) == (200, AGAIN)
    deleted = api("DELETE", f"/tasks/{id_}")
    assert (deleted.status, deleted.text) == (204, "")
    assert api("GET", f"/tasks/{id_}").json["state"] == "cancelled"
    for method, path, body in (("PATCH", "", {maturity: LATER}), ("DELETE", "", None), ("POST", "/cancel", None)):
        assert is_problem(api(method, f"/tasks/{id_}{path}", body), 409)
    noted = api("GET", f"/audit?target={id_}").json["entries"]
    assert [(entry["actor"], entry["action"]) for entry in noted] == [
        ("api:ada", "task.cancel"),
        ("api:ada", "task.reschedule"),
    ]


def test_what_is_wrong_is_told_by_its_status(api: Api) -> None:
    body = {"task_name": TYPE}
    assert is_problem(api("GET", f"/tasks/{NOBODY}"), 404)
    assert is_problem(api("GET", "/nothing"), 404)
    assert is_problem(api("PUT", "/tasks", body), 405)
    assert is_problem(api("POST", "/tasks", body, kind="text/plain"), 415)
    assert is_problem(api("POST", "/tasks", {**body, "payload": {"at": "x" * (16 * 2**20)}}), 413)
    for wrong in (
        {"task_name": "Nothing"},
        {"task_name": TYPE, "type": "Other"},
        {},
        {**body, "scheduled_at": "soon"},
    ):
        assert is_problem(api("POST", "/tasks", wrong), 422)
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")):
        sent = {"scheduled_at": LATER} if method == "PATCH" else None
        assert is_problem(api(method, f"/tasks/not-an-id{path}", sent), 422)


def test_tokens_say_who_may_do_what(api: Api) -> None:
    for token, status in (("", 401), ("wrong", 401), ("reading", 403)):
        assert is_problem(Api(api.address, token)("POST", "/tasks", {"type": TYPE}), status)
    assert Api(api.address, "reading")("GET", "/tasks").status == 200
    assert Api(api.address, "")("GET", "/monitor/health").json == {"status": "ok"}
    assert Api(api.address, "")("GET", "/docs", None, "--user", "anybody:reading").status == 200


def test_the_figures_are_there(api: Api) -> None:
    assert set(api("GET", "/monitor/stats").json) >= {"pending", "running", "succeeded", "dead"}
    assert is_problem(api("GET", "/monitor/ready"), 503)  # no runner was started


def test_while_the_database_is_stopped_every_path_says_503(api: Api, cluster: Cluster) -> None:
    """The answers come within the limits of the API, long before those of curl."""
    cluster.stop("immediate")
    try:
        with ThreadPoolExecutor(len(EVERY)) as pool:  # each waits for its limit
            answers = list(pool.map(lambda request: api(*request), EVERY))
        assert [request for request, answer in zip(EVERY, answers, strict=True) if not is_problem(answer, 503)] == []
        assert is_problem(api("GET", "/tasks/not-an-id"), 422)
    finally:
        cluster.start()
    eventually(lambda: api("GET", "/monitor/health").status == 200, "health after the restart")
    assert api("GET", "/tasks").status == 200
