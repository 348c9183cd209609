"""What integration tests drive the engine with: statements by hand, doors, and runners in the test's own loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from taskrunner import db, events, reads
from taskrunner.queue import TaskQueue
from taskrunner.reads import TaskView
from taskrunner.registry import Registry
from taskrunner.runner import Runner, Ties
from taskrunner.settings import Settings
from taskrunner.store import enqueue
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.enqueue import NewTask
from taskrunner.store.runner import Process
from taskrunner.store.task import Claimed, Cycle, Cycled, Due, Ending, Front
from taskrunner.testing.database import Database

T = TypeVar("T")
Connection = psycopg.Connection[Any]

WAIT = 60.0
"""Seconds after which something that should happen within milliseconds has not happened."""

LEASE = timedelta(seconds=15)
KINDS = (
    events.Joined,
    events.Listening,
    events.Claimed,
    events.Started,
    events.Ended,
    events.Settled,
    events.LeaseLost,
)


def fronts(conn: Connection, types: Sequence[str], queue: str = "default") -> list[Front]:
    """Return where tasks are to be claimed, due or not, by a survey: as a runner finds it out."""
    return [Front(prospect.type, prospect.priority) for prospect in db.run(conn, store.survey([queue], types))]


def claim(
    conn: Connection, runner: UUID, room: int = 1, types: Sequence[str] = ("T",), queue: str = "default", **asked: Any
) -> list[Claimed]:
    """Look where due tasks are, and claim them."""
    where = fronts(conn, types, queue)
    return db.run(conn, store.cycle(Cycle(runner, queue=queue, fronts=where, room=room, **asked))).claimed


class Engine:
    """One test's database, and what is done to it: by a door, by hand-made claims, by real runners."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self.db, self.registry, self.url = database, registry, database.url
        self.conn = db.connect(database.url, name="test")

    def close(self) -> None:
        self.conn.close()

    # ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────

    def do(self, work: db.Work[T]) -> T:
        return db.run(self.conn, work)

    def rows(self, query: str, *values: Any) -> list[Any]:
        return self.conn.execute(query, values).fetchall()  # type: ignore[arg-type]  # a test's own literal

    def value(self, query: str, *values: Any) -> Any:
        return self.rows(query, *values)[0][0]

    def add(self, count: int = 1, **fields: Any) -> list[UUID]:
        """Store tasks as a door would; of the type `T` if nothing is said."""
        return [answer.id for answer in self.do(enqueue.add([self.new(**fields) for _ in range(count)]))]

    def new(self, **fields: Any) -> NewTask:
        return NewTask(**{"id": uuid7(), "type": "T", "payload": "{}", "queue": "default", **fields})

    def flood(self, count: int, **columns: Any) -> None:
        """Insert many rows at once; a column is a value, or an SQL expression of `i` in a tuple of one."""
        shown = {
            "id": ("gen_random_uuid()",),
            "type": "T",
            "maturity_at": ("now()",),
            "created_at": ("now()",),
            **columns,
        }
        made = [value[0] if isinstance(value, tuple) else "%s" for value in shown.values()]
        query = (
            f"INSERT INTO taskrunner.task ({', '.join(shown)}) SELECT {', '.join(made)} FROM generate_series(1, %s) i"
        )
        values = [value for value in shown.values() if not isinstance(value, tuple)]
        self.conn.execute(query, [*values, count])  # type: ignore[arg-type]  # a test's own literals

    def join(self, *types: str, lease: timedelta = LEASE) -> UUID:
        """Register a runner that only exists on paper."""
        process = Process(uuid7(), "runner", "paper", 1, ("default",), types or ("T",), 100, "0")
        return self.do(runner_store.join(process, lease))[0]

    def claim(self, runner: UUID, room: int = 1, types: Sequence[str] = ("T",), **asked: Any) -> list[Claimed]:
        """Claim as a runner does that has just looked where."""
        return claim(self.conn, runner, room, types, **asked)

    def finish(self, runner: UUID, *claims: Claimed | Ending) -> Cycled:
        endings = [claim if isinstance(claim, Ending) else Ending(claim.id, claim.claim_no) for claim in claims]
        return self.do(store.cycle(Cycle(runner, endings)))

    def retry(self, runner: UUID, claim: Claimed, delay: float = 0.0) -> list[Due]:
        return self.do(store.retry(runner, [Ending(claim.id, claim.claim_no, detail='{"message": "no"}', delay=delay)]))

    def die(self, runner: UUID, limit: int = 3) -> dict[UUID, str]:
        """End a runner's lease and rescue what it left; returns the verdicts."""
        self.do(runner_store.end_leases([runner]))
        rescued = self.do(runner_store.rescue(runner, limit))
        return {task.id: task.verdict for task in rescued}

    def view(self, id_: UUID) -> TaskView:
        view = self.do(reads.task_by_id(id_))
        assert view is not None, f"task {id_} has vanished"
        return view

    def ends(self, id_: UUID) -> int:
        """Count the terminal rows of a task: one, if all is well."""
        return int(
            self.value(
                "SELECT (SELECT count(*) FROM taskrunner.task_history WHERE id = %s)"
                " + (SELECT count(*) FROM taskrunner.dead_letter WHERE id = %s)",
                id_,
                id_,
            )
        )

    def backends(self, name: str) -> list[int]:
        """Return the backends of this database that serve connections of this application name."""
        found = self.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", name
        )
        return [row[0] for row in found]

    # ── a door, and runners ──────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def door(self) -> Iterator[TaskQueue]:
        with TaskQueue.connect(self.url, registry=self.registry) as queue:
            yield queue

    @asynccontextmanager
    async def running(self, ties: Ties | None = None, **settings: Any) -> AsyncIterator[Running]:
        """Run a runner beside the test; afterwards it drains, and must have left nothing behind."""
        before = set(asyncio.all_tasks()), set(threading.enumerate())
        chosen = Settings(**{"concurrency": 10, "grace": timedelta(seconds=5), **settings})
        runner = Runner(self.url, self.registry, chosen, ties)
        with ExitStack() as heard:
            life = asyncio.create_task(runner.run(), name="the runner")
            running = Running(self, runner, life, heard)
            try:
                await running.until(events.Joined)
                yield running
            finally:
                runner.stop()
                running.strays = await asyncio.wait_for(life, WAIT)
        await self._check_nothing_left(running, *before)

    async def _check_nothing_left(self, running: Running, tasks: set[Any], threads: set[threading.Thread]) -> None:
        left_tasks = {task for task in asyncio.all_tasks() - tasks if task.get_name() != "taskrunner wait"}  # a door's
        assert not left_tasks, f"asyncio tasks are left: {left_tasks}"
        deadline = time.monotonic() + WAIT
        # A backend ends a moment after its connection, which nothing tells us of.
        while (names := self._left(threads, running)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not names, f"left behind: {names}"

    def _left(self, threads: set[threading.Thread], running: Running) -> list[str]:
        ids = [event.runner_id for event in running.seen[events.Joined]]
        left = [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("taskrunner")]
        left = [name for name in left if name != "taskrunner wait"]
        left = left[running.strays :]
        left += [f"connection {pid}" for pid in self.backends("taskrunner runner%")]
        left += [f"connection {pid}" for pid in self.backends("taskrunner listen%")]
        left += [f"connection {pid}" for pid in self.backends("taskrunner heart")]
        left += [f"row {id_}" for (id_,) in self.rows("SELECT id FROM taskrunner.task WHERE runner_id = ANY(%s)", ids)]
        left += [f"runner {id_}" for (id_,) in self.rows("SELECT id FROM taskrunner.runner WHERE id = ANY(%s)", ids)]
        return left


class Running:
    """A runner at work and every event that it has told of."""

    def __init__(self, engine: Engine, runner: Runner, life: asyncio.Task[int], heard: ExitStack) -> None:
        self.engine, self.runner, self._life = engine, runner, life
        self.seen: dict[type, list[Any]] = {kind: [] for kind in KINDS}
        self.strays = 0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        for kind in KINDS:
            heard.enter_context(events.on(kind, self._note))

    def _note(self, event: Any) -> None:
        self.seen[type(event)].append(event)
        self._loop.call_soon_threadsafe(self._changed.set)

    async def until(
        self, kind: type[T], count: int = 1, *, where: Callable[[T], bool] = lambda _: True, within: float = WAIT
    ) -> list[T]:
        """Wait until that many events of the kind have happened; returns them."""
        async with asyncio.timeout(within):
            while len(found := [event for event in self.seen[kind] if where(event)]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    async def started(self, *ids: UUID) -> None:
        """Wait until these tasks have been started."""
        for id_ in ids:
            await self.until(events.Started, where=lambda event, id_=id_: event.task_id == id_)  # type: ignore[misc]

    async def ended(self, *ids: UUID) -> list[TaskView]:
        """Wait until these tasks have a terminal row; returns them."""
        views: list[TaskView] = []
        for id_ in ids:
            async with asyncio.timeout(WAIT):
                self._changed.clear()
                while (view := await self._view(id_)).finished_at is None:
                    await self._changed.wait()
                    self._changed.clear()
            views.append(view)
        return views

    async def gone(self) -> None:
        """Wait until the runner has left by itself."""
        await asyncio.wait_for(asyncio.shield(self._life), WAIT)

    async def _view(self, id_: UUID) -> TaskView:
        """Look by a connection of its own thread, so that the runner's loop is not held up."""
        return await asyncio.to_thread(self.engine.view, id_)

    def runs(self, id_: UUID) -> int:
        """Count the starts of a task."""
        return sum(event.task_id == id_ for event in self.seen[events.Started])


@contextmanager
def holding(url: str, query: str, *values: Any) -> Iterator[psycopg.Connection[Any]]:
    """Keep a transaction of somebody else's open that has executed `query`."""
    with psycopg.connect(url) as conn:
        conn.execute(query, values)  # type: ignore[arg-type]  # a test's own literal
        yield conn
        conn.rollback()


def ids_of(claims: Sequence[Claimed]) -> list[UUID]:
    return [claim.id for claim in claims]
