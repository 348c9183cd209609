"""`make bench-pages`: every page and every list with ten million ended tasks, a million waiting, 10,000 dead.

What is asked is found in the application itself, so that a page that is added is measured; the lists are asked for what
is common, rare, and not there at all. The table goes to stdout, all figures to .bench/dashboard.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.drain import newcomers_project
from benchmarks.harness.filling import settle
from benchmarks.harness.processes import Command, Team, ours, team, wait_until
from benchmarks.harness.results import percentile
from benchmarks.harness.server import running
from benchmarks.pages import _free_port
from taskrunner.api.app import create_app
from taskrunner.db import run
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.spans import around
from taskrunner.store import history

ENDED, WAITING, DEAD, DAYS = 10_000_000, 1_000_000, 10_000, 30
STEP = 250_000
LIMIT_MS, ENOUGH_MS = 200, 20_000
IDLE_SECONDS = 20
SPLITS = ("outcome", "type")
OUT = Path(".bench/dashboard.json")

_ID = """(lpad(to_hex((extract(epoch FROM {made}) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(i %% 4096), 3, '0')
          || '8' || substr(md5(i::text), 1, 15))::uuid"""
_RUNNER = "('00000000-0000-7000-8000-00000000000' || i %% 4)::uuid"
_PAYLOAD = """jsonb_build_object('n', i, 'user', jsonb_build_object('id', i %% 100000), 'to',
          'someone' || i || '@example.org', 'note', repeat('x', (i %% 100)::int))"""
_ERRORS = """CASE WHEN i %% {share} = 0 THEN jsonb_build_array(jsonb_build_object('at', now(), 'message',
          'TimeoutError: timed out after ' || i %% 60 || ' s', 'traceback', repeat('  File "x.py", line 1', 20)))
          ELSE '[]' END"""

_ADD_ENDED = f"""
INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, payload, meta, errors, result)
SELECT {_ID.format(made="h.made")}, h.made + interval '0.2 s', h.made + interval '0.1 s', h.made, h.made, 1, 0.1, 100,
       CASE WHEN i %% 20 = 0 THEN 1 ELSE 0 END, 0, 3, 'default', CASE i %% 4 WHEN 0 THEN 'mail' ELSE 'default' END,
       'bench.kind' || i %% 20, CASE i %% 50 WHEN 0 THEN 'ignored' WHEN 1 THEN 'cancelled' ELSE 'succeeded' END,
       {_RUNNER}, {_PAYLOAD}, '{{}}', {_ERRORS.format(share=20)}, NULL
  FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS i
 CROSS JOIN LATERAL (SELECT %(day)s::timestamptz + i * %(apart)s::interval AS made) h
"""
_ADD_WAITING = f"""
INSERT INTO taskrunner.task (id, queue, type, payload, maturity_at, created_at, tries, errors, unique_key)
SELECT {_ID.format(made="h.made")}, CASE i %% 4 WHEN 0 THEN 'mail' ELSE 'default' END, 'bench.kind' || i %% 20,
       {_PAYLOAD}, now() + (i %% 7200) * interval '1 s' - interval '1 hour', h.made,
       CASE WHEN i %% 50 = 0 THEN 1 ELSE 0 END, {_ERRORS.format(share=50)},
       CASE WHEN i %% 10 = 0 THEN 'key:' || i END
  FROM generate_series(1, %(count)s) AS i
 CROSS JOIN LATERAL (SELECT now() - i * interval '0.05 s' AS made) h
"""
_ADD_DEAD = f"""
INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, runner_id, payload, meta, errors)
SELECT {_ID.format(made="h.made")}, h.made, h.made, h.made, h.made, 4, 0.1, 100, 3, 0, 3, 'default',
       CASE i %% 4 WHEN 0 THEN 'mail' ELSE 'default' END, 'bench.kind' || i %% 20, {_RUNNER}, {_PAYLOAD}, '{{}}',
       {_ERRORS.format(share=1)}
  FROM generate_series(1, %(count)s) AS i
 CROSS JOIN LATERAL (SELECT now() - i * interval '259 s' AS made) h
"""
# As the janitor leaves them: minutes, then five minutes, then hours; of four runners while they are minutes.
_ADD_STATS = """
INSERT INTO taskrunner.task_stats (minute, runner_id, tenant, queue, type, outcome, count, run_seconds, wait_seconds,
                                   run_histogram, wait_histogram)
SELECT m, r.id, 'default', CASE k % 4 WHEN 0 THEN 'mail' ELSE 'default' END, 'bench.kind' || k, o, 35, 3.5, 0.1,
       array_fill(3::bigint, ARRAY[13]), array_fill(3::bigint, ARRAY[13])
  FROM (SELECT m, 3 AS runners FROM generate_series(date_trunc('minute', now()) - interval '89 min', now(), '1 min') m
        UNION ALL
        SELECT m, 0 FROM generate_series(date_trunc('hour', now()) - interval '24 h', now() - interval '95 min',
                                         '5 min') m
        UNION ALL
        SELECT m, 0 FROM generate_series(date_trunc('hour', now()) - interval '30 days',
                                         date_trunc('hour', now()) - interval '25 h', '1 h') m) AS t
 CROSS JOIN generate_series(0, 19) AS k
 CROSS JOIN unnest(ARRAY['succeeded', 'ignored', 'retried']) AS o
 CROSS JOIN LATERAL (SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid AS id
                       FROM generate_series(0, t.runners) n) AS r
"""
_ADD_OTHERS = """
INSERT INTO taskrunner.runner (id, kind, host, pid, queues, types, slots, running, version, started_at, lease_until)
SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'runner', 'host' || n, n, '{default,mail}',
       ARRAY(SELECT 'bench.kind' || k FROM generate_series(0, 19) k), 100, 50, '0.1.0', now(), now() + interval '1 day'
  FROM generate_series(0, 3) n;
INSERT INTO taskrunner.schedule (id, name, type, trigger, next_tick_at, created_at)
SELECT gen_random_uuid(), 'schedule' || n, 'bench.kind' || n % 20, '{"interval": {"seconds": 3600}}',
       now() + n * interval '1 min', now() FROM generate_series(1, 200) n;
INSERT INTO taskrunner.audit (acted_at, actor, action, target)
SELECT now() - n * interval '1 min', 'ada', 'task.cancel', n::text FROM generate_series(1, 100000) n;
"""


def main() -> None:
    """Fill, measure, tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--url", help="a migrated database to use, and to fill if it is empty; it is kept")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows, for a quick look")
    parser.add_argument("--times", type=int, default=40, help="how often each is asked for")
    given = parser.parse_args()
    with ExitStack() as held:
        url = given.url or held.enter_context(held.enter_context(running()).database()).url
        filled_in = fill(url, given.scale)
        found = measure(url, given.times)
    found["filled_in_seconds"] = filled_in
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1), encoding="utf-8")
    Console().print(table(found))


def fill(url: str, scale: float = 1.0) -> float | None:
    """Insert the rows, by two sessions; None where they are there already."""
    began = time.monotonic()
    with psycopg.connect(url, autocommit=True) as conn:
        if (conn.execute("SELECT EXISTS (SELECT FROM taskrunner.task)").fetchone() or ())[0]:
            return None
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        days = [midnight - timedelta(days=back) for back in range(1, DAYS + 1)]
        for day in days:
            run(conn, history.create(around(day.date(), "day"), timedelta(seconds=5)))
        share = max(round(ENDED * scale) // DAYS, 1)
        parts = [(day, first, min(STEP, share - first)) for day in days for first in range(0, share, STEP)]
        apart = timedelta(seconds=86_000 / share)

        def insert(part: tuple[datetime, int, int]) -> None:
            day, first, count = part
            with psycopg.connect(url, autocommit=True) as own:
                own.execute(_ADD_ENDED, {"day": day, "first": first, "count": count, "apart": apart})
            print(f"history: {day:%F} {first + count:,} of {share:,}", file=sys.stderr)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(insert, parts))
        conn.execute(_ADD_WAITING, {"count": round(WAITING * scale)})
        conn.execute(_ADD_DEAD, {"count": round(DEAD * scale)})
        conn.execute(_ADD_STATS)
        conn.execute(_ADD_OTHERS)
        for name in ("task_history", "task", "dead_letter", "task_stats", "audit"):
            settle(conn, f"taskrunner.{name}")
    return time.monotonic() - began


def measure(url: str, times: int) -> dict[str, Any]:
    """Ask for each path so often, in turn, and count the statements of a dashboard that nobody touches."""
    with served(url) as client:
        paths = [path for path in pages() if client.get(path).status_code != 404] + lists(client)  # others take forms
        taken: dict[str, list[float]] = {path: [] for path in paths}
        answers: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for _ in range(times):
            for path in paths:
                if sum(taken[path]) < ENOUGH_MS:
                    began = time.perf_counter()
                    answer = client.get(path)
                    taken[path].append((time.perf_counter() - began) * 1e3)
                    answers[path], sizes[path] = answer.status_code, len(answer.content)
        idle = statements(client, url)
    rows = {
        path: {"p50": percentile(ms, 0.5), "p95": percentile(ms, 0.95), "status": answers[path], "bytes": sizes[path]}
        for path, ms in taken.items()
    }
    return {"times": times, "milliseconds": rows, "idle_statements_per_second": idle}


def pages() -> list[str]:
    """Return the dashboard's pages and the figures."""
    app = create_app(Settings(), Registry(), "postgresql://nobody@localhost/nothing")
    found = [
        route.path
        for route in app.routes
        if getattr(route, "path", "").startswith("/ui/") and "{" not in route.path and route.path != "/ui/events"  # type: ignore[attr-defined]
    ]
    ranges = [
        f"/ui/?range={name}&split={split}" for name in ("1h", "24h", "7d", "30d") for split in ("outcome", "type")
    ]
    figures = ["/monitor/stats", "/metrics", "/schedules", "/queues", "/runners", "/audit", "/audit?actor=nobody"]
    return [*found, *ranges, *figures, "/audit?action=queue"]


def lists(client: httpx.Client) -> list[str]:
    """Return the lists with their filters: common values, rare ones, none at all, and deep in the list."""
    first = client.get("/tasks").json()["tasks"][0]["id"]
    ended = client.get("/tasks", params={"state": "succeeded"}).json()["tasks"][-1]["id"]
    letter = client.get("/dead-letters").json()
    dead = next(iter(letter.values()))[0]["id"]
    now = datetime.now(UTC)
    day = (now - timedelta(days=20)).isoformat().replace("+00:00", "Z")
    searches = [
        "state:pending",
        "state:running",
        "state:dead",
        "state:cancelled",
        "type:bench.kind7",
        "type:bench.k*",
        "type:bench.nosuch",
        "type:nosuch*",
        "queue:mail",
        "queue:nosuch",
        "tenant:nosuch",
        "key:10",
        "key:nosuch",
        "payload.user.id:42",
        "payload.user.id:nobody",
        "payload.user.id:42 type:bench.kind2 state:succeeded",
        "error:timed",
        "error:nosuch",
        "error:nosuch state:succeeded",
        "state:dead error:nosuch",
        "runner:00000000-0000-7000-8000-000000000001",
        "since:1h",
        "since:1h type:bench.nosuch",
        f"until:{day}",
        f"until:{day} type:bench.nosuch",
        f"until:{day} payload.user.id:nobody",
        f"{ended} {dead}",
    ]
    asked = [f"/tasks?q={quote(text)}" for text in searches]
    asked += [f"/tasks?q={quote(text)}&after={ended}" for text in ("", "type:bench.nosuch", "payload.user.id:nobody")]
    asked += [
        f"/dead-letters?q={quote(text)}" for text in ("", "error:timed", "error:nosuch", "payload.user.id:nobody")
    ]
    asked += [f"/tasks/{id_}" for id_ in (first, ended, dead)] + [f"/tasks/{first}/why", "/tasks?limit=1000"]
    shown = [f"/ui/tasks?q={quote(text)}" for text in ("", *searches[:8], *searches[13:19])]
    shown += [f"/ui/tasks/{id_}" for id_ in (first, ended, dead)]
    shown += [f"/ui/dead?q={quote(text)}" for text in ("", "error:timed")]
    return asked + [path for path in shown if client.get(path).status_code == 200]


def statements(client: httpx.Client, url: str) -> float:
    """Return how many statements a second an open dashboard causes that nobody touches, by looking 50 times a second.

    The server's own count of transactions would hold autovacuum's as well.
    """
    seen = "SELECT pid, query_start FROM pg_stat_activity WHERE application_name LIKE 'taskrunner api%'"
    with psycopg.connect(url, autocommit=True) as conn, client.stream("GET", "/ui/events"):
        time.sleep(3)
        before = set(conn.execute(seen).fetchall())
        found: set[Any] = set()
        end = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            found |= set(conn.execute(seen).fetchall())
            time.sleep(0.02)
        return len(found - before) / IDLE_SECONDS


@contextmanager
def served(url: str) -> Iterator[httpx.Client]:
    """Start the API on the database and lend a client."""
    port = _free_port()
    with newcomers_project() as folder:
        serve = ours("-m", "taskrunner", "start", "api", "--port", str(port), DATABASE_URL=url)
        with (
            team(Command(serve.words, serve.environment, folder)) as api,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
        ):
            wait_until(lambda: _answers(client, api), patience=60, what="the API's start", pause=0.1)
            yield client


def _answers(client: httpx.Client, api: Team) -> bool:
    api.check()
    with suppress(httpx.HTTPError):
        return client.get("/monitor/health").status_code == 200
    return False


def table(found: dict[str, Any]) -> Table:
    """Return the figures, the slowest first."""
    shown = Table(title=f"{found['times']} times each; idle dashboard {found['idle_statements_per_second']:.2f}/s")
    for name in ("path", "p50 ms", "p95 ms", "kB", "status"):
        shown.add_column(name, overflow="fold")
    rows = sorted(found["milliseconds"].items(), key=lambda item: -item[1]["p95"])
    for path, row in rows:
        late = "[red]" if row["p95"] > LIMIT_MS or row["status"] >= 400 else ""
        shown.add_row(
            path, f"{row['p50']:.0f}", f"{late}{row['p95']:.0f}", f"{row['bytes'] / 1e3:.0f}", str(row["status"])
        )
    return shown


if __name__ == "__main__":
    main()
