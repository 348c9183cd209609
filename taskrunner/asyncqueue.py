"""The door of a user's program for asynchronous code: `AsyncTaskQueue`, the twin of `TaskQueue`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from taskrunner import db, fairness, reads, traces
from taskrunner.admission import Admission, Entry, refuse_other, refuse_repeat, within
from taskrunner.awaiting import AsyncAwaiting
from taskrunner.borrowed import async_connection
from taskrunner.db import Work, arun
from taskrunner.door import POOL_SIZE, Door, Duration
from taskrunner.durations import as_delay
from taskrunner.errors import DatabaseUnreachable
from taskrunner.flow import OnParentFailure, Step
from taskrunner.herald import AsyncHerald
from taskrunner.intake import OnConflict, Options, as_id, held
from taskrunner.reads import Page, TaskView
from taskrunner.registry import Registry
from taskrunner.states import State
from taskrunner.store import flow as flows
from taskrunner.store import steering
from taskrunner.store.enqueue import Enqueued
from taskrunner.store.replacement import live_of
from taskrunner.tenancy import arun_as, borrowing, own
from taskrunner.waiting import found, result_of

if TYPE_CHECKING:
    from taskrunner.schedules import AsyncSchedules

T = TypeVar("T")


class AsyncTaskQueue(Door):
    """Add, find and steer tasks from asynchronous code: `async with AsyncTaskQueue.connect() as queue: …`."""

    def __init__(self, url: str | None, **given: Any) -> None:
        super().__init__(url, **given)
        self._herald = AsyncHerald(self._once)
        self._awaiting = AsyncAwaiting(
            lambda op: self._run(lambda: op), self._find_url, self._bound, listen=self._settings.listen
        )

    @classmethod
    def connect(
        cls, url: str | None = None, *, tenant: str | None = None, registry: Registry | None = None
    ) -> AsyncTaskQueue:
        """Make a door to `url`, else DATABASE_URL, else the project's private server; `async with` opens it.

        With `tenant=` it is bound to that tenant: see `TaskQueue.connect`.
        """
        return cls(url, tenant=tenant, registry=registry)

    async def open(self) -> None:
        """Open the door's connections. Raises: `DatabaseUnreachable`."""
        url = await asyncio.to_thread(self._find_url)
        await (await db.aconnect(url, name="taskrunner queue")).close()
        self._pool = AsyncConnectionPool(
            url, connection_class=db.OwnAsyncConnection, configure=db.aconfigure, **self._pool_arguments(url)
        )
        await self._pool.open()

    async def close(self) -> None:
        """Close the door's connections; the embedded server stops when its last user has left."""
        await self._herald.close()
        await self._awaiting.close()
        await self._pool.close()
        await asyncio.to_thread(self._leave)  # the last user waits for the private server's end

    async def __aenter__(self) -> AsyncTaskQueue:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(
        self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None, *, of: UUID | None = None
    ) -> T:
        """Run the work of `make()`; after a lost connection again, or what `again` says: all may be repeated.

        At a door that is bound it is done as its tenant, and only if the task that it is the work `of` is his.
        """
        for _ in range(POOL_SIZE):
            try:
                return await self._once(own(make(), of, self._bound), tenant=self._bound)
            except DeadlockDetected:
                continue  # it was rolled back whole: flows that meet crosswise
            except DatabaseUnreachable as error:
                refuse_repeat(error)
                await self._pool.check()
            make = again or make
        return await self._once(own(make(), of, self._bound), tenant=self._bound)

    async def _once(self, work: Work[T], patience: float | None = None, *, tenant: str | None = None) -> T:
        try:
            conn = await self._pool.getconn(patience)
        except psycopg.Error:
            with db.translated():
                raise
        try:
            with self._patient():
                return await arun_as(conn, work, tenant)
        finally:
            await self._pool.putconn(conn)

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
        after: Any = None,
        on_parent_failure: OnParentFailure = "fail",
        connection: Any = None,
    ) -> Enqueued:
        """Store one task: see `TaskQueue.add`."""
        options = Options(delay, at, priority, queue, key, tenant, max_retries, meta or {})
        asked = self._one(task, options, idempotency_key, after, on_parent_failure)
        asked.on(on_conflict, self._patience(connection))
        return asked.answer(await self._admit(asked, connection))

    async def add_many(
        self, tasks: Iterable[Any], *, spacing: Duration = 0, tenant: str | None = None, connection: Any = None
    ) -> list[Enqueued]:
        """Store all tasks or none: see `TaskQueue.add_many`."""
        asked = self._many(tasks, spacing, tenant)
        asked.patience = self._patience(connection)
        return await self._admit(asked, connection) if asked.batch.ids else []

    async def add_flow(self, flow: Step, *, tenant: str | None = None, connection: Any = None) -> list[UUID]:
        """Store all tasks of a flow or none: see `TaskQueue.add_flow`."""
        return [answer.id for answer in await self._admit(self._whole(flow, tenant), connection)]

    async def _admit(self, asked: Admission, connection: Any) -> list[Enqueued]:
        with traces.sending(asked):
            try:
                return await self._enter(asked.first, asked.again, connection)
            except UniqueViolation as error:
                refuse_other(error)
                return await self._enter(asked.again, asked.again, connection)

    async def _enter(self, first: Entry, again: Entry, connection: Any) -> list[Enqueued]:
        if connection is not None:
            return (await arun(await async_connection(connection), borrowing(within(first()), self._bound))).answers
        began = time.monotonic()
        stored = await self._run(first, again)
        await self._herald.tell(stored.due, began)
        return stored.answers

    async def get(self, id_: UUID | str, *, whole: bool = False) -> TaskView:
        """Return the task as it is now: see `TaskQueue.get`."""
        id_ = as_id(id_)
        view = await self._run(lambda: reads.task_by_id(id_, whole=whole))
        return found(self._seen(view or await self._run(lambda: reads.successor_by_id(id_, whole=whole))), id_)

    async def cancel(self, id_: UUID | str) -> str:
        """Cancel a task: see `TaskQueue.cancel`."""
        id_ = as_id(id_)
        return await self._run(lambda: steering.cancel(id_), lambda: steering.cancel(id_, repeated=True), of=id_)

    async def retry(self, id_: UUID | str) -> UUID:
        """Make a task due now, or requeue a dead one: see `TaskQueue.retry`."""
        id_, new_id = as_id(id_), uuid7()
        return await self._run(lambda: steering.retry_now(id_, new_id), of=id_)

    async def cancel_flow(self, id_: UUID | str) -> dict[UUID, str]:
        """Cancel all tasks connected with this one: see `TaskQueue.cancel_flow`."""
        id_ = as_id(id_)
        return await self._run(lambda: flows.cancel_flow(id_), lambda: flows.cancel_flow(id_, repeated=True), of=id_)

    async def retry_flow(self, id_: UUID | str) -> dict[UUID, UUID]:
        """Requeue all dead tasks connected with this one: see `TaskQueue.retry_flow`."""
        id_ = as_id(id_)
        return await self._run(lambda: flows.retry_flow(id_), lambda: flows.retry_flow(id_, repeated=True), of=id_)

    async def reschedule(self, id_: UUID | str, *, at: datetime | None = None, delay: Duration = 0) -> None:
        """Give a pending task a new maturity: see `TaskQueue.reschedule`."""
        id_, wait = as_id(id_), as_delay(delay, "delay")
        await self._run(lambda: steering.reschedule(id_, at=at, delay=wait), of=id_)

    async def delete(self, id_: UUID | str) -> None:
        """Take a pending task back: see `TaskQueue.delete`."""
        id_ = as_id(id_)
        await self._run(
            lambda: steering.cancel(id_, running=False),
            lambda: steering.cancel(id_, running=False, repeated=True),
            of=id_,
        )

    async def get_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> TaskView:
        """Return the live task of a key: see `TaskQueue.get_by_key`."""
        return await self.get(await self._held(task, key, tenant))

    async def cancel_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> str:
        """Cancel the live task of a key: see `TaskQueue.cancel_by_key`."""
        return await self.cancel(await self._held(task, key, tenant))

    async def delete_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> None:
        """Take back the pending task of a key: see `TaskQueue.delete_by_key`."""
        await self.delete(await self._held(task, key, tenant))

    async def _held(self, task: Any, key: str | None, tenant: str | None) -> UUID:
        place = self._place(task, key, tenant)
        return held(await self._run(lambda: live_of(place)), place)

    async def wait(self, id_: UUID | str | Any, timeout: Duration | None = None) -> TaskView:
        """Return the task once it has ended: see `TaskQueue.wait`."""
        return (await self._awaiting.wait_all([id_], timeout))[0]

    async def wait_all(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> list[TaskView]:
        """Return all these tasks once the last of them has ended: see `TaskQueue.wait_all`."""
        return await self._awaiting.wait_all(ids, timeout)

    def as_completed(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> AsyncIterator[TaskView]:
        """Yield each of these tasks when it has ended, by `async for`: see `TaskQueue.as_completed`."""
        return self._awaiting.as_completed(ids, timeout)

    async def result(self, id_: UUID | str | Any, timeout: Duration | None = None) -> Any:
        """Return what the task's `run()` returned: see `TaskQueue.result`."""
        return result_of(await self.wait(id_, timeout))

    async def results(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> list[Any]:
        """Return what the tasks' `run()` returned: see `TaskQueue.results`."""
        return await self._awaiting.results(ids, timeout)

    async def list_tasks(
        self,
        *,
        type: Any = None,  # noqa: A002 - the word of the command line and the API
        state: State | str | None = None,
        queue: str | None = None,
        tenant: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
        after: UUID | str | None = None,
        **filters: Any,
    ) -> Page[TaskView]:
        """Return a page of tasks, the newest first: see `TaskQueue.list_tasks`."""
        asked = self._listed(
            type, state=state, queue=queue, tenant=tenant, since=since, limit=limit, after=after, **filters
        )
        return await self._run(lambda: reads.list_tasks(asked))

    async def stats(self) -> dict[str, int]:
        """Return how many tasks are in each state: see `TaskQueue.stats`."""
        return await self._run(lambda: reads.stats(self._bound))

    async def set_fair(self, queue: str, fair: bool = True) -> bool:
        """Let the tenants of a queue take turns: see `TaskQueue.set_fair`."""
        return await asyncio.to_thread(fairness.set_fair, self._operator(), queue, fair=fair)

    async def set_weight(self, queue: str, tenant: str, weight: int) -> None:
        """Give a tenant so many tasks in each round: see `TaskQueue.set_weight`."""
        await asyncio.to_thread(fairness.set_weight, self._operator(), queue, tenant, weight)

    @cached_property
    def schedules(self) -> AsyncSchedules:
        """Schedules that are made and steered at run time."""
        from taskrunner.schedules import AsyncSchedules  # most programs only add tasks

        return AsyncSchedules(self._run, self._registry, self._tenant, self._tenant_of)
