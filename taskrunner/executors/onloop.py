"""`async def run` on the event loop, in an asyncio task of its own; whatever it raises comes back as a value.

The first step waits for the loop's next turn: Python 3.11 has no eager start (3.12 has), and a first step by hand would
run without `asyncio.current_task()`. A call costs 3 µs in all, of which a bare asyncio task is 1.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeAlias, cast

from taskrunner.errors import TaskrunnerError
from taskrunner.executors.call import Call, Returned, RunEnd, Stopped, failed
from taskrunner.executors.handle import Calls, Done, Handle
from taskrunner.scope import enter

_Factory: TypeAlias = Callable[..., "asyncio.Future[Any]"]
_in_task: ContextVar[bool] = ContextVar("taskrunner_in_task", default=False)


class ExitInSubtask(TaskrunnerError):
    """A subtask of a task raised SystemExit or KeyboardInterrupt, which would have ended the runner's event loop."""


class OnLoop:
    """Runs coroutines beside each other; counts those that were cancelled and do not end."""

    def __init__(self, calls: Calls, *, patience: timedelta, on_strays: Callable[[], None]) -> None:
        """Give a cancelled coroutine `patience` to end before it counts as a stray."""
        self.calls = calls
        self.patience = patience.total_seconds()
        self._on_strays = on_strays
        self._strays: set[Handle] = set()

    @property
    def strays(self) -> int:
        """How many cancelled coroutines still run."""
        return len(self._strays)

    def start(self, call: Call, done: Done) -> Handle:
        """Run the coroutine in an asyncio task of its own, from the loop's next turn on."""
        return _Run(call, done, self)

    def give_up(self, run: _Run) -> None:
        """Count a run as a stray."""
        if run not in self._strays and not run.task.done():
            self._strays.add(run)
            self.calls.put(run, Stopped())
            self._on_strays()

    def ended(self, run: Handle) -> None:
        """Count it no longer."""
        if run in self._strays:
            self._strays.discard(run)
            self._on_strays()


class _Run(Handle):
    """A coroutine that runs on the loop."""

    __slots__ = ("_patience", "_way", "task")

    def __init__(self, call: Call, done: Done, way: OnLoop) -> None:
        calls = way.calls
        super().__init__(call, done, calls)
        self._way = way
        self._patience: asyncio.TimerHandle | None = None
        self.task = calls.loop.create_task(_settle(call), name=call.name or None)
        # By the task's own word rather than by `_settle`'s: cancelled before its first step, that is never entered.
        self.task.add_done_callback(self._task_ended, context=calls.context)

    def cancel(self) -> None:
        """Cancel the asyncio task; it has `patience` to end."""
        if self.task.done():
            return
        if self._patience is None:
            self._patience = self._way.calls.loop.call_later(self._way.patience, self._way.give_up, self)
            self.task.cancel()
        else:
            self._way.give_up(self)

    def runs_in(self, task: asyncio.Task[object] | None) -> bool:
        """Whether this asyncio task is the call's own."""
        return self.task is task

    def _task_ended(self, task: asyncio.Task[RunEnd]) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._way.ended(self)
            self.came_to(Stopped())
        else:
            self.came_to(Stopped() if task.cancelled() else task.result())


async def _settle(call: Call) -> RunEnd:
    """Await the task's `run()` and return a value in every case.

    asyncio raises SystemExit and KeyboardInterrupt on through `run_forever`: they must not leave this coroutine.
    """
    try:
        call.begin()  # here: tasks claimed beside one that blocks the loop or kills the process have not begun
        _in_task.set(True)
        enter(call.scope)
        return Returned(await cast("Coroutine[Any, Any, object]", call.task.run()))
    except CancelledError as error:
        return failed(error, "cancelled")
    except BaseException as error:
        return failed(error)


class LoopGuard:
    """A task factory under which a SystemExit in a *subtask* of a task stays an error of that task.

    Asyncio tasks that no task of ours started are made as before.
    """

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._before: _Factory | None = None

    def install(self) -> None:
        """Take over the running loop's task factory, on top of the one it has."""
        self._loop = asyncio.get_running_loop()
        self._before = self._loop.get_task_factory()
        self._loop.set_task_factory(self._make)

    def remove(self) -> None:
        """Give the loop its factory back."""
        if self._loop is not None and self._loop.get_task_factory() == self._make:
            self._loop.set_task_factory(self._before)
        self._loop = None

    def _make(
        self, loop: AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Future[Any]:
        if _in_task.get() and inspect.iscoroutine(coro):
            coro = _Contained(coro)
        if self._before is not None:
            return self._before(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine out of which SystemExit and KeyboardInterrupt come as an ordinary error.

    An object and not an `async def` around it: cancelled before its first step, that would never await what it wraps.
    """

    __slots__ = ("_coro",)

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro

    def send(self, value: Any) -> Any:
        try:
            return self._coro.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _exit_in_subtask(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._coro.throw(*error)
        except (SystemExit, KeyboardInterrupt) as exit_error:
            raise _exit_in_subtask(exit_error) from exit_error

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)  # `cr_frame` and the like, for tracebacks of pending tasks


def _exit_in_subtask(error: BaseException) -> ExitInSubtask:
    return ExitInSubtask(f"{type(error).__name__}({error}) was raised in a subtask")
