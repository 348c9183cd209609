"""The doors' waiting: calls that wait for tasks' ends, and the one LISTEN connection of a door that wakes them.

It is opened when somebody has to wait, whoever and however many they are, and closed when nobody has for a while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from taskrunner import channel, db
from taskrunner.backoff import Backoff
from taskrunner.db import Op, Steps
from taskrunner.errors import AccessDenied, TaskrunnerError
from taskrunner.reads import TaskView
from taskrunner.waiting import CHANNEL, Board, Timeout, Watch, result_of, task_ids

log = logging.getLogger("taskrunner.waiting")

T = TypeVar("T")

LINGER = 5.0
"""Seconds that the connection stays after the last wait."""

_NAME = "taskrunner wait"
_FAILURES = (TaskrunnerError, psycopg.Error, TimeoutError, OSError)


class Awaiting:
    """A blocking door's, for any number of its threads."""

    def __init__(
        self, ask: Callable[[Op[Any]], Any], url: Callable[[], str], tenant: str | None, *, listen: bool
    ) -> None:
        """`ask` executes a statement in a transaction of its own; `listen` off: never by NOTIFY."""
        self._ask = ask
        self._board = Board(tenant)
        self._ear = Ear(self._board, url) if listen else None

    def as_completed(self, given: Iterable[Any], timeout: Timeout) -> Iterator[TaskView]:
        """Yield each task when it has ended. Raises: `WaitTimeout`, `NotFound`."""
        bell = threading.Event()
        with Watch(self._board, task_ids(given), timeout, bell.set) as watch:
            while watch.open:
                bell.clear()
                yield from self._pump(watch.turn())
                if not watch.open:
                    return
                if watch.late:
                    raise self._pump(watch.too_late())
                if self._ear is not None:
                    self._ear.open()
                bell.wait(min(watch.pause(), threading.TIMEOUT_MAX))

    def wait_all(self, given: Iterable[Any], timeout: Timeout) -> list[TaskView]:
        """Return the tasks, in the order in which they were given, once all have ended."""
        ids = task_ids(given)
        ended = {view.id: view for view in self.as_completed(ids, timeout)}
        return [ended[id_] for id_ in ids]

    def results(self, given: Iterable[Any], timeout: Timeout) -> list[Any]:
        """Return what the tasks' `run()` returned, in their order; the first that has not succeeded raises at once."""
        ids = task_ids(given)
        results = {view.id: result_of(view) for view in self.as_completed(ids, timeout)}
        return [results[id_] for id_ in ids]

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._ear is not None:
            self._ear.close()

    def _pump(self, steps: Steps[T]) -> T:
        value: Any = None
        refusal: AccessDenied | None = None
        while True:
            try:
                op = steps.throw(refusal) if refusal else steps.send(value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
            try:
                value, refusal = self._ask(op), None
            except AccessDenied as error:
                refusal = error


class Ear:
    """Listens in a thread of its own for as long as somebody waits, reconnecting with growing pauses."""

    def __init__(self, board: Board, url: Callable[[], str]) -> None:
        self._board, self._url = board, url
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._conn: psycopg.Connection[Any] | None = None
        self._asked_at: float | None = None  # a sign of life, of the server

    def open(self) -> None:
        """Listen, if it does not yet; a connection that has fallen silent is given up."""
        asked_at, conn = self._asked_at, self._conn
        if asked_at is not None and conn is not None and time.monotonic() - asked_at > channel.CHECK:
            db.hang_up(conn)
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                thread = threading.Thread(target=self._work, name=_NAME, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # none to be had, as at the interpreter's end: looks go on
                    return
                self._thread = thread

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            self._closed.set()
            thread, conn = self._thread, self._conn
        if conn is not None:
            db.hang_up(conn)
        if thread is not None:
            thread.join(channel.CHECK)

    def _work(self) -> None:
        backoff, told = Backoff(), _Once()
        while self._wanted():
            try:
                self._session(backoff.reset, told)
            except _FAILURES as error:
                if not self._closed.is_set():
                    told.lost(error)
            finally:
                self._board.listens(False)
            if self._board.idle_seconds() < LINGER:
                self._closed.wait(backoff.pause())

    def _wanted(self) -> bool:
        with self._lock:
            if self._closed.is_set() or self._board.idle_seconds() > LINGER:
                self._thread = None
                return False
            return True

    def _session(self, connected: Callable[[], None], told: _Once) -> None:
        conn = db.connect(self._url(), name=_NAME, prepare=False)
        try:
            self._conn = conn
            self._ask(conn, channel.listen(CHANNEL))
            connected()
            told.back()
            self._board.listens(True)
            while not self._closed.is_set() and self._board.idle_seconds() <= LINGER:
                for notify in conn.notifies(timeout=LINGER):
                    _heed(self._board, notify)
                self._ask(conn, channel.ALIVE)
        finally:
            self._conn = self._asked_at = None
            conn.close()

    def _ask(self, conn: psycopg.Connection[Any], query: Any) -> None:
        self._asked_at = time.monotonic()
        conn.execute(query)
        self._asked_at = None


class AsyncAwaiting:
    """An asynchronous door's, for any number of its loop's tasks: see `Awaiting`."""

    def __init__(
        self, ask: Callable[[Op[Any]], Awaitable[Any]], url: Callable[[], str], tenant: str | None, *, listen: bool
    ) -> None:
        self._ask = ask
        self._board = Board(tenant)
        self._ear = AsyncEar(self._board, url) if listen else None

    async def as_completed(self, given: Iterable[Any], timeout: Timeout) -> AsyncIterator[TaskView]:
        """Yield each task when it has ended. Raises: `WaitTimeout`, `NotFound`."""
        bell = asyncio.Event()
        with Watch(self._board, task_ids(given), timeout, bell.set) as watch:
            while watch.open:
                bell.clear()
                for view in await self._pump(watch.turn()):
                    yield view
                if not watch.open:
                    return
                if watch.late:
                    raise await self._pump(watch.too_late())
                if self._ear is not None:
                    self._ear.open()
                await _ring(bell, watch.pause())

    async def wait_all(self, given: Iterable[Any], timeout: Timeout) -> list[TaskView]:
        """Return the tasks, in the order in which they were given, once all have ended."""
        ids = task_ids(given)
        ended = {view.id: view async for view in self.as_completed(ids, timeout)}
        return [ended[id_] for id_ in ids]

    async def results(self, given: Iterable[Any], timeout: Timeout) -> list[Any]:
        """Return what the tasks' `run()` returned, in their order; the first that has not succeeded raises at once."""
        ids = task_ids(given)
        results = {view.id: result_of(view) async for view in self.as_completed(ids, timeout)}
        return [results[id_] for id_ in ids]

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._ear is not None:
            await self._ear.close()

    async def _pump(self, steps: Steps[T]) -> T:
        value: Any = None
        refusal: AccessDenied | None = None
        while True:
            try:
                op = steps.throw(refusal) if refusal else steps.send(value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
            try:
                value, refusal = await self._ask(op), None
            except AccessDenied as error:
                refusal = error


class AsyncEar:
    """Listens in the background of the loop: see `Ear`."""

    def __init__(self, board: Board, url: Callable[[], str]) -> None:
        self._board, self._url = board, url
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Listen, if it does not yet."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=_NAME)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        backoff, told = Backoff(), _Once()
        while self._board.idle_seconds() <= LINGER:
            try:
                await self._session(backoff.reset, told)
            except _FAILURES as error:
                told.lost(error)
            finally:
                self._board.listens(False)
            if self._board.idle_seconds() <= LINGER:
                await asyncio.sleep(backoff.pause())

    async def _session(self, connected: Callable[[], None], told: _Once) -> None:
        conn = await db.aconnect(self._url(), name=_NAME, prepare=False)
        try:
            await channel.ask(conn, channel.listen(CHANNEL))
            connected()
            told.back()
            self._board.listens(True)
            while self._board.idle_seconds() <= LINGER:
                async for notify in conn.notifies(timeout=LINGER):
                    _heed(self._board, notify)
                await channel.ask(conn, channel.ALIVE)
        finally:
            await channel.shut(conn.close())


async def _ring(bell: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        pass


def _heed(board: Board, notify: psycopg.Notify) -> None:
    """A payload that is no id is somebody else's."""
    try:
        board.told(UUID(notify.payload))
    except ValueError:
        log.debug("a notification on %s is no task's id: %.80r", notify.channel, notify.payload)


class _Once:
    """Warns of a lost connection once, until it is back."""

    def __init__(self) -> None:
        self._level = logging.WARNING

    def lost(self, error: BaseException) -> None:
        """Tell that it is lost, or cannot be had."""
        log.log(self._level, "the LISTEN connection of a wait was lost (%s): looking until it is back", error)
        self._level = logging.DEBUG

    def back(self) -> None:
        """The connection is there again."""
        self._level = logging.WARNING
