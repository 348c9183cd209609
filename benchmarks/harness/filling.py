"""Rows made by the server itself: tasks that wait, and history of days gone by."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from taskrunner.db import run
from taskrunner.spans import around
from taskrunner.store import history
from taskrunner.testing.database import Database

LEFT = "SELECT EXISTS (SELECT FROM taskrunner.task)"
DUE_LEFT = "SELECT EXISTS (SELECT FROM taskrunner.task WHERE type = 'bench.noop' AND maturity_at <= now())"
ENDED = "SELECT count(*) FROM taskrunner.task_history"
DAYS = 10
STEP = 250_000  # rows of one statement

# A UUIDv7 as clients make them: ascending, 48 bits of milliseconds first.
_ID = """(lpad(to_hex({base} + i / 4096), 12, '0') || '7' || lpad(to_hex(i %% 4096), 3, '0')
          || '8' || substr(md5(i::text), 1, 15))::uuid"""

_TASKS = f"""
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, maturity_at, created_at)
SELECT {_ID.format(base="%(base)s::bigint")},
       'default' || coalesce(nullif(i * %(tenants)s::bigint / %(count)s, 0)::text, ''), 'default',
       %(kind)s, 100, jsonb_build_object('n', i), now() + %(due_in)s, now()
  FROM generate_series(0, %(count)s - 1) AS i
"""

_HISTORY = f"""
INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, payload, meta, errors, result)
SELECT {_ID.format(base="(extract(epoch FROM h.made) * 1000)::bigint")}, h.made + interval '0.2 s',
       h.made + interval '0.1 s', h.made, h.made, 1, 0.1, 100, 0, 0, 3, 'default',
       CASE i %% 4 WHEN 0 THEN 'mail' ELSE 'default' END, 'bench.kind' || i %% 20,
       CASE i %% 50 WHEN 0 THEN 'ignored' ELSE 'succeeded' END, NULL, jsonb_build_object('n', i), '{{}}', '[]', NULL
  FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS i
 CROSS JOIN LATERAL (SELECT %(day)s::timestamptz + i * %(apart)s::interval AS made) h
"""

_STATS = """
INSERT INTO taskrunner.task_stats (minute, runner_id, tenant, queue, type, outcome, count, run_seconds, wait_seconds,
                                   run_histogram, wait_histogram)
SELECT m, '00000000-0000-7000-8000-000000000000', 'default', 'default', 'bench.kind' || k, 'succeeded', 35, 3.5, 0.1,
       array_fill(3::bigint, ARRAY[13]), array_fill(3::bigint, ARRAY[13])
  FROM generate_series(date_trunc('minute', now()) - interval '10 days', now(), '1 min') AS m
 CROSS JOIN generate_series(0, 19) AS k
"""


@dataclass(frozen=True)
class Batch:
    """Tasks of one kind: how many, when due, of how many tenants, one behind the other."""

    count: int
    kind: str = "bench.noop"
    due_in: timedelta = timedelta(0)
    tenants: int = 1


def add_tasks(db: Database, batch: Batch) -> None:
    """Insert tasks, and leave the table vacuumed and analysed and the server at rest."""
    base = int(time.time() * 1000) - batch.count // 4096 - 1
    params = {"base": base, "count": batch.count, "kind": batch.kind, "due_in": batch.due_in, "tenants": batch.tenants}
    with db.connect() as conn:
        conn.execute(_TASKS, params)
        settle(conn, "taskrunner.task")


def settle(conn: psycopg.Connection[Any], table: str) -> None:
    """Vacuum, analyse, checkpoint: what a measurement begins with."""
    conn.execute(f"VACUUM (ANALYZE) {table}")
    conn.execute("CHECKPOINT")


def add_history(db: Database, rows: int, told: Callable[[int], None]) -> None:
    """Insert ended tasks of the last ten days, by two sessions; `told` hears of every 250,000."""
    now = _now(db)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [midnight - timedelta(days=back) for back in range(1, DAYS + 1)]
    with db.connect() as conn:
        for day in days:
            run(conn, history.create(around(day.date(), "day"), timedelta(seconds=5)))
        conn.execute(_STATS)
    share = max(rows // len(days), 1)
    parts = [(day, first, min(STEP, share - first)) for day in days for first in range(0, share, STEP)]

    def insert(part: tuple[datetime, int, int]) -> None:
        day, first, count = part
        apart = timedelta(seconds=86_000 / share)
        with db.connect() as conn:
            conn.execute(_HISTORY, {"day": day, "first": first, "count": count, "apart": apart})
        told(count)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(insert, parts))
    with db.connect() as conn:
        settle(conn, "taskrunner.task_history")
        conn.execute("VACUUM (ANALYZE) taskrunner.task_stats")


def _now(db: Database) -> datetime:
    with db.connect() as conn:
        conn.execute("SET TimeZone = 'UTC'")
        row = conn.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
