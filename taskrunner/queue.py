"""The two doors of a user's program: `TaskQueue` for blocking code, `AsyncTaskQueue` for asynchronous code.

Both offer the same methods. Everything they do is an `Op` or steps of them; only the pump differs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
from uuid_utils.compat import uuid7

from taskrunner import db, reads
from taskrunner.access import database
from taskrunner.borrowed import async_connection, sync_connection
from taskrunner.db import Work, arun, run
from taskrunner.durations import as_delay
from taskrunner.errors import Conflict, DatabaseUnreachable, InvalidArgument, NotFound, TaskDead, WaitTimeout
from taskrunner.intake import OnConflict, Options, aliases_of, as_id, check_key, compose, compose_many
from taskrunner.reads import TaskView
from taskrunner.registry import Registry
from taskrunner.registry import registry as declared
from taskrunner.settings import Settings, load
from taskrunner.states import TERMINAL
from taskrunner.store import enqueue as enqueue_store
from taskrunner.store import steering
from taskrunner.store.enqueue import Enqueued, Idempotency, NewTask

T = TypeVar("T")
Duration = timedelta | float

POOL_SIZE = 4
"""Connections a door holds at most."""


class _Door:
    """What both doors share: where they lead to, and the work of each method."""

    patience: float = 10
    """Seconds to wait for a connection."""

    def __init__(
        self, url: str | None, *, tenant: str, registry: Registry | None, settings: Settings | None = None
    ) -> None:
        settings = settings or load()
        self._settings = settings
        self._tenant = tenant
        self._registry = registry or declared
        self._given, self._url = url, url
        self._access = ExitStack()

    def _find_url(self) -> str:
        """Return the database's URL; without one, join the project's private server for as long as the door is open."""
        if self._url is None:
            self._url = self._access.enter_context(database(self._settings)).url
        return self._url

    def _leave(self) -> None:
        self._access.close()
        self._url = self._given

    def _pool_arguments(self, url: str) -> dict[str, Any]:
        """A pool that has given up connecting starts anew with the next caller; until then its pauses would double."""
        return {
            "kwargs": db.arguments(url, name="taskrunner queue", prepare=self._settings.prepare),
            "min_size": 1,
            "max_size": POOL_SIZE,
            "timeout": self.patience,
            "reconnect_timeout": self.patience,
            "open": False,
            "num_workers": 1,
        }

    def _order(self, task: Any, options: Options) -> NewTask:
        return compose(self._registry, task, options, self._tenant)

    def _add(self, rows: list[NewTask], idempotency_key: str | None = None) -> Work[list[Enqueued]]:
        aliases = aliases_of(self._registry, (row.type for row in rows if row.unique_key is not None))
        return enqueue_store.add(rows, aliases=aliases, idempotency=self._idempotency(idempotency_key))

    def _idempotency(self, key: str | None) -> Idempotency | None:
        if key is None:
            return None
        return Idempotency(f"caller {check_key('idempotency_key', key)}", self._settings.idempotency_retention)


def _refuse(answer: Enqueued, on_conflict: OnConflict, row: NewTask) -> Enqueued:
    if on_conflict == "error" and answer.id != row.id:  # the same id is this very enqueue, repeated
        raise Conflict(f"a live {row.type} has this key: task {answer.id}")
    return answer


def _refuse_repeat(error: DatabaseUnreachable) -> None:
    """Raise the error again when no connection was to be had in time: another wait would bring nothing."""
    if isinstance(error.__cause__, PoolTimeout):
        raise error


def _check_conflict(on_conflict: str) -> None:
    if on_conflict not in ("skip", "error"):
        raise InvalidArgument(f"on_conflict must be 'skip' or 'error', not {on_conflict!r}")


def _found(view: TaskView | None, id_: UUID) -> TaskView:
    if view is None:
        raise NotFound(f"no task {id_}: it was never stored, or retention has removed it")
    return view


def _result(view: TaskView) -> Any:
    if view.state != "succeeded":
        last = view.errors[-1]["message"] if view.errors else "it has no result"
        raise TaskDead(f"task {view.id} is {view.state}: {last}")
    return view.result


def _late(id_: UUID | str, why: str) -> WaitTimeout:
    return WaitTimeout(f"task {id_} has not ended in time" + (f": {why}" if why else ""))


def _looks(timeout: Duration | None) -> Iterator[float]:
    """Yield the pauses after looks at a task, from 20 ms growing to 1 s; the last look is when the time is up."""
    end = float("inf") if timeout is None else time.monotonic() + as_delay(timeout, "timeout").total_seconds()
    pause = 0.02
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, 1.0)
    yield 0.0


class TaskQueue(_Door):
    """Add, find and steer tasks from blocking code; safe to share between threads.

    `with TaskQueue.connect() as queue: queue.add(SendEmail(to="a@b.c"))`. Raises `DatabaseUnreachable` where no method
    says otherwise, and `SchemaBehind` when `taskrunner migrate` has not been run.
    """

    @classmethod
    def connect(cls, url: str | None = None, *, tenant: str = "default", registry: Registry | None = None) -> TaskQueue:
        """Open a door to `url`, else DATABASE_URL, else the project's private server."""
        queue = cls(url, tenant=tenant, registry=registry)
        queue._open()
        return queue

    def _open(self) -> None:
        url = self._find_url()
        db.connect(url, name="taskrunner queue").close()
        self._pool = ConnectionPool(url, configure=db.configure, **self._pool_arguments(url))
        self._pool.open()

    def close(self) -> None:
        """Close the door's connections; the embedded server stops when its last user has left."""
        self._pool.close()
        self._leave()

    def __enter__(self) -> TaskQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None) -> T:
        """Run the work of `make()`; after a lost connection once more, or what `again` says: all may be repeated."""
        try:
            return self._once(make())
        except DatabaseUnreachable as error:
            _refuse_repeat(error)
            self._pool.check()
            return self._once((again or make)())

    def _once(self, work: Work[T]) -> T:
        with db.translated(), self._pool.connection() as conn:
            return run(conn, work)

    def add(
        self,
        task: Any,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        key: str | None = None,
        on_conflict: OnConflict = "skip",
        idempotency_key: str | None = None,
        tenant: str | None = None,
        max_retries: int | None = None,
        meta: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> Enqueued:
        """Store one task and return its id; when it returns, the task is safe (with `connection=`, once you commit).

        A live task of the same unique key, or an earlier one of the same `idempotency_key`, answers with its id
        and `created=False`; `on_conflict="error"` raises `Conflict` instead.
        Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument`: nothing is stored then.
        """
        _check_conflict(on_conflict)
        row = self._order(task, Options(delay, at, priority, queue, key, tenant, max_retries, meta or {}))
        if connection is not None:
            answers = run(sync_connection(connection), self._add([row], idempotency_key))
        else:
            answers = self._run(lambda: self._add([row], idempotency_key))
        return _refuse(answers[0], on_conflict, row)

    def add_many(
        self, tasks: Iterable[Any], *, spacing: Duration = 0, tenant: str | None = None, connection: Any = None
    ) -> list[Enqueued]:
        """Store all tasks or none, in one transaction; `spacing` gives them maturities 0, s, 2 s … from now."""
        rows = compose_many(self._registry, tasks, as_delay(spacing, "spacing"), tenant or self._tenant)
        if not rows:
            return []
        if connection is not None:
            return run(sync_connection(connection), self._add(rows))
        return self._run(lambda: self._add(rows))

    def get(self, id_: UUID | str) -> TaskView:
        """Return the task as it is now, live or ended. Raises: `NotFound`."""
        id_ = as_id(id_)
        return _found(self._run(lambda: reads.task_by_id(id_)), id_)

    def cancel(self, id_: UUID | str) -> str:
        """Cancel a pending task (`cancelled`), or ask the runner of a running one to stop it (`requested`).

        Raises: `NotFound`, `Conflict` naming the state.
        """
        id_ = as_id(id_)
        return self._run(lambda: steering.cancel(id_), lambda: steering.cancel(id_, repeated=True))

    def retry(self, id_: UUID | str) -> UUID:
        """Make a pending task due now, or requeue a dead one; returns the id to look for. Raises as `cancel`."""
        id_, new_id = as_id(id_), uuid7()
        return self._run(lambda: steering.retry_now(id_, new_id))

    def reschedule(self, id_: UUID | str, *, at: datetime | None = None, delay: Duration = 0) -> None:
        """Give a pending task a new maturity. Raises as `cancel`."""
        id_, wait = as_id(id_), as_delay(delay, "delay")
        self._run(lambda: steering.reschedule(id_, at=at, delay=wait))

    def delete(self, id_: UUID | str) -> None:
        """Take a pending task back: it ends as cancelled. Raises: `NotFound`, `Conflict` for any other state."""
        id_ = as_id(id_)
        self._run(
            lambda: steering.cancel(id_, running=False), lambda: steering.cancel(id_, running=False, repeated=True)
        )

    def wait(self, id_: UUID | str, timeout: Duration | None = None) -> TaskView:
        """Return the task once it has ended. Raises: `WaitTimeout`, `NotFound`."""
        for pause in _looks(timeout):
            view = self.get(id_)
            if view.state in TERMINAL:
                return view
            time.sleep(pause)
        raise _late(id_, self._run(lambda: reads.unattended(as_id(id_))))

    def result(self, id_: UUID | str, timeout: Duration | None = None) -> Any:
        """Return what `run()` returned. Raises: `TaskDead` with the last error, `WaitTimeout`, `NotFound`."""
        return _result(self.wait(id_, timeout))

    def stats(self) -> dict[str, int]:
        """Return how many tasks are in each state; ended ones of the last 24 hours, dead ones all."""
        return self._run(reads.stats)


class AsyncTaskQueue(_Door):
    """Add, find and steer tasks from asynchronous code: `async with AsyncTaskQueue.connect() as queue: …`."""

    @classmethod
    def connect(
        cls, url: str | None = None, *, tenant: str = "default", registry: Registry | None = None
    ) -> AsyncTaskQueue:
        """Make a door to `url`, else DATABASE_URL, else the project's private server; `async with` opens it."""
        return cls(url, tenant=tenant, registry=registry)

    async def open(self) -> None:
        """Open the door's connections. Raises: `DatabaseUnreachable`."""
        url = await asyncio.to_thread(self._find_url)
        await (await db.aconnect(url, name="taskrunner queue")).close()
        self._pool = AsyncConnectionPool(url, configure=db.aconfigure, **self._pool_arguments(url))
        await self._pool.open()

    async def close(self) -> None:
        """Close the door's connections; the embedded server stops when its last user has left."""
        await self._pool.close()
        await asyncio.to_thread(self._leave)  # the last user waits for the private server's end

    async def __aenter__(self) -> AsyncTaskQueue:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None) -> T:
        """Run the work of `make()`; after a lost connection once more, or what `again` says: all may be repeated."""
        try:
            return await self._once(make())
        except DatabaseUnreachable as error:
            _refuse_repeat(error)
            await self._pool.check()
            return await self._once((again or make)())

    async def _once(self, work: Work[T]) -> T:
        with db.translated():
            async with self._pool.connection() as conn:
                return await arun(conn, work)

    async def add(
        self,
        task: Any,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        key: str | None = None,
        on_conflict: OnConflict = "skip",
        idempotency_key: str | None = None,
        tenant: str | None = None,
        max_retries: int | None = None,
        meta: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> Enqueued:
        """Store one task: see `TaskQueue.add`."""
        _check_conflict(on_conflict)
        row = self._order(task, Options(delay, at, priority, queue, key, tenant, max_retries, meta or {}))
        if connection is not None:
            answers = await arun(await async_connection(connection), self._add([row], idempotency_key))
        else:
            answers = await self._run(lambda: self._add([row], idempotency_key))
        return _refuse(answers[0], on_conflict, row)

    async def add_many(
        self, tasks: Iterable[Any], *, spacing: Duration = 0, tenant: str | None = None, connection: Any = None
    ) -> list[Enqueued]:
        """Store all tasks or none: see `TaskQueue.add_many`."""
        rows = compose_many(self._registry, tasks, as_delay(spacing, "spacing"), tenant or self._tenant)
        if not rows:
            return []
        if connection is not None:
            return await arun(await async_connection(connection), self._add(rows))
        return await self._run(lambda: self._add(rows))

    async def get(self, id_: UUID | str) -> TaskView:
        """Return the task as it is now: see `TaskQueue.get`."""
        id_ = as_id(id_)
        return _found(await self._run(lambda: reads.task_by_id(id_)), id_)

    async def cancel(self, id_: UUID | str) -> str:
        """Cancel a task: see `TaskQueue.cancel`."""
        id_ = as_id(id_)
        return await self._run(lambda: steering.cancel(id_), lambda: steering.cancel(id_, repeated=True))

    async def retry(self, id_: UUID | str) -> UUID:
        """Make a task due now, or requeue a dead one: see `TaskQueue.retry`."""
        id_, new_id = as_id(id_), uuid7()
        return await self._run(lambda: steering.retry_now(id_, new_id))

    async def reschedule(self, id_: UUID | str, *, at: datetime | None = None, delay: Duration = 0) -> None:
        """Give a pending task a new maturity: see `TaskQueue.reschedule`."""
        id_, wait = as_id(id_), as_delay(delay, "delay")
        await self._run(lambda: steering.reschedule(id_, at=at, delay=wait))

    async def delete(self, id_: UUID | str) -> None:
        """Take a pending task back: see `TaskQueue.delete`."""
        id_ = as_id(id_)
        await self._run(
            lambda: steering.cancel(id_, running=False), lambda: steering.cancel(id_, running=False, repeated=True)
        )

    async def wait(self, id_: UUID | str, timeout: Duration | None = None) -> TaskView:
        """Return the task once it has ended: see `TaskQueue.wait`."""
        for pause in _looks(timeout):
            view = await self.get(id_)
            if view.state in TERMINAL:
                return view
            await asyncio.sleep(pause)
        raise _late(id_, await self._run(lambda: reads.unattended(as_id(id_))))

    async def result(self, id_: UUID | str, timeout: Duration | None = None) -> Any:
        """Return what the task's `run()` returned: see `TaskQueue.result`."""
        return _result(await self.wait(id_, timeout))

    async def stats(self) -> dict[str, int]:
        """Return how many tasks are in each state: see `TaskQueue.stats`."""
        return await self._run(reads.stats)
