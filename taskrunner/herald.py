"""Tells the runners of new tasks: at once when it has been quiet, else a few milliseconds later, all in one.

A NOTIFY inside the enqueue's own transaction would hold a lock of the whole server during its commit, and so make
all producers commit one after the other. So the word goes out after the commit, by itself, and at most once in
`WINDOW`. It is never required: what gets lost here is found by the runners' own looks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable

import psycopg

from taskrunner.db import Op
from taskrunner.errors import TaskrunnerError
from taskrunner.store.task import Due, announce

log = logging.getLogger("taskrunner.herald")

WINDOW = 0.005
"""Seconds between two words of a door: see docs/decisions/008-coalesced-notify.md."""

PATIENCE = 1.0
"""Seconds that a word may wait for a connection, or a door that closes for the last word: runners look as often."""


class _Pending:
    """What has not been told yet, and from when on it may be."""

    def __init__(self) -> None:
        self._due_at: dict[tuple[str, str | None, int], tuple[float, Due]] = {}
        self._open_at = 0.0  # monotonic, as are the maturities

    def __bool__(self) -> bool:
        return bool(self._due_at)

    def note(self, due: Iterable[Due], since: float) -> None:
        """Keep the earliest task of each queue, type and priority; they are due so long after `since`."""
        for task in due:
            front = (task.queue, task.type, task.priority)
            due_at = since + task.due_in
            if front not in self._due_at or due_at < self._due_at[front][0]:
                self._due_at[front] = due_at, task

    def wait(self) -> float:
        """Return the seconds until something may be told."""
        return max(0.0, self._open_at - time.monotonic())

    def take(self) -> Op[None] | None:
        """Return what is to be told now, if anything is."""
        if not self._due_at:
            return None
        now = time.monotonic()
        self._open_at = now + WINDOW
        taken, self._due_at = self._due_at, {}
        return announce([task._replace(due_in=due_at - now) for due_at, task in taken.values()])


class Herald:
    """A blocking door's, callable from any thread. A word that must wait is sent by a timer's thread."""

    def __init__(self, send: Callable[[Op[None]], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._pending = _Pending()
        self._timer: threading.Timer | None = None
        self._armed = False

    def tell(self, due: Iterable[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        with self._lock:
            self._pending.note(due, since)
            wait = self._pending.wait()
            op = None if wait and self._arm(wait) else self._pending.take()
        self._out(op)

    def _arm(self, seconds: float) -> bool:
        """Let a timer send; False when there is no thread to be had any more, as at the interpreter's end."""
        if not self._armed:
            timer = threading.Timer(seconds, self._late)
            timer.name, timer.daemon = "taskrunner herald", False  # the interpreter waits for the last word
            try:
                timer.start()
            except RuntimeError:
                return False
            self._timer, self._armed = timer, True
        return True

    def _late(self) -> None:
        with self._lock:
            self._armed = False
            op = self._pending.take()
        self._out(op)

    def _out(self, op: Op[None] | None) -> None:
        if op is None:
            return
        try:
            self._send(op)
        except (TaskrunnerError, psycopg.Error) as error:
            _unheard(error)

    def close(self) -> None:
        """Send what is still waiting, now."""
        with self._lock:
            op, timer = self._pending.take(), self._timer
        self._out(op)
        if timer is not None:
            timer.cancel()
            timer.join(PATIENCE)


class AsyncHerald:
    """An asynchronous door's. A word that must wait is sent in the background of its loop."""

    def __init__(self, send: Callable[[Op[None]], Awaitable[None]]) -> None:
        self._send = send
        self._pending = _Pending()
        self._waiting: asyncio.Task[None] | None = None

    async def tell(self, due: Iterable[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        self._pending.note(due, since)
        if not self._pending.wait():
            await self._out(self._pending.take())
        elif self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._late(), name="taskrunner herald")

    async def _late(self) -> None:
        while self._pending:  # more may have come while the last word went out
            await asyncio.sleep(self._pending.wait())
            await self._out(self._pending.take())

    async def _out(self, op: Op[None] | None) -> None:
        if op is None:
            return
        try:
            await self._send(op)
        except (TaskrunnerError, psycopg.Error) as error:
            _unheard(error)

    async def close(self) -> None:
        """Send what is still waiting, now."""
        await self._out(self._pending.take())
        if self._waiting is not None:
            await asyncio.wait({self._waiting}, timeout=PATIENCE)
            self._waiting.cancel()


def _unheard(error: Exception) -> None:
    log.debug("the runners could not be told of new tasks, they will look by themselves: %s", error)
