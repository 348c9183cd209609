"""The contestants: what is installed, how each is run at its best, and how its acknowledgements are seen.

The settings are those of each project's own pages on performance; where these leave a choice, several values were
tried here and the fastest is taken. Numbers of tasks differ so that each drains for some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Peer:
    """One queue."""

    name: str
    title: str
    script: str
    packages: tuple[str, ...] = ()
    python: tuple[int, int] = (3, 11)
    kind: Literal["ours", "python", "node"] = "python"
    store: Literal["postgresql", "redis"] = "postgresql"
    # True while something of {tasks} tasks is not acknowledged.
    left: str = ""
    keeps: str = ""
    settings: str = ""
    tasks: int = 20_000
    singles: int = 500
    # Some drivers want a host before the path of the socket.
    host_in_url: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


OURS = Peer(
    "taskrunner",
    "taskrunner",
    "",
    kind="ours",
    left="SELECT EXISTS (SELECT FROM taskrunner.task)",
    keeps="a history row for every task, statistics per minute",
    settings="500 slots",
    tasks=200_000,
    singles=1000,
    environment={"TASKRUNNER_CONCURRENCY": "500"},
)

PEERS = (
    OURS,
    Peer(
        "graphile",
        "Graphile Worker",
        "peer_graphile.mjs",
        ("graphile-worker@0.18.0",),
        kind="node",
        left="SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
        keeps="nothing: a finished job is deleted",
        settings="24 jobs at once, local queue of 500, completions batched (its page on performance)",
        tasks=200_000,
        singles=1000,
        host_in_url=True,
    ),
    Peer(
        "pgqueuer",
        "PgQueuer",
        "peer_pgqueuer.py",
        ("pgqueuer[asyncpg]==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0"),
        left="SELECT EXISTS (SELECT FROM pgqueuer)",
        keeps="log rows (queued, picked, ended) for every job",
        settings="asyncpg on a single connection, batches of 500, uvloop, `pgq autovac`",
        tasks=80_000,
        singles=1000,
    ),
    Peer(
        "awa",
        "awa-pg",
        "peer_awa.py",
        ("awa-pg==0.6.9", "uvloop==0.23.0"),
        left="""SELECT (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)
                     + (SELECT count(*) FROM awa.done_entries) < {tasks}""",
        keeps="completed jobs for a day, in rotating tables",
        settings="queue storage, 1,024 workers, 24 connections, uvloop",
        tasks=30_000,
        host_in_url=True,
    ),
    Peer(
        "oban",
        "oban-py",
        "peer_oban.py",
        ("oban==0.7.0",),
        python=(3, 12),
        left="SELECT EXISTS (SELECT FROM oban_jobs WHERE state IN ('available', 'executing'))",
        keeps="completed jobs for a day, in the queue's table",
        settings="queue limit 500, uvloop (as its command runs it)",
        tasks=20_000,
    ),
    Peer(
        "procrastinate",
        "Procrastinate",
        "peer_procrastinate.py",
        ("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9", "uvloop==0.23.0"),
        left="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
        keeps="finished jobs and their events, in the queue's tables",
        settings="asynchronous worker, concurrency 10, psycopg with C parts, uvloop",
        tasks=3000,
    ),
    Peer(
        "celery",
        "Celery + Redis",
        "peer_celery.py",
        ("celery[redis]==5.7.0",),
        store="redis",
        keeps="nothing; Redis keeps its data in memory and saves it now and then",
        settings="solo pool (faster than prefork or threads), results ignored, acknowledged early: at most once",
        tasks=5000,
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}
