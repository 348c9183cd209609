"""Calls under way, and how their ends get to whoever started them: on the loop, once each, many in one turn of it."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeAlias

from taskrunner.executors.call import Call, CallEnd

log = logging.getLogger(__name__)

Done: TypeAlias = Callable[[CallEnd], None]


class Calls:
    """The calls under way in one runner; the loop is woken once for all the ends that are on their way to it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()  # what a task does to its own context shall not reach the runner's code
        self.live: set[Handle] = set()
        self._ends: deque[tuple[Handle, CallEnd]] = deque()
        self._woken = False
        self._one_told: asyncio.Event | None = None  # while all are cancelled

    def put(self, handle: Handle, end: CallEnd) -> None:
        """Take what a call came to, on the loop; it is told in the loop's next turn."""
        self._ends.append((handle, end))
        if not self._woken:
            self._woken = True
            self.loop.call_soon(self._deliver, context=self.context)

    def put_threadsafe(self, handle: Handle, end: CallEnd) -> None:
        """Take what a call came to, from any thread; raises RuntimeError where the loop is closed."""
        self._ends.append((handle, end))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._deliver, context=self.context)

    def _deliver(self) -> None:
        self._woken = False  # before the look: what is put from here on wakes the loop again
        ends = self._ends
        for _ in range(len(ends)):
            handle, end = ends.popleft()
            handle.came_to(end)

    def told(self, handle: Handle) -> None:
        """Forget a call: its end has been told."""
        self.live.discard(handle)
        if self._one_told is not None:
            self._one_told.set()

    async def cancel(self) -> None:
        """Stop all, those included that are started meanwhile; returns when their ends have been told."""
        self._one_told = asyncio.Event()
        cancelled: set[Handle] = set()
        while self.live:
            for handle in self.live - cancelled:
                cancelled.add(handle)
                handle.cancel()
            self._one_told.clear()
            await self._one_told.wait()


class Handle(ABC):
    """One call under way."""

    __slots__ = ("_calls", "_done", "call")

    def __init__(self, call: Call, done: Done, calls: Calls) -> None:
        self.call = call
        self._done: Done | None = done
        self._calls = calls
        calls.live.add(self)

    @abstractmethod
    def cancel(self) -> None:
        """Stop the call: its end is `Stopped`, unless it has come to one of its own; a second cancel waits for nothing.

        A coroutine gets CancelledError and has `cancel_patience` to end; a thread goes on as a stray; a child process
        is killed, with the processes it started, and its death awaited.
        """

    def runs_in(self, task: asyncio.Task[object] | None) -> bool:
        """Whether this asyncio task is the call's own (that of a call on the loop; its subtasks are not told apart)."""
        return False

    def came_to(self, end: CallEnd) -> None:
        """Tell the end, unless one has been told."""
        done, self._done = self._done, None
        if done is None:
            return
        self._calls.told(self)
        try:
            done(end)
        except Exception:  # it would cost the ends behind it theirs
            log.exception("the end of a call was not taken")
