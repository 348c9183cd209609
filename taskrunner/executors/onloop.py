"""`async def run` on the event loop, in an asyncio task of its own; whatever it raises comes back as a value."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeAlias, cast

from taskrunner.errors import TaskrunnerError
from taskrunner.executors.call import Call, Returned, RunEnd, failed

_Factory: TypeAlias = Callable[..., "asyncio.Future[Any]"]
_in_task: ContextVar[bool] = ContextVar("taskrunner_in_task", default=False)


class ExitInSubtask(TaskrunnerError):
    """A subtask of a task raised SystemExit or KeyboardInterrupt, which would have ended the runner's event loop."""


class OnLoop:
    """Runs coroutines beside each other; counts those that were cancelled and do not end."""

    def __init__(self, *, patience: timedelta, on_strays: Callable[[], None]) -> None:
        """Give a cancelled coroutine `patience` to end before it counts as a stray."""
        self._patience = patience.total_seconds()
        self._on_strays = on_strays
        self._strays: set[asyncio.Task[RunEnd]] = set()

    @property
    def strays(self) -> int:
        """How many cancelled coroutines still run."""
        return len(self._strays)

    async def run(self, call: Call) -> RunEnd:
        """Run the coroutine to its end; when cancelled, cancel it, await its end for `patience`, and raise."""
        inner = asyncio.create_task(_settle(call), name=call.name or None)
        try:
            # The shield makes our own cancellation ours: without it asyncio hands it to the coroutine and, as that
            # settles into a value, forgets that it was meant for us.
            return await asyncio.shield(inner)
        except CancelledError:
            inner.cancel()
            await self._await_end(inner)
            raise

    async def _await_end(self, inner: asyncio.Task[RunEnd]) -> None:
        try:
            await asyncio.wait((inner,), timeout=self._patience)
        finally:
            if not inner.done():
                self._strays.add(inner)
                inner.add_done_callback(self._stray_ended)
                self._on_strays()

    def _stray_ended(self, inner: asyncio.Task[RunEnd]) -> None:
        self._strays.discard(inner)
        self._on_strays()


async def _settle(call: Call) -> RunEnd:
    """Await the task's `run()` and return a value in every case.

    asyncio raises SystemExit and KeyboardInterrupt on through `run_forever`: they must not leave this coroutine.
    """
    _in_task.set(True)
    try:
        call.begin()  # here: tasks claimed beside one that blocks the loop or kills the process have not begun
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
