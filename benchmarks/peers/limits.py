"""What the server gives at most: the bare loop of our own statement, and pgbench without history or features."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.harness.context import bare
from benchmarks.harness.drains import Plan, by_query, drain
from benchmarks.harness.filling import LEFT, Batch, add_tasks
from benchmarks.harness.pgbench import transactions
from benchmarks.harness.processes import BenchError
from benchmarks.harness.server import Bench

BARE_TASKS = 100_000
ROWS, BATCH = 200_000, 500

TABLE = """
CREATE TABLE bench_queue (id bigint PRIMARY KEY, priority int NOT NULL, payload jsonb NOT NULL, owner int);
CREATE INDEX ON bench_queue (priority DESC, id) WHERE owner IS NULL;
INSERT INTO bench_queue SELECT i, 100, jsonb_build_object('n', i) FROM generate_series(1, {rows}) AS i;
"""
# At least once: the claim is committed before the work, the end after it; no history.
CLAIM_AND_DELETE = f"""
WITH c AS MATERIALIZED (
    SELECT id FROM bench_queue WHERE owner IS NULL ORDER BY priority DESC, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED
) UPDATE bench_queue q SET owner = :client_id FROM c WHERE q.id = c.id;
DELETE FROM bench_queue WHERE owner = :client_id;
"""
OWNER = "CREATE INDEX ON bench_queue (owner) WHERE owner IS NOT NULL"
SEQUENCE = "CREATE SEQUENCE bench_ids"
SINGLE = "INSERT INTO bench_queue VALUES (nextval('bench_ids'), 100, '{\"n\": 1}', NULL);"


def bare_loop(bench: Bench, batch: int) -> float:
    """Return tasks a second of the bare loop of the runner's statement."""
    with bench.database() as db:
        add_tasks(db, Batch(BARE_TASKS))
        with db.connect() as conn:
            return drain(bench, Plan([bare(db.url, batch)], BARE_TASKS), by_query(conn, LEFT)).rate


def claim_and_delete(bench: Bench, clients: int) -> float:
    """Return rows a second of pgbench that claims and deletes in batches of 500, with nothing else to do."""
    with bench.empty_database("bench_limit") as url:
        with psycopg.connect(url, autocommit=True) as conn:
            _prepare(conn, ROWS, OWNER)
        rate = BATCH * transactions(bench, url, CLAIM_AND_DELETE, ROWS // BATCH // clients, clients)
        with psycopg.connect(url) as conn:
            row = conn.execute("SELECT count(*) FROM bench_queue").fetchone()
        if row != (0,):
            raise BenchError(f"pgbench left {row} rows")
        return rate


def single_insert(bench: Bench) -> float:
    """Return single-row INSERT commits a second of one pgbench client."""
    with bench.empty_database("bench_limit") as url:
        with psycopg.connect(url, autocommit=True) as conn:
            _prepare(conn, 0, SEQUENCE)
        return transactions(bench, url, SINGLE, 3000)


def _prepare(conn: psycopg.Connection[Any], rows: int, more: str) -> None:
    for statement in (*filter(str.strip, TABLE.format(rows=rows).split(";")), more, "VACUUM ANALYZE", "CHECKPOINT"):
        conn.execute(statement)
