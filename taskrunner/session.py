"""`context.session()`: the transaction of a run, which is committed together with the task's finish.

Loaded when a task asks for its first session: nothing else in a runner, or in a child process, needs SQLAlchemy.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, Self, TypeVar, cast
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import AsyncSession as PlainAsyncSession
from sqlalchemy.pool import PoolProxiedConnection
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from taskrunner import borrowed, db, events
from taskrunner.db import Steps
from taskrunner.engines import COMMITTING, make_async_engine, make_engine, refusal
from taskrunner.errors import TaskrunnerError
from taskrunner.errortext import error_entry
from taskrunner.store import effect as store
from taskrunner.store.effect import Fence, Kept
from taskrunner.store.ending import end
from taskrunner.store.task import Ending

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run's finish in its session came to.

    `stored`: committed, the task has ended. `lost`: the claim is no longer this runner's, all is rolled back.
    `unsure`: the connection was lost after COMMIT was sent. `refused`: nothing is stored, `error` says why.
    """

    kind: Literal["stored", "lost", "unsure", "refused"]
    error: Mapping[str, str] | None = None


class TaskSession(Session):
    """The session of one run. What it does is committed by the runner, with the finish, after SUCCESS."""

    unit: Unit

    def commit(self) -> NoReturn:
        """Refuse: half of the work would be committed without its finish."""
        raise refusal("commit()")

    def begin(self, nested: bool = False) -> Any:
        """Begin a savepoint; refuse another transaction, whose end would be a commit."""
        if not nested:
            raise refusal("begin()")
        return super().begin(nested=True)

    def close(self) -> NoReturn:
        """Refuse: it would undo the work without a word."""
        raise TaskrunnerError(
            "close() of context.session() would undo its work: leave it to the runner, or call rollback()"
        )

    def __enter__(self) -> Self:
        self.unit.entered()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.unit.left()
        if kind is not None:
            self.rollback()


class AsyncTaskSession(AsyncSession):
    """The same on the event loop."""

    sync_session_class = TaskSession
    execute = PlainAsyncSession.execute  # SQLModel's warns each time that `exec` is better

    async def __aenter__(self) -> Self:
        _unit_of(self).entered()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        _unit_of(self).left()
        if kind is not None:
            await self.rollback()


def _unit_of(session: AsyncSession) -> Unit:
    unit: Unit = session.sync_session.unit  # type: ignore[attr-defined]  # it is a TaskSession
    return unit


# ── the transaction of a run ─────────────────────────────────────────────────────────────────────────────────────────


class Unit:
    """The session of one run, what its claim is fenced with, and how it ends; see `ThreadUnit` and `LoopUnit`."""

    def __init__(self, fence: Fence, session: TaskSession) -> None:
        self.fence = fence
        self._sync = session
        self._sync.unit = self
        self._depth: int | None = None  # None: never entered
        self._lent: PoolProxiedConnection | None = None
        self.aborted = False

    def entered(self) -> None:
        """A `with` begins."""
        self._depth = (self._depth or 0) + 1

    def left(self) -> None:
        """A `with` ends."""
        self._depth = (self._depth or 1) - 1

    @property
    def inside(self) -> bool:
        """Whether the run is inside its session: within its `with`, or anywhere, if it uses none."""
        return self._depth is None or self._depth > 0

    @property
    def used(self) -> bool:
        """Whether anything is to be committed."""
        return self._sync.in_transaction()

    def took(self, connection: Connection) -> None:
        """A connection is lent to it. Raises: `TaskrunnerError` when the run is over."""
        self._lent = connection.connection
        if self.aborted:
            connection.invalidate()
            raise TaskrunnerError("the run is over: its session can be used no more")

    def abort(self) -> None:
        """Break its connection off, from any thread: the server rolls back, and the code that uses it gets errors."""
        self.aborted = True
        if self._lent is not None:
            with suppress(Exception):  # it has been given back already
                db.hang_up(cast("psycopg.Connection[Any]", self._lent.driver_connection))

    def _committable(self, driver: Any) -> None:
        if driver.autocommit:
            raise TaskrunnerError("context.session() cannot be used in AUTOCOMMIT: its work is committed already")


@event.listens_for(TaskSession, "after_begin")
def _note_connection(session: TaskSession, _: object, connection: Connection) -> None:
    session.unit.took(connection)


class ThreadUnit(Unit):
    """Of a run in a thread, or of a `def run` in a child process: a `Session`."""

    def __init__(self, fence: Fence, engine: Engine) -> None:
        self.session = TaskSession(engine)
        super().__init__(fence, self.session)

    def abort(self) -> None:
        """Do the same; the place in the pool is free at once, however long the thread goes on."""
        super().abort()
        if self._lent is not None:
            with suppress(Exception):
                driver = cast("psycopg.Connection[Any]", self._lent.driver_connection)
                self._lent.detach()
                # Not now: the thread may be in the midst of a statement.
                weakref.finalize(self.session, driver.close).atexit = False

    def kept(self, key: str) -> Kept:
        """Look up a key, in the session's transaction."""
        return db.run(borrowed.sync_connection(self.session), store.kept(self.fence, key))

    def keep(self, key: str, value: str) -> bool:
        """Keep a value in the session's transaction; False when the claim is lost."""
        self.session.flush()
        return db.run(borrowed.sync_connection(self.session), store.keep_in_session(self.fence, key, value))

    def finish(self, ending: Ending) -> Verdict:
        """Write the finish, commit it with the session's work, and give the connection back."""
        committing = False
        try:
            self.session.flush()
            driver = borrowed.sync_connection(self.session)
            self._committable(driver)
            if _write(driver, end(self.fence.runner_id, ending)) is None:
                return Verdict("lost")
            committing = True
            _commit(self.session)
        except Exception as error:
            return _verdict_on(error, committing=committing)
        finally:
            self.undo()
        return Verdict("stored")

    def undo(self) -> None:
        """Roll back what is not committed, and give the connection back."""
        _give_back(self.session, broken=self.aborted)


class LoopUnit(Unit):
    """Of a run on an event loop: an `AsyncSession`."""

    def __init__(self, fence: Fence, engine: AsyncEngine) -> None:
        self.session = AsyncTaskSession(engine)
        sync: Any = self.session.sync_session
        super().__init__(fence, sync)

    async def kept(self, key: str) -> Kept:
        """Look up a key, in the session's transaction."""
        return await db.arun(await borrowed.async_connection(self.session), store.kept(self.fence, key))

    async def keep(self, key: str, value: str) -> bool:
        """Keep a value in the session's transaction; False when the claim is lost."""
        await self.session.flush()
        driver = await borrowed.async_connection(self.session)
        return await db.arun(driver, store.keep_in_session(self.fence, key, value))

    async def finish(self, ending: Ending) -> Verdict:
        """Write the finish, commit it with the session's work, and give the connection back."""
        committing = False
        try:
            await self.session.flush()
            driver = await borrowed.async_connection(self.session)
            self._committable(driver)
            if await _awrite(driver, end(self.fence.runner_id, ending)) is None:
                return Verdict("lost")
            committing = True
            await self.session.run_sync(_commit)
        except Exception as error:
            return _verdict_on(error, committing=committing)
        finally:
            await self.undo()
        return Verdict("stored")

    async def undo(self) -> None:
        """Roll back what is not committed, and give the connection back."""
        await self.session.run_sync(_give_back, broken=self.aborted)


def _commit(session: Any) -> None:
    events.fail_point("before_session_commit")
    session.connection().info[COMMITTING] = True
    Session.commit(session)
    events.fail_point("after_session_commit")


def _give_back(session: Any, *, broken: bool) -> None:
    """Roll back and return the connection to its pool; one that is broken is thrown away."""
    with suppress(Exception):
        if not broken:
            Session.close(session)
            return
    with suppress(Exception):
        session.invalidate()


# Statement by statement in the transaction that is open: `db.run` would put the finish into a savepoint of it.


def _write(driver: psycopg.Connection[Any], finish: Steps[T]) -> T:
    answer: Any = None
    try:
        while True:
            op = finish.send(answer)
            events.fail_point("session_finish")
            answer = db.run(driver, op)
    except StopIteration as end_of_steps:
        return end_of_steps.value  # type: ignore[no-any-return]  # StopIteration.value is untyped


async def _awrite(driver: psycopg.AsyncConnection[Any], finish: Steps[T]) -> T:
    answer: Any = None
    try:
        while True:
            op = finish.send(answer)
            events.fail_point("session_finish")
            answer = await db.arun(driver, op)
    except StopIteration as end_of_steps:
        return end_of_steps.value  # type: ignore[no-any-return]  # StopIteration.value is untyped


def _verdict_on(error: Exception, *, committing: bool) -> Verdict:
    """Before COMMIT was sent, a connection that is lost is a failed try: perhaps it is lost each time."""
    gone = isinstance(error, DBAPIError) and error.connection_invalidated
    return Verdict("unsure") if gone and committing else Verdict("refused", error_entry(error))


# ── in a child process ───────────────────────────────────────────────────────────────────────────────────────────────


class ChildUnit:
    """The session of a run in a child process, which ends it there: the runner hears how."""

    def __init__(self, told: Mapping[str, Any], id_: UUID, claim_no: int, *, on_loop: bool) -> None:
        """`told` is what `connection_for_children` said to the child."""
        fence = Fence(UUID(told["runner_id"]), id_, claim_no)
        self.on_loop = on_loop
        self._unit: Any = (LoopUnit if on_loop else ThreadUnit)(fence, _engine(told["url"], told["prepare"], on_loop))
        self.session: Any = self._unit.session
        self.kept, self.keep, self.undo = self._unit.kept, self._unit.keep, self._unit.undo

    @property
    def inside(self) -> bool:
        """Whether the run is inside its session."""
        return bool(self._unit.inside)

    @property
    def used(self) -> bool:
        """Whether anything is to be committed."""
        return bool(self._unit.used)

    def finish(self, result: str | None, seconds: float) -> Any:
        """Finish the task after so many seconds; returns a `Verdict`, or what is to be awaited for it."""
        fence = self._unit.fence
        return self._unit.finish(Ending(fence.id, fence.claim_no, seconds, seconds, "succeeded", result))


@lru_cache(maxsize=2)
def _engine(url: str, prepare: bool, on_loop: bool) -> Any:
    """Return this process's engine, which keeps no connection: the next call has another loop."""
    return (make_async_engine if on_loop else make_engine)(url, prepare=prepare, most=0)


def connection_for_children(url: str, runner_id: UUID, *, prepare: bool) -> dict[str, Any]:
    """Return what a child process is told when it asks for a session."""
    return {"module": __name__, "url": url, "prepare": prepare, "runner_id": str(runner_id)}
