"""Tells the runners of new tasks: at once, or in a stream of them a few milliseconds later, all in one.

A NOTIFY inside the enqueue's own transaction would hold a lock of the whole server during its commit, and so make
all producers commit one after the other. So the word goes out after the commit, by itself, and not after each. It is
never required: what gets lost here is found by the runners' own looks. Figures: docs/decisions/009 in the repository.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg

from taskrunner.db import Op
from taskrunner.errors import TaskrunnerError
from taskrunner.store.task import Due, announce_alone

log = logging.getLogger("taskrunner.herald")

SHORTEST, LONGEST = 0.002, 0.01
"""Seconds between two words of a door: they double as long as each word tells of several enqueues."""

SHARE, BUSIEST = 0.05, 0.03
"""The part of a door's time that may go into words, as soon as one tells of several enqueues: where it takes 1 ms, as
with eight producers on two cores, the next comes 20 ms later; never more than 30."""

GRACE = 0.002
"""Seconds that a waiting word is left for the next enqueue to take along, which is cheaper than a thread's waking."""

LINGER = 1.0
"""Seconds that the thread of a blocking door stays after the last word."""

PATIENCE = 1.0
"""Seconds that a word may wait for a connection, or a door that closes for the last word: runners look as often."""


class _Pending:
    """What has not been told yet, and from when on it may be; in monotonic time."""

    def __init__(self) -> None:
        self._fronts: dict[tuple[str, str | None, int], tuple[float, Due]] = {}
        self._several = False  # enqueues since the last word
        self._crowded = False  # the last word told of several
        self._window = SHORTEST
        self._open_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._fronts)

    def covers(self, due: Sequence[Due], since: float) -> bool:
        """Whether a word that waits already says enough: no lock is needed, since it goes out after their commit."""
        fronts = self._fronts
        for task in due:
            other = fronts.get((task.queue, task.type, task.priority))
            if other is None or other[0] > since + task.due_in:
                return False
        self._several = True
        return since < self._open_at

    def note(self, due: Sequence[Due], since: float) -> bool:
        """Keep the earliest task of each queue, type and priority; returns whether they must wait.

        They are due so long after `since`, which is when their enqueue began.
        """
        self._several = bool(self._fronts)
        for task in due:
            front = task.queue, task.type, task.priority
            due_at = since + task.due_in
            if front not in self._fronts or due_at < self._fronts[front][0]:
                self._fronts[front] = due_at, task
        return since < self._open_at

    def wait(self) -> float:
        """Return the seconds until something may be told."""
        return max(0.0, self._open_at - time.monotonic())

    def quiet(self) -> float:
        """Return the seconds since something might have been told."""
        return time.monotonic() - self._open_at

    def take(self) -> Op[None] | None:
        """Return what is to be told now, if anything is."""
        if not self._fronts:
            return None
        now = time.monotonic()
        self._crowded, self._several = self._several, False
        self._window = min(2 * self._window, LONGEST) if self._crowded else SHORTEST
        self._open_at = now + self._window
        taken, self._fronts = self._fronts, {}
        return announce_alone([task._replace(due_in=due_at - now) for due_at, task in taken.values()])

    def sent(self, began: float) -> None:
        """Note that a word has been sent, which was begun at this time; a task that comes alone waits for no share."""
        if self._crowded:
            took = time.monotonic() - began
            self._open_at = max(self._open_at, began + min(took / SHARE, BUSIEST))


class Herald:
    """A blocking door's, callable from any thread. Words that nobody takes along go out by a thread of its own."""

    def __init__(self, send: Callable[[Op[None], float], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._pending = _Pending()
        self._open = threading.Lock()  # held until the door closes: to wait for it costs less than for an Event
        self._open.acquire()
        self._watch: threading.Thread | None = None

    def tell(self, due: Sequence[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        if self._pending.covers(due, since):
            return
        with self._lock:
            waits = self._pending.note(due, since)
            op = None if waits and (self._watch or self._watched()) else self._pending.take()
        self._out(op)

    def _watched(self) -> bool:
        """Let a thread watch; False when there is none to be had any more, as at the interpreter's end."""
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
            over = self._open.acquire(timeout=(self._pending.wait() or LONGEST) + GRACE)
            with self._lock:
                op = None if self._pending.wait() and not over else self._pending.take()
                staying = not over and (bool(self._pending) or self._wanted())
                if not staying:
                    self._watch = None
            self._out(op)

    def _wanted(self) -> bool:
        """The interpreter waits for this thread before it ends."""
        return self._pending.quiet() < LINGER and threading.main_thread().is_alive()

    def _out(self, op: Op[None] | None) -> None:
        if op is None:
            return
        began = time.monotonic()
        try:
            self._send(op, PATIENCE)
        except (TaskrunnerError, psycopg.Error) as error:
            _unheard(error)
        self._pending.sent(began)

    def close(self) -> None:
        """Send what is still waiting, now."""
        watch = self._watch
        if watch is not None:
            self._open.release()
            watch.join(PATIENCE)
        with self._lock:
            op = self._pending.take()
        self._out(op)


class AsyncHerald:
    """An asynchronous door's. Words that nobody takes along go out in the background of its loop."""

    def __init__(self, send: Callable[[Op[None], float], Awaitable[None]]) -> None:
        self._send = send
        self._pending = _Pending()
        self._watch: asyncio.Task[None] | None = None

    async def tell(self, due: Sequence[Due], since: float) -> None:
        """Tell the runners, now or soon, of tasks that are due so long after `since`; never raises."""
        if self._pending.covers(due, since):
            return
        if not self._pending.note(due, since):
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
        began = time.monotonic()
        try:
            await self._send(op, PATIENCE)
        except (TaskrunnerError, psycopg.Error) as error:
            _unheard(error)
        self._pending.sent(began)

    async def close(self) -> None:
        """Send what is still waiting, now."""
        await self._out(self._pending.take())
        if self._watch is not None:
            await asyncio.wait({self._watch}, timeout=PATIENCE)
            self._watch.cancel()


def _unheard(error: Exception) -> None:
    log.debug("the runners could not be told of new tasks, they will look by themselves: %s", error)
