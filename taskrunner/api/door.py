"""The API's own door: opened without a database, and never waited for longer than a client would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from psycopg_pool import AsyncConnectionPool

from taskrunner import db
from taskrunner.actions import Action, acting, add_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.db import Link, Op, Work, scalar
from taskrunner.errors import DatabaseUnreachable
from taskrunner.intake import Options
from taskrunner.payload import parse_payload
from taskrunner.registry import Registry, TaskType
from taskrunner.settings import Settings
from taskrunner.store.enqueue import Enqueued
from taskrunner.task import Task

T = TypeVar("T")

LIMIT = 4.0
"""Seconds that one piece of work on the database may take."""

PING_LIMIT = 2.0
"""Seconds after which the database counts as away: orchestrators give a probe little more."""

_PING: Op[int] = Op("SELECT 1", {}, scalar)


class Door(AsyncTaskQueue):
    """An `AsyncTaskQueue` that may be opened while the database is away, and answers within `LIMIT` all the same."""

    patience = 2
    lock_patience = 3

    def __init__(self, settings: Settings, registry: Registry, url: str) -> None:
        super().__init__(url, tenant=None, registry=registry, settings=settings)
        self._url: str = url
        self._going: set[asyncio.Task[Any]] = set()
        self._probe = self._fresh_probe()

    @property
    def types(self) -> list[TaskType]:
        """The task types that this process knows, sorted by name."""
        return self._registry.all()

    async def open(self) -> None:
        """Start connecting, and wait for nothing."""
        arguments = self._pool_arguments(self._url)
        arguments["kwargs"] = {
            "connect_timeout": self.patience,
            **arguments["kwargs"],
            "application_name": "taskrunner api",
        }
        self._pool = AsyncConnectionPool(
            self._url, connection_class=db.OwnAsyncConnection, configure=db.aconfigure, **arguments
        )
        await self._pool.open()

    async def close(self) -> None:
        """Close the connections; what is still waiting for the database is given up."""
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
        await self._probe.close()
        await self._pool.close(timeout=0.5)

    def build(self, name: str, payload: Mapping[str, Any]) -> Task:
        """Return a task of the type of this name. Raises: `UnknownType`, `PayloadInvalid` with the fields' paths."""
        return parse_payload(self._registry.get(name).cls, payload)

    async def ping(self) -> None:
        """Raise `DatabaseUnreachable` unless the database answers within `PING_LIMIT`.

        By a connection of its own: the others may all be busy with statements that wait for somebody's lock.
        """
        try:
            await self._within(PING_LIMIT, self._look())
        except DatabaseUnreachable:
            self._probe = self._fresh_probe()  # the old one may take its time to give up
            raise

    async def _look(self) -> None:
        try:
            await self._probe.run(_PING)
        except DatabaseUnreachable:  # perhaps it was only the connection, from before a restart
            await self._probe.run(_PING)

    def _fresh_probe(self) -> Link:
        return Link(self._url, name="taskrunner api health", prepare=False)

    async def run(self, make: Callable[[], Work[T]]) -> T:
        """Run the work of `make()`, once more if the connection breaks. Raises: `DatabaseUnreachable`."""
        return await self._run(make)

    async def act(self, action: Action[T], actor: str) -> T:
        """Do what a person does, noted as done by `actor`; once more if the connection breaks."""
        return await self._run(*acting(actor, action))

    async def add_by(self, actor: str, task: Task, command: str, *, idempotency_key: str, **wishes: Any) -> Enqueued:
        """Store a task that a person has made up, noted as added by `actor`; the same key answers with the first."""
        asked = self._one(task, Options(**wishes), idempotency_key)
        asked.on("skip", self._patience(None))
        began = time.monotonic()
        stored = await self.act(add_task(asked, command), actor)
        await self._herald.tell(stored.due, began)
        return asked.answer(stored.answers)

    async def _run(
        self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None, *, of: UUID | None = None
    ) -> T:
        return await self._within(LIMIT, super()._run(make, again, of=of))

    async def _within(self, limit: float, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the work until the time is up; then it is cancelled, but not waited for.

        A cancelled statement first asks the server to stop it, which takes another 10 s when nobody is there.
        """
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task}, timeout=limit)
        finally:
            late = task.cancel()
        if late:
            raise DatabaseUnreachable(f"the database has not answered within {limit:g} s")
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._going.discard(task)
        if not task.cancelled():
            task.exception()  # one that nobody waits for any more was seen all the same


def door_of(request: Request) -> Door:
    """Return the door of the application that serves this request."""
    door: Door = request.app.state.door
    return door


OpenDoor = Annotated[Door, Depends(door_of)]
