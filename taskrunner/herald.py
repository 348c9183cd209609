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

WINDOW = 0.01
"""Seconds between two words of a door: see docs/decisions/009-coalesced-notify.md."""

GRACE = 0.002
"""Seconds that a waiting word is left for the next enqueue to take along, which is cheaper than a thread's waking."""

LINGER = 1.0
"""Seconds that the thread of a blocking door stays after the last word."""

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

    def quiet(self) -> float:
        """Return the seconds since something might have been told."""
        return time.monotonic() - self._open_at

    def take(self) -> Op[None] | None:
        """Return what is to be told now, if anything is."""
        if not self._due_at:
            return None
        now = time.monotonic()
        self._open_at = now + WINDOW
        taken, self._due_at = self._due_at, {}
        return announce([task._replace(due_in=due_at - now) for due_at, task in taken.values()])


class Herald:
    """A blocking door's, callable from any thread. Words that nobody takes along go out by a thread of its own."""

    def __init__(self, send: Callable[[Op[None]], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._pending = _Pending()
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None

    def tell(self, due: Iterable[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        with self._lock:
            self._pending.note(due, since)
            op = None if self._pending.wait() and self._watched() else self._pending.take()
        self._out(op)

    def _watched(self) -> bool:
        """Let a thread watch; False when there is none to be had any more, as at the interpreter's end."""
        if self._watch is None:
            watch = threading.Thread(target=self._look, name="taskrunner herald", daemon=False)
            try:
                watch.start()
            except RuntimeError:
                return False
            self._watch = watch
        return True

    def _look(self) -> None:
        """Send what nobody has taken along; stay for a while, since to start a thread costs as much as a NOTIFY."""
        staying = True
        while staying:
            self._closing.wait(max(self._pending.wait(), WINDOW) + GRACE)
            with self._lock:
                op = None if self._pending.wait() else self._pending.take()
                staying = bool(self._pending) or self._wanted()
                if not staying:
                    self._watch = None
            self._out(op)

    def _wanted(self) -> bool:
        """The interpreter waits for this thread before it ends."""
        over = self._closing.is_set() or not threading.main_thread().is_alive()
        return not over and self._pending.quiet() < LINGER

    def _out(self, op: Op[None] | None) -> None:
        if op is None:
            return
        try:
            self._send(op)
        except (TaskrunnerError, psycopg.Error) as error:
            _unheard(error)

    def close(self) -> None:
        """Send what is still waiting, now."""
        self._closing.set()
        with self._lock:
            op, watch = self._pending.take(), self._watch
        self._out(op)
        if watch is not None:
            watch.join(PATIENCE)


class AsyncHerald:
    """An asynchronous door's. Words that nobody takes along go out in the background of its loop."""

    def __init__(self, send: Callable[[Op[None]], Awaitable[None]]) -> None:
        self._send = send
        self._pending = _Pending()
        self._watch: asyncio.Task[None] | None = None

    async def tell(self, due: Iterable[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        self._pending.note(due, since)
        if not self._pending.wait():
            await self._out(self._pending.take())
        elif self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look(), name="taskrunner herald")

    async def _look(self) -> None:
        while self._pending:
            await asyncio.sleep(self._pending.wait() + GRACE)
            if not self._pending.wait():
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
        if self._watch is not None:
            await asyncio.wait({self._watch}, timeout=PATIENCE)
            self._watch.cancel()


def _unheard(error: Exception) -> None:
    log.debug("the runners could not be told of new tasks, they will look by themselves: %s", error)
