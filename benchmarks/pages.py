"""Row 12: list endpoints, figures and status with ten million tasks in history."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import psycopg

from benchmarks.drain import newcomers_project
from benchmarks.harness.context import Context
from benchmarks.harness.processes import Command, Team, ours, team, wait_until
from benchmarks.harness.results import Figure, at_most, percentile
from taskrunner import reads
from taskrunner.db import connect, run

TIMES = 40
LIMIT_MS = 200
ENOUGH_MS = 20_000  # of one path: what takes seconds has missed its target already
STATS, STATUS = "GET /monitor/stats", "taskrunner status (its queries)"


def pages(context: Context) -> list[Figure]:
    """Ask each endpoint forty times, in turn, and tell the 95th percentile of each."""
    db = context.history()
    with newcomers_project() as folder:
        port = _free_port()
        serve = ours("-m", "taskrunner", "start", "api", "--port", str(port), DATABASE_URL=db.url)
        with (
            team(Command(serve.words, serve.environment, folder)) as served,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
        ):
            wait_until(lambda: _answers(client, served), patience=60, what="the API's start", pause=0.1)
            paths = {STATS: "/monitor/stats", **{f"GET {path}": path for path in _paths(client)}}
            refused: dict[str, int] = {}
            asked = {name: _getter(client, path, name, refused) for name, path in paths.items()}
            with connect(db.url) as conn:
                asked[STATUS] = lambda: _look(conn)
                times = _ask_in_turn(context, asked)
    context.details.update(milliseconds=times, refused=refused)
    return list(_figures({path: percentile(taken, 0.95) for path, taken in times.items()}, refused))


def _figures(late: dict[str, float], refused: dict[str, int]) -> Iterator[Figure]:
    """Yield the two that count, the slowest list, and every other one that is too slow or refused to answer."""
    for path in (STATS, STATUS):
        yield at_most(f"p95 of {path}", [late.pop(path)], LIMIT_MS, "ms")
    for path, status in refused.items():
        yield Figure(f"{path}: answered {status}", [late.pop(path)], "ms", f"≤ {LIMIT_MS} ms", False)
    slowest, *others = sorted(late, key=late.__getitem__, reverse=True)
    yield at_most(f"slowest of {len(late)} lists: {slowest}", [late[slowest]], LIMIT_MS, "ms")
    for path in others:
        if late[path] > LIMIT_MS:
            yield at_most(path, [late[path]], LIMIT_MS, "ms")


def _paths(client: httpx.Client) -> list[str]:
    """Return the lists with their filters: common values, rare ones, none at all, and deep in the list."""
    items = client.get("/tasks").json()["tasks"]
    since = (datetime.now(UTC) - timedelta(days=5)).isoformat().replace("+00:00", "Z")
    return [
        "/tasks",
        f"/tasks?after={items[-1]['id']}",
        "/tasks?state=succeeded",
        "/tasks?state=ignored",
        "/tasks?state=cancelled",
        "/tasks?state=dead",
        "/tasks?type=bench.kind7",
        "/tasks?type=bench.nosuch",
        "/tasks?queue=mail",
        "/tasks?queue=nosuch",
        "/tasks?tenant=nosuch",
        f"/tasks?type=bench.nosuch&after={items[-1]['id']}",
        "/tasks?type=bench.kind7&state=ignored",
        f"/tasks?since={since}&limit=1000",
        f"/tasks/{items[-1]['id']}",
    ]


def _ask_in_turn(context: Context, asked: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {path: [] for path in asked}
    for number in range(context.scaled(TIMES, 5)):
        context.tell(f"pages, {number + 1} of {TIMES}")
        for path, ask in asked.items():
            if sum(times[path]) > ENOUGH_MS:
                continue
            began = time.perf_counter()
            ask()
            times[path].append((time.perf_counter() - began) * 1e3)
    return times


def _getter(client: httpx.Client, path: str, name: str, refused: dict[str, int]) -> Callable[[], None]:
    def get() -> None:
        status = client.get(path).status_code
        if status != 200:
            refused[name] = status

    return get


def _look(conn: psycopg.Connection[tuple[object, ...]]) -> None:
    run(conn, reads.status())
    run(conn, reads.now())


def _answers(client: httpx.Client, served: Team) -> bool:
    served.check()
    with suppress(httpx.HTTPError):
        return client.get("/monitor/health").status_code == 200
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
