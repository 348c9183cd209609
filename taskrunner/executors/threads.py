"""`def run` in a thread, at most N at once; a thread cannot be killed, so a stopped call goes on as a *stray*.

The threads are daemons of our own rather than `concurrent.futures`': that one joins its threads at interpreter exit,
so one stuck task would keep the process from ever ending, and it cannot give a stray's place to the next call.
All bookkeeping happens on the event loop; a thread only takes jobs from a queue and sends their ends to the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from asyncio import CancelledError, Future
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import SimpleQueue

from taskrunner.executors.call import Call, NoCapacity, Returned, RunEnd, failed

_CLOSE_PATIENCE = 1.0  # s; an idle thread leaves within microseconds, only a machine without CPU makes it longer


@dataclass(slots=True, eq=False)
class _Job:
    call: Call
    context: Context
    result: Future[RunEnd]
    stray: bool = False
    ended: bool = False


class Threads:
    """A pool of daemon threads in which a stray does not take up a slot, until more than `stray_limit` are strays."""

    def __init__(self, *, slots: int, stray_limit: int, on_strays: Callable[[], None]) -> None:
        """Bound the calls at once to `slots`; `on_strays` is called on the loop when `strays` changed."""
        self._slots = slots
        self._stray_limit = stray_limit
        self._on_strays = on_strays
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._loop = asyncio.get_running_loop()
        self._active = 0
        self._leaving = 0
        self._all_left = asyncio.Event()
        self._all_left.set()
        self._closed = False
        self.strays = 0

    @property
    def live(self) -> int:
        """How many threads are alive: active, idle and strays."""
        return len(self._threads)

    async def run(self, call: Call) -> RunEnd:
        """Run the call in a thread, with the caller's context variables; when cancelled, leave it behind at once.

        Raises NoCapacity, with nothing run, where the system gives no thread at all.
        """
        job = _Job(call, copy_context(), self._loop.create_future())
        self._waiting.append(job)
        self._hand_out()
        try:
            return await job.result
        except CancelledError:
            self._abandon(job)
            raise

    async def close(self) -> None:
        """Let the idle threads end; strays are daemons and are left."""
        self._closed = True
        for _ in range(self._idle):
            self._dismiss()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._all_left.wait()

    @property
    def _idle(self) -> int:
        return len(self._threads) - self._active - self.strays - self._leaving

    @property
    def _capacity(self) -> int:
        return self._slots - max(0, self.strays - self._stray_limit)

    def _hand_out(self) -> None:
        while self._waiting and self._active < self._capacity:
            if self._waiting[0].result.done():  # cancelled, its `run` has not been told yet
                self._waiting.popleft().ended = True
            elif self._idle > 0 or self._add_thread():
                self._active += 1
                job = self._waiting.popleft()
                job.call.begin()
                self._jobs.put(job)
            else:
                return

    def _add_thread(self) -> bool:
        thread = threading.Thread(target=self._work, name="taskrunner-task", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._refuse(error)
            return False
        self._threads.add(thread)
        return True

    def _refuse(self, error: RuntimeError) -> None:
        """Leave the waiting jobs to the next thread that ends its call, or refuse them if there is none."""
        while self._waiting and not self._active:
            refusal = NoCapacity(f"{error}: lower the concurrency, or raise `ulimit -u` or the container's pids limit")
            job = self._waiting.popleft()
            job.ended = True
            if not job.result.done():
                job.result.set_exception(refusal)

    def _abandon(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        elif not job.ended:  # it may end between our cancellation and now
            job.stray = True
            self._active -= 1
            self.strays += 1
            self._on_strays()
            self._hand_out()

    def _work(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is leaving, nobody waits for this thread
            while (job := self._jobs.get()) is not None:
                outcome = job.context.run(_settle, job.call)
                self._loop.call_soon_threadsafe(self._ended, job, outcome)
                del job, outcome  # an idle thread keeps no task alive
            self._loop.call_soon_threadsafe(self._left, threading.current_thread())

    def _ended(self, job: _Job, outcome: RunEnd) -> None:
        job.ended = True
        if job.stray:
            self.strays -= 1
            self._on_strays()
        else:
            self._active -= 1
        if not job.result.done():
            job.result.set_result(outcome)
        self._hand_out()
        if self._closed or len(self._threads) - self.strays - self._leaving > self._slots:
            self._dismiss()

    def _dismiss(self) -> None:
        self._leaving += 1
        self._all_left.clear()
        self._jobs.put(None)

    def _left(self, thread: threading.Thread) -> None:
        thread.join(_CLOSE_PATIENCE)  # it sent this as its last act
        self._leaving -= 1
        self._threads.discard(thread)
        if not self._leaving:
            self._all_left.set()


def _settle(call: Call) -> RunEnd:
    """Call the task's `run()` and return a value in every case, StopIteration included (no future can hold one)."""
    try:
        value: object = call.task.run()
    except CancelledError as error:
        return failed(error, "cancelled")
    except BaseException as error:
        return failed(error)
    if inspect.iscoroutine(value):
        value.close()
        return failed(TypeError(f"{type(call.task).__name__}.run() returned a coroutine: declare it `async def run`"))
    return Returned(value)
