"""The server that everything is measured on: its own, durable, the same settings for all; and what it costs.

PostgreSQL's own processes are found under the postmaster: what an ended backend used is kept there as the CPU time
of its children, so that a sum over the tree loses nothing.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from taskrunner.embedded import Cluster
from taskrunner.testing.database import Database, Server, database, prepare_template

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",  # no checkpoint falls into one contestant's time and not into another's
    "checkpoint_timeout": "30min",
    "log_line_prefix": "%m [%p] %d ",
    "log_parameter_max_length": "0",
    "log_autovacuum_min_duration": "-1",
}
IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Cost:
    """What the server has used so far: CPU seconds, WAL position and full-page images, transactions, dead tuples."""

    cpu: float
    wal: int
    images: int
    transactions: int
    dead: int


class Bench:
    """A running server with a migrated template."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.server = Server(cluster.url())
        prepare_template(self.server)

    @property
    def version(self) -> str:
        """The server's version."""
        return f"PostgreSQL {self.cluster.version}"

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Lend a fresh migrated database."""
        with database(self.server) as fresh:
            yield fresh

    @contextmanager
    def empty_database(self, name: str) -> Iterator[str]:
        """Lend a fresh empty database and yield its URL."""
        identifier = sql.Identifier(name)
        self.server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
        self.server.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        try:
            yield self.server.url_of(name)
        finally:
            self.server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))

    def checkpoint(self) -> None:
        """Write everything out, so that the next measurement begins with an empty list of duties."""
        self.server.execute(sql.SQL("CHECKPOINT"))

    def log_statements(self, name: str) -> None:
        """Let every statement of the database be logged with its duration, by sessions to come."""
        statement = sql.SQL("ALTER DATABASE {} SET log_min_duration_statement = 0")
        self.server.execute(statement.format(sql.Identifier(name)))

    def cpu(self) -> float:
        """Return the CPU seconds that all processes of the server have used, ended ones included."""
        postmaster = psutil.Process(int((self.cluster.data / "postmaster.pid").read_text().split()[0]))
        own = postmaster.cpu_times()
        total: float = own.user + own.system + own.children_user + own.children_system
        return total + sum(map(_used, postmaster.children(recursive=True)))

    def idle_cpu(self) -> float:
        """Return the CPU seconds a second that the server uses by itself."""
        before = self.cpu()
        time.sleep(IDLE_SECONDS)
        return (self.cpu() - before) / IDLE_SECONDS

    def cost(self, url: str) -> Cost:
        """Look at all the counters; those of sessions that go on lag by up to a second."""
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("SELECT pg_stat_clear_snapshot()")
            row = conn.execute(_COUNTERS).fetchone()
        assert row is not None
        return Cost(self.cpu(), *map(int, row))

    def image_bytes(self, begin: int, end: int) -> int | None:
        """Return the bytes of full-page images between two WAL positions, by pg_waldump; None where that fails."""
        bounds = [f"--{name}={_lsn(position)}" for name, position in (("start", begin), ("end", end))]
        argv = [str(self.cluster.binaries / "pg_waldump"), "--stats", *bounds, f"--path={self.cluster.data / 'pg_wal'}"]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
            # Total  <records>  <record bytes> [100%]  <image bytes> [n%]  <bytes>
            found = re.search(r"^Total\s+\d+\s+\d+ \[[^]]*\]\s+(\d+) \[", done.stdout, re.M)
            return int(found[1]) if found else None
        return None


_COUNTERS = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, (SELECT wal_fpi FROM pg_stat_wal),
       (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
       (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables)
"""


def _lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _used(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


@contextmanager
def running() -> Iterator[Bench]:
    """Start the server; it is removed afterwards with all its data."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Cluster.create(Path(folder), settings=SETTINGS) as up:
        yield Bench(up)


class StatementLog:
    """The server's log from here on: the durations of a database's statements."""

    def __init__(self, bench: Bench, name: str) -> None:
        self._path, self._name = bench.cluster.log, name
        self._begin = self._path.stat().st_size if self._path.exists() else 0

    def durations(self, pattern: str) -> list[float]:
        """Return the milliseconds of each execution whose text contains the pattern, a regular expression."""
        with self._path.open("rb") as log:
            log.seek(self._begin)
            text = log.read().decode(errors="replace")
        wanted = re.compile(pattern)
        # A line of the log begins with a date; the text of a statement goes on for many lines.
        entry = re.compile(
            rf"^\d{{4}}-\d\d-\d\d [^\n]*? {re.escape(self._name)} LOG:  duration: ([\d.]+) ms  (?:execute|statement)"
            r"(.*?)(?=^\d{4}-\d\d-\d\d |\Z)",
            re.M | re.S,
        )
        return [float(found[1]) for found in entry.finditer(text) if wanted.search(found[2])]
