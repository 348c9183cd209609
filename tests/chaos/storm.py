"""A storm: a fleet at work, somebody who adds tasks all the time, a fault that strikes meanwhile, and then the calm.

When it is calm again, everything that was acknowledged must have ended, the processes are drained, and the checker
reads what the workload, the database and the tables say.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg

from taskrunner.errors import TaskrunnerError
from taskrunner.queue import TaskQueue
from tests.chaos import record
from tests.chaos.checker import Violation, check
from tests.chaos.history import Event
from tests.processes import QUICK, Fleet, eventually, fleet, workload

SMALL_SET = 10
"""Storms of the small set; they share TASKRUNNER_CHAOS_SECONDS."""


def seconds() -> float:
    """Return how long one storm lasts: a share of TASKRUNNER_CHAOS_SECONDS, else a few seconds."""
    return max(4.0, float(os.environ.get("TASKRUNNER_CHAOS_SECONDS", "0")) / SMALL_SET)


@dataclass
class Storm:
    """What a fault has in its hands. `url` is where the fleet's processes find the database."""

    fleet: Fleet
    queue: TaskQueue
    tables: psycopg.Connection[Any]
    chance: Random
    url: str
    work: Any = field(default_factory=lambda: workload()[0])
    mix: Callable[[Storm], Any] | None = None
    acknowledged: int = 0

    def task(self) -> Any:
        """Return a task of the usual mix: quick ones, slow ones, such as fail at first, such as want to be alone."""
        if self.mix is not None:
            return self.mix(self)
        work, dice = self.work, self.chance.random()
        if dice < 0.75:
            return work.Nap(seconds=self.chance.choice((0, 0.01, 0.1)))
        if dice < 0.85:
            return work.Nap(seconds=self.chance.uniform(0.3, 1.5))
        return work.Flaky(failures=1) if dice < 0.93 else work.Single(key=self.chance.choice("abc"))

    def add(self) -> UUID | None:
        """Enqueue a task and note what became of that: acknowledged, there already (its id), or unknown (None)."""
        task, note = self.task(), self.fleet.history.note
        try:
            answer = self.queue.add(task)
        except (TaskrunnerError, psycopg.Error):
            note("enqueue", task=str(task.id), ack="unknown")
            return None
        note("enqueue", task=str(task.id), ack="yes" if answer.id == task.id else "no")
        self.acknowledged += 1
        return answer.id

    @contextmanager
    def adding(self, pause: float = 0.02, threads: int = 1) -> Iterator[None]:
        """Let threads add tasks meanwhile."""
        over = threading.Event()

        def add() -> None:
            while not over.wait(pause):
                self.add()

        adders = [threading.Thread(target=add, name=f"adder {number}") for number in range(threads)]
        for adder in adders:
            adder.start()
        try:
            yield
        finally:
            over.set()
            for adder in adders:
                adder.join()

    def strike(self, fault: Callable[[Storm], None]) -> None:
        """Repeat the fault as long as a storm lasts, at least once."""
        until, first = time.monotonic() + seconds(), True
        with self.adding():
            while first or time.monotonic() < until:
                first = False
                fault(self)

    def calm(self) -> None:
        """Wait until everything has ended but what schedules will make; somebody must be there who works."""
        eventually(lambda: not self._alive(), "an end of all tasks", patience=120)

    def judge(self, leaks: tuple[str, ...] = ()) -> list[Violation]:
        """Drain everybody, and let the checker read the history; it is printed when it is bad."""
        alive = [group for group in self.fleet.groups if group.process.poll() is None]
        for group in alive:
            group.signal(signal.SIGTERM)
        leaks += tuple(f"a supervisor ended with {group.wait()}" for group in alive if not group.left_well())
        leaks += tuple(f"process {process.pid}" for process in self.fleet.survivors())
        events: list[Event] = [*self.fleet.history, *record.read(self.tables)]
        violations = check([*events, record.tables(self.tables, leaks)])
        for violation in violations[:20]:
            print(violation)
            for event in events:
                if violation.subject and event.get("task") == violation.subject:
                    print("   ", event)
        return violations

    def _alive(self) -> int:
        row = self.tables.execute("SELECT count(*) FROM taskrunner.task").fetchone()
        return int(row[0]) if row else 0


@contextmanager
def storm(url: str, folder: Path, *, through: str | None = None, **environment: str) -> Iterator[Storm]:
    """Lend a storm on a migrated database, of which it notes everything; `through` is the URL by way of a proxy."""
    seed = os.environ.get("TASKRUNNER_CHAOS_SEED") or str(int.from_bytes(os.urandom(4)))
    print(f"TASKRUNNER_CHAOS_SEED={seed}")
    chance = Random(seed)  # noqa: S311 - no secret depends on it
    with psycopg.connect(url, autocommit=True, application_name="chaos") as tables:
        record.install(tables)
        with (
            fleet(through or url, folder / "fleet", **{**QUICK, **environment}) as lent,
            TaskQueue.connect(through or url, registry=workload()[1]) as queue,
        ):
            yield Storm(lent, queue, tables, chance, through or url)


def at_work(storm: Storm, groups: int) -> None:
    """Wait until so many runners have a lease."""

    def alive() -> bool:
        with suppress(psycopg.Error):
            row = storm.tables.execute(
                "SELECT count(*) FROM taskrunner.runner WHERE kind = 'runner' AND lease_until > taskrunner.clock()"
            ).fetchone()
            return bool(row and row[0] >= groups)
        return False

    eventually(alive, f"{groups} runners at work")
