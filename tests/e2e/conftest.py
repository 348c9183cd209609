"""A world for tests with real processes: a database, a fleet of supervisors on it, and a door to look and add by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner.queue import TaskQueue
from taskrunner.reads import TaskView
from taskrunner.testing.database import Database
from tests.processes import PATIENCE, Fleet, eventually, fleet, workload


@dataclass
class World:
    """What a test with real processes has in its hands."""

    fleet: Fleet
    queue: TaskQueue
    tables: psycopg.Connection[Any]
    work: Any
    folder: Path

    def add(self, type_: str, **fields: Any) -> UUID:
        """Enqueue a task of the workload, by the name of its class."""
        return self.queue.add(getattr(self.work, type_)(**fields)).id

    def gate(self, name: str = "go") -> Path:
        """Return the file that holding tasks wait for."""
        return self.folder / name

    def running(self, id_: UUID, times: int = 1) -> list[dict[str, Any]]:
        """Return the task's runs once its user code has begun so many times."""
        return eventually(
            lambda: len(runs := self.fleet.history.of("run", id_)) >= times and runs, f"run {times} of task {id_}"
        )

    def marked(self, id_: UUID) -> None:
        """Wait until the task's start is in its row."""
        eventually(lambda: self.row(id_).started_at, f"the start of task {id_} in its row")

    def row(self, id_: UUID) -> TaskView:
        """Return the task as the database has it."""
        return self.queue.get(id_)

    def ended(self, id_: UUID) -> TaskView:
        """Return the task once it has ended."""
        return self.queue.wait(id_, PATIENCE)

    def runners(self) -> list[UUID]:
        """Return the runners whose leases have not ended."""
        rows = self.tables.execute(
            "SELECT id FROM taskrunner.runner WHERE kind = 'runner' AND lease_until > taskrunner.clock()"
        )
        return [row[0] for row in rows]

    def up(self, runners: int = 1) -> list[UUID]:
        """Return the live runners once there are so many."""
        return eventually(lambda: len(ids := self.runners()) == runners and ids, f"{runners} live runners")

    def value(self, query: str, *values: Any) -> Any:
        """Return the first column of the first row."""
        row = self.tables.execute(query, values).fetchone()
        return None if row is None else row[0]


@pytest.fixture
def world(taskrunner_db: Database, tmp_path: Path) -> Iterator[World]:
    """A database with nothing in it, and no process yet."""
    work, registry = workload()
    with (
        fleet(taskrunner_db.url, tmp_path / "fleet") as lent,
        TaskQueue.connect(taskrunner_db.url, registry=registry) as queue,
        taskrunner_db.connect() as tables,
    ):
        yield World(lent, queue, tables, work, tmp_path)
