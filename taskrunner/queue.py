"""The door of a user's program that blocks: `TaskQueue`; its twin for asynchronous code is `AsyncTaskQueue`.

Both offer the same methods. Everything they do is an `Op` or steps of them; only the pump differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg_pool import ConnectionPool
from uuid_utils.compat import uuid7

from taskrunner import db, fairness, reads, traces
from taskrunner.admission import Admission, Entry, refuse_other, refuse_repeat, within
from taskrunner.awaiting import Awaiting
from taskrunner.borrowed import sync_connection
from taskrunner.db import Work, run
from taskrunner.door import POOL_SIZE, Door, Duration
from taskrunner.durations import as_delay
from taskrunner.errors import DatabaseUnreachable
from taskrunner.flow import OnParentFailure, Step
from taskrunner.herald import Herald
from taskrunner.intake import OnConflict, Options, as_id, held
from taskrunner.reads import Page, TaskView
from taskrunner.registry import Registry
from taskrunner.states import State
from taskrunner.store import flow as flows
from taskrunner.store import steering
from taskrunner.store.enqueue import Enqueued
from taskrunner.store.replacement import live_of
from taskrunner.tenancy import borrowing, own, run_as
from taskrunner.waiting import found, result_of

if TYPE_CHECKING:
    from taskrunner.schedules import Schedules

T = TypeVar("T")


class TaskQueue(Door):
    """Add, find and steer tasks from blocking code; safe to share between threads.

    `with TaskQueue.connect() as queue: queue.add(SendEmail(to="a@b.c"))`. Raises `DatabaseUnreachable` where no method
    says otherwise, and `SchemaBehind` when `taskrunner migrate` has not been run.
    """

    def __init__(self, url: str | None, **given: Any) -> None:
        super().__init__(url, **given)
        self._herald = Herald(self._once)
        self._awaiting = Awaiting(
            lambda op: self._run(lambda: op), self._find_url, self._bound, listen=self._settings.listen
        )

    @classmethod
    def connect(
        cls, url: str | None = None, *, tenant: str | None = None, registry: Registry | None = None
    ) -> TaskQueue:
        """Open a door to `url`, else DATABASE_URL, else the project's private server.

        With `tenant=` it is bound: every transaction says so by SET LOCAL, and neither a task nor a figure of another
        tenant is seen or changed, whatever the login may do; those of the rest are not found.
        """
        queue = cls(url, tenant=tenant, registry=registry)
        queue._open()
        return queue

    def _open(self) -> None:
        url = self._find_url()
        db.connect(url, name="taskrunner queue").close()
        self._pool = ConnectionPool(
            url, connection_class=db.OwnConnection, configure=db.configure, **self._pool_arguments(url)
        )
        self._pool.open()

    def close(self) -> None:
        """Close the door's connections; the embedded server stops when its last user has left."""
        self._herald.close()
        self._awaiting.close()
        self._pool.close()
        self._leave()

    def __enter__(self) -> TaskQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None, *, of: UUID | None = None
    ) -> T:
        """Run the work of `make()`; after a lost connection again, or what `again` says: all may be repeated.

        At a door that is bound it is done as its tenant, and only if the task that it is the work `of` is his.
        """
        for _ in range(POOL_SIZE):
            try:
                return self._once(own(make(), of, self._bound), tenant=self._bound)
            except DeadlockDetected:
                continue  # it was rolled back whole: flows that meet crosswise
            except DatabaseUnreachable as error:
                refuse_repeat(error)
                self._pool.check()
            make = again or make
        return self._once(own(make(), of, self._bound), tenant=self._bound)

    def _once(self, work: Work[T], patience: float | None = None, *, tenant: str | None = None) -> T:
        try:  # not `with connection()`, which would end the transaction that `run` has ended
            conn = self._pool.getconn(patience)
        except psycopg.Error:
            with db.translated():
                raise
        try:
            with self._patient():
                return run_as(conn, work, tenant)
        finally:
            self._pool.putconn(conn)

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
        after: Any = None,
        on_parent_failure: OnParentFailure = "fail",
        connection: Any = None,
    ) -> Enqueued:
        """Store one task and return its id; when it returns, the task is safe (with `connection=`, once you commit).

        A live task of the same unique key, or an earlier one of the same `idempotency_key`, answers with its id
        and `created=False`; `on_conflict="error"` raises `Conflict` instead, `"replace"` gives the live one the new
        work: at once if it waits, else as its successor, which runs after it and whose id answers (`replaced=True`).
        With `after=` (ids, or what `add` returned) it is blocked until those have succeeded; `on_parent_failure` says
        what it does when one of them fails: `fail` too, `run` all the same, or `wait` until that one is requeued.
        Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument`: nothing is stored then.
        """
        options = Options(delay, at, priority, queue, key, tenant, max_retries, meta or {})
        asked = self._one(task, options, idempotency_key, after, on_parent_failure)
        asked.on(on_conflict, self._patience(connection))
        return asked.answer(self._admit(asked, connection))

    def add_many(
        self, tasks: Iterable[Any], *, spacing: Duration = 0, tenant: str | None = None, connection: Any = None
    ) -> list[Enqueued]:
        """Store all tasks or none, in one transaction; `spacing` gives them maturities 0, s, 2 s … from now."""
        asked = self._many(tasks, spacing, tenant)
        asked.patience = self._patience(connection)
        return self._admit(asked, connection) if asked.batch.ids else []

    def add_flow(self, flow: Step, *, tenant: str | None = None, connection: Any = None) -> list[UUID]:
        """Store all tasks of a flow or none; returns their ids in the order in which they stand in it.

        Raises as `add`, and `Conflict` where one of them has a key that a live task has.
        """
        return [answer.id for answer in self._admit(self._whole(flow, tenant), connection)]

    def _admit(self, asked: Admission, connection: Any) -> list[Enqueued]:
        with traces.sending(asked):
            try:
                return self._enter(asked.first, asked.again, connection)
            except UniqueViolation as error:
                refuse_other(error)
                return self._enter(asked.again, asked.again, connection)

    def _enter(self, first: Entry, again: Entry, connection: Any) -> list[Enqueued]:
        if connection is not None:
            return run(sync_connection(connection), borrowing(within(first()), self._bound)).answers
        began = time.monotonic()
        stored = self._run(first, again)
        self._herald.tell(stored.due, began)
        return stored.answers

    def get(self, id_: UUID | str, *, whole: bool = False) -> TaskView:
        """Return the task as it is now, live or ended. Raises: `NotFound`.

        As people see it, with the secrets in its payload, meta and result covered; `whole`: as it is stored.
        """
        id_ = as_id(id_)
        view = self._run(lambda: reads.task_by_id(id_, whole=whole))
        return found(self._seen(view or self._run(lambda: reads.successor_by_id(id_, whole=whole))), id_)

    def cancel(self, id_: UUID | str) -> str:
        """Cancel a pending task (`cancelled`), or ask the runner of a running one to stop it (`requested`).

        Raises: `NotFound`, `Conflict` naming the state.
        """
        id_ = as_id(id_)
        return self._run(lambda: steering.cancel(id_), lambda: steering.cancel(id_, repeated=True), of=id_)

    def retry(self, id_: UUID | str) -> UUID:
        """Make a pending task due now, or requeue a dead one; returns the id to look for. Raises as `cancel`."""
        id_, new_id = as_id(id_), uuid7()
        return self._run(lambda: steering.retry_now(id_, new_id), of=id_)

    def cancel_flow(self, id_: UUID | str) -> dict[UUID, str]:
        """Cancel all tasks connected with this one that have not ended; returns what became of each, as `cancel`.

        Raises: `NotFound`, `Conflict` when all of them have ended.
        """
        id_ = as_id(id_)
        return self._run(lambda: flows.cancel_flow(id_), lambda: flows.cancel_flow(id_, repeated=True), of=id_)

    def retry_flow(self, id_: UUID | str) -> dict[UUID, UUID]:
        """Requeue all dead tasks connected with this one, to run in their order; returns the new ids by the old.

        Raises: `NotFound`, `Conflict` when none of them is dead or a key is taken again.
        """
        id_ = as_id(id_)
        return self._run(lambda: flows.retry_flow(id_), lambda: flows.retry_flow(id_, repeated=True), of=id_)

    def reschedule(self, id_: UUID | str, *, at: datetime | None = None, delay: Duration = 0) -> None:
        """Give a pending task a new maturity. Raises as `cancel`."""
        id_, wait = as_id(id_), as_delay(delay, "delay")
        self._run(lambda: steering.reschedule(id_, at=at, delay=wait), of=id_)

    def delete(self, id_: UUID | str) -> None:
        """Take a pending task back: it ends as cancelled. Raises: `NotFound`, `Conflict` for any other state."""
        id_ = as_id(id_)
        self._run(
            lambda: steering.cancel(id_, running=False),
            lambda: steering.cancel(id_, running=False, repeated=True),
            of=id_,
        )

    def get_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> TaskView:
        """Return the live task of a key: of a type, given as its class or name, and the `key` that it was added with.

        For types that are unique by themselves the type alone, or a task with the fields that count.
        Raises: `NotFound`, `UnknownType`, `InvalidArgument`.
        """
        return self.get(self._held(task, key, tenant))

    def cancel_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> str:
        """Cancel the live task of a key: see `get_by_key`, `cancel`. A running one's successor comes all the same."""
        return self.cancel(self._held(task, key, tenant))

    def delete_by_key(self, task: Any, key: str | None = None, *, tenant: str | None = None) -> None:
        """Take back the pending task of a key: see `get_by_key` and `delete`."""
        self.delete(self._held(task, key, tenant))

    def _held(self, task: Any, key: str | None, tenant: str | None) -> UUID:
        place = self._place(task, key, tenant)
        return held(self._run(lambda: live_of(place)), place)

    def wait(self, id_: UUID | str | Any, timeout: Duration | None = None) -> TaskView:
        """Return the task once it has ended, however: given by id, or by what `add` returned.

        It waits through retries, and for no task but this one: a requeued dead letter is a new task.
        Raises: `WaitTimeout` saying where the task is, `NotFound`.
        """
        return self._awaiting.wait_all([id_], timeout)[0]

    def wait_all(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> list[TaskView]:
        """Return all these tasks, in the order given, once the last of them has ended. Raises as `wait`."""
        return self._awaiting.wait_all(ids, timeout)

    def as_completed(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> Iterator[TaskView]:
        """Yield each of these tasks when it has ended, the first to end first. Raises as `wait`, after what has ended.

        The timeout is for all of them, and begins with the first step.
        """
        return self._awaiting.as_completed(ids, timeout)

    def result(self, id_: UUID | str | Any, timeout: Duration | None = None) -> Any:
        """Return what `run()` returned. Raises: `TaskDead` with the last error, `WaitTimeout`, `NotFound`."""
        return result_of(self.wait(id_, timeout))

    def results(self, ids: Iterable[UUID | str | Any], timeout: Duration | None = None) -> list[Any]:
        """Return what the tasks' `run()` returned, in the order given. Raises as `result`, as soon as one is dead."""
        return self._awaiting.results(ids, timeout)

    def list_tasks(
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
        """Return a page of tasks, live, ended and dead in one list, the newest first; a bound door's own.

        `type` is a class or a name, `since` the earliest creation. `next` of the page is `after` of the next one, and
        None on the last; a page may be short, or empty, with more behind it. `filters` are the other fields of
        `reads.TaskFilter`: `until`, `key`, `error`, `where`, `runner_id`, `ids`. Raises: `InvalidArgument`.
        """
        asked = self._listed(
            type, state=state, queue=queue, tenant=tenant, since=since, limit=limit, after=after, **filters
        )
        return self._run(lambda: reads.list_tasks(asked))

    def stats(self) -> dict[str, int]:
        """Return how many tasks are in each state; ended ones of the last 24 hours, dead ones all."""
        return self._run(lambda: reads.stats(self._bound))

    def set_fair(self, queue: str, fair: bool = True) -> bool:
        """Let the tenants of a queue take turns, or not: see `taskrunner.fairness.set_fair`.

        Returns: False when transactions were open that may have added tasks without knowing.
        """
        return fairness.set_fair(self._operator(), queue, fair=fair)

    def set_weight(self, queue: str, tenant: str, weight: int) -> None:
        """Give a tenant so many tasks in each round of a fair queue, 1 to 1000; 1 is what everybody has."""
        fairness.set_weight(self._operator(), queue, tenant, weight)

    @cached_property
    def schedules(self) -> Schedules:
        """Schedules that are made and steered at run time."""
        from taskrunner.schedules import Schedules  # most programs only add tasks

        return Schedules(self._run, self._registry, self._tenant, self._tenant_of)
