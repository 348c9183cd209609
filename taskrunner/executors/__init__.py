"""Run one call of a task's `run()`: on the event loop, in a thread, or in a child process that can be killed.

`Executors.start_call(call, done)` tells what the call came to as a value, `Returned` or `BrokeOff`; nothing that a task
raises, SystemExit included, ever travels through the runner's own stack.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

from taskrunner.executors.call import (
    BrokeOff,
    Call,
    CallEnd,
    OnMessage,
    OnRequest,
    Refused,
    Returned,
    RunEnd,
    Stopped,
)
from taskrunner.executors.childhub import Hub
from taskrunner.executors.children import Children
from taskrunner.executors.handle import Calls, Done, Handle
from taskrunner.executors.onloop import LoopGuard, OnLoop
from taskrunner.executors.threads import Threads

__all__ = [
    "BrokeOff",
    "Call",
    "CallEnd",
    "Done",
    "Executors",
    "Handle",
    "OnMessage",
    "OnRequest",
    "Refused",
    "Returned",
    "RunEnd",
    "Stopped",
]


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
        self._calls = calls = Calls()
        self._on_loop = OnLoop(calls, patience=cancel_patience, on_strays=self._strays_changed)
        self._threads = Threads(calls, slots=concurrency, stray_limit=stray_limit, on_strays=self._strays_changed)
        self._children = Children(calls, slots=process_slots, hub=Hub(on_message, on_request))
        self._starts: dict[str, Callable[[Call, Done], Handle]] = {
            "loop": self._on_loop.start,
            "thread": self._threads.start,
            "process": self._children.start,
        }
        self._guard = LoopGuard()

    async def start(self) -> None:
        """Make the loop safe against SystemExit in a task's subtasks; threads and children start on first use."""
        self._guard.install()

    async def close(self) -> int:
        """Cancel the calls that still run, kill the children, let idle threads end; return the number of strays.

        Nothing can end those: with any left, the process should leave by `os._exit`.
        """
        await self._calls.cancel()
        self._guard.remove()
        await self._children.close()
        await self._threads.close()
        return self.strays

    def start_call(self, call: Call, done: Done) -> Handle:
        """Start the call; `done(end)` is called once, on the loop, in a later turn of it and in the context made in.

        The end is what the call came to, `Stopped` if it was cancelled before, `Refused` if it could not be begun.
        """
        return self._starts[call.executor](call, done)

    @property
    def strays(self) -> int:
        """How many threads and coroutines of stopped calls still run."""
        return self._threads.strays + self._on_loop.strays

    @property
    def live_threads(self) -> int:
        """How many threads of the pool are alive, idle ones and strays included."""
        return self._threads.live

    def _strays_changed(self) -> None:
        if self._on_strays is not None:
            self._on_strays(self.strays)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("taskrunner's executors need a POSIX system: Linux, macOS or WSL")
