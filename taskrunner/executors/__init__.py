"""Run one call of a task's `run()`: on the event loop, in a thread, or in a child process that can be killed.

`Executors.run(call)` gives back what the call came to as a value, `Returned` or `BrokeOff`; nothing that a task raises,
SystemExit included, ever travels through the runner's own stack.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from taskrunner.executors.call import BrokeOff, Call, NoCapacity, OnMessage, OnRequest, Returned, RunEnd
from taskrunner.executors.children import Children
from taskrunner.executors.onloop import LoopGuard, OnLoop
from taskrunner.executors.threads import Threads

__all__ = ["BrokeOff", "Call", "Executors", "NoCapacity", "OnMessage", "OnRequest", "Returned", "RunEnd"]


class Executors:
    """The three ways to run a task in one runner process; built and used on one running event loop."""

    def __init__(
        self,
        *,
        concurrency: int,
        process_slots: int,
        stray_limit: int,
        on_message: OnMessage | None = None,
        on_request: OnRequest | None = None,
        on_strays: Callable[[int], None] | None = None,
        cancel_patience: timedelta = timedelta(seconds=5),
    ) -> None:
        """Set the bounds: threads at once, child processes at once, strays that cost no thread slot.

        `on_message(task_id, claim_no, kind, data)` gets what a child process tells, `on_request` what it asks;
        `on_strays(number)` every change of `strays`. All three are called on the loop.
        """
        self._on_strays = on_strays
        self._callers: set[asyncio.Task[object]] = set()
        self._drained = asyncio.Event()
        self._loop_runs = OnLoop(patience=cancel_patience, on_strays=self._strays_changed)
        self._threads = Threads(slots=concurrency, stray_limit=stray_limit, on_strays=self._strays_changed)
        self._children = Children(slots=process_slots, on_message=on_message, on_request=on_request)
        self._ways: dict[str, OnLoop | Threads | Children] = {
            "loop": self._loop_runs,
            "thread": self._threads,
            "process": self._children,
        }
        self._guard = LoopGuard()

    async def start(self) -> None:
        """Make the loop safe against SystemExit in a task's subtasks; threads and children start on first use."""
        self._guard.install()

    async def close(self) -> int:
        """Cancel the calls that still run, kill the children, let idle threads end; return the number of strays.

        Nothing can end those: with any left, the process should leave by `os._exit`.
        """
        while self._callers:
            self._drained.clear()
            for caller in self._callers:
                caller.cancel()
            await self._drained.wait()
        self._guard.remove()
        await self._children.close()
        await self._threads.close()
        return self.strays

    async def run(self, call: Call) -> RunEnd:
        """Run the call and return what it came to; when cancelled, stop it and raise CancelledError.

        A coroutine gets CancelledError and has `cancel_patience` to end; a thread goes on as a stray; a child
        process is killed, with the processes it started. A second cancel waits for nothing.
        """
        caller = cast("asyncio.Task[object]", asyncio.current_task())
        self._callers.add(caller)
        try:
            return await self._ways[call.executor].run(call)
        finally:
            self._callers.discard(caller)
            if not self._callers:
                self._drained.set()

    @property
    def strays(self) -> int:
        """How many threads and coroutines of stopped calls still run."""
        return self._threads.strays + self._loop_runs.strays

    @property
    def live_threads(self) -> int:
        """How many threads of the pool are alive, idle ones and strays included."""
        return self._threads.live

    def _strays_changed(self) -> None:
        if self._on_strays is not None:
            self._on_strays(self.strays)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("taskrunner's executors need a POSIX system: Linux, macOS or WSL")
