"""What a row's function is given: the server, how much to do, and whom to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.drains import Drained, Plan, by_query, drain
from benchmarks.harness.filling import ENDED, LEFT, Batch, add_history, add_tasks
from benchmarks.harness.processes import BenchError, Command, ours
from benchmarks.harness.server import Bench
from taskrunner.testing.database import Database

TUNED = 500
"""Slots of the runner of row 1, and the batch of the bare loop beside it."""


HISTORY = 10_000_000


class Library:
    """The database with a long history, made when it is first asked for and shared by the rows that need it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._held = ExitStack()
        self._database: Database | None = None

    def history(self, rows: int, tell: Callable[[str], None]) -> Database:
        """Return the database with so many ended tasks."""
        if self._database is None:
            fresh = self._held.enter_context(self._bench.database())
            done = 0

            def told(count: int) -> None:
                nonlocal done
                done += count
                tell(f"history: {done:,} of {rows:,} rows")

            add_history(fresh, rows, told)
            self._database = fresh
        return self._database

    def close(self) -> None:
        """Drop it."""
        self._held.close()
        self._database = None


class NotBuilt(Exception):
    """What the row measures does not exist yet; the message says what is missing."""


@dataclass
class Context:
    """The means of a row."""

    bench: Bench
    library: Library
    rounds: int
    scale: float
    tell: Callable[[str], None] = lambda _: None
    details: dict[str, Any] = field(default_factory=dict)

    def scaled(self, full: int, least: int = 1) -> int:
        """Return a count of things, fewer in a quick look."""
        return max(round(full * self.scale), least)

    def history(self) -> Database:
        """Return the database with ten million ended tasks, fewer in a quick look."""
        return self.library.history(self.scaled(HISTORY, 100_000), self.tell)

    def drained(self, db: Database, command: Command, tasks: int, processes: int = 1) -> Drained:
        """Let worker processes empty the database; every task must be in history then."""
        before = _count(db)
        with db.connect() as conn:
            done = drain(self.bench, Plan([command] * processes, tasks), by_query(conn, LEFT))
        ended = _count(db) - before
        if ended != tasks:
            raise BenchError(f"{ended} of {tasks} tasks are in history")
        return done

    def filled_and_drained(self, make: Callable[[str], Command], batch: Batch, processes: int = 1) -> Drained:
        """Fill a fresh database, and let the workers that `make(url)` returns empty it."""
        with self.bench.database() as db:
            add_tasks(db, batch)
            return self.drained(db, make(db.url), batch.count, processes)


def runner(url: str, slots: int = TUNED) -> Command:
    """Return a runner process with so many slots."""
    return ours("-m", "benchmarks.workload", "work", url, TASKRUNNER_CONCURRENCY=str(slots))


def bare(url: str, batch: int = TUNED) -> Command:
    """Return the bare loop of the runner's own statement."""
    return ours("-m", "benchmarks.workload", "bare", url, str(batch))


def _count(db: Database) -> int:
    with db.connect() as conn:
        row = conn.execute(ENDED).fetchone()
    return int(row[0]) if row else 0
