"""`def run` in a thread, at most N at once; a thread cannot be killed, so a stopped call goes on as a *stray*.

The threads are daemons of our own rather than `concurrent.futures`': that one joins its threads at interpreter exit,
so one stuck task would keep the process from ever ending, and it cannot give a stray's place to the next call.
All bookkeeping happens on the event loop; a thread only takes jobs from a queue and sends their ends to the loop.

A switch between threads costs more than a short job, so jobs do not wake a thread each: one is woken, and wakes the
next if it leaves jobs behind when it takes one. While its jobs are short it keeps the interpreter and drains the
queue alone; as soon as one blocks, the next goes on with the rest: there is a thread for every job handed out.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context

from taskrunner.executors.call import BrokeOff, Call, CallEnd, Refused, Returned, RunEnd, Stopped, failed
from taskrunner.executors.handle import Calls, Done, Handle
from taskrunner.scope import enter

_CLOSE_PATIENCE = 1.0  # s; an idle thread leaves within microseconds, only a machine without CPU makes it longer


class Threads:
    """A pool of daemon threads in which a stray does not take up a slot, until more than `stray_limit` are strays."""

    def __init__(self, calls: Calls, *, slots: int, stray_limit: int, on_strays: Callable[[], None]) -> None:
        """Bound the calls at once to `slots`; `on_strays` is called on the loop when `strays` changed."""
        self.calls = calls
        self._slots = slots
        self._stray_limit = stray_limit
        self._on_strays = on_strays
        self._queue = _Queue()
        self._waiting: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
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

    def start(self, call: Call, done: Done) -> Handle:
        """Run the call in a thread, with the caller's context variables."""
        job = _Job(call, done, self)
        self._waiting.append(job)
        self._hand_out()
        return job

    def stop(self, job: _Job) -> None:
        """Take a job back that no thread has begun, else leave it behind as a stray."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif self._queue.take_back(job):
            self._active -= 1
        else:
            job.stray = True
            self._active -= 1
            self.strays += 1
            self._on_strays()
        self.calls.put(job, Stopped())
        self._hand_out()

    def ended(self, job: _Job) -> None:
        """Take note that a thread is through with a job, and give it the next."""
        if job.stray:
            self.strays -= 1
            self._on_strays()
        else:
            self._active -= 1
        if self._waiting:
            self._hand_out()
        if self._closed or len(self._threads) - self.strays - self._leaving > self._slots:
            self._dismiss()

    async def close(self) -> None:
        """Let the idle threads end; strays are daemons and are left."""
        self._closed = True
        for _ in range(len(self._threads) - self._active - self.strays - self._leaving):
            self._dismiss()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._all_left.wait()

    def _hand_out(self) -> None:
        """Give jobs to threads; each that is given away has a thread that is free, or that is about to be."""
        while self._waiting and self._active < self._slots - max(0, self.strays - self._stray_limit):
            if self._active >= len(self._threads) - self.strays - self._leaving and not self._add_thread():
                return
            self._active += 1
            job = self._waiting.popleft()
            job.call.begin()
            self._queue.put(job)

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
            reason = f"{error}: lower the concurrency, or raise `ulimit -u` or the container's pids limit"
            job = self._waiting.popleft()
            job.through = True
            self.calls.put(job, Refused(reason))

    def _work(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        with suppress(RuntimeError):  # the loop is closed: the process is leaving, nobody waits for this thread
            while (job := self._queue.get(bell)) is not None:
                self.calls.put_threadsafe(job, job.run())
                del job  # an idle thread keeps no task alive
            self.calls.loop.call_soon_threadsafe(self._left, threading.current_thread())

    def _dismiss(self) -> None:
        self._leaving += 1
        self._all_left.clear()
        self._queue.put(None)

    def _left(self, thread: threading.Thread) -> None:
        thread.join(_CLOSE_PATIENCE)  # it sent this as its last act
        self._leaving -= 1
        self._threads.discard(thread)
        if not self._leaving:
            self._all_left.set()


class _Job(Handle):
    """A call for a thread."""

    __slots__ = ("_way", "context", "stopped", "stray", "through")

    def __init__(self, call: Call, done: Done, way: Threads) -> None:
        super().__init__(call, done, way.calls)
        self._way = way
        self.context = copy_context()
        self.through = self.stopped = self.stray = False

    def cancel(self) -> None:
        """Take it back, or leave its thread behind as a stray, at once."""
        if not self.through and not self.stopped:
            self.stopped = True
            self._way.stop(self)

    def run(self) -> RunEnd:
        """Run it in this thread."""
        end = self.context.run(_settle, self.call)
        self.through = True
        return end

    def came_to(self, end: CallEnd) -> None:
        """Tell the end; one that comes from the thread frees it."""
        if isinstance(end, Returned | BrokeOff):
            self._way.ended(self)
        super().came_to(end)


class _Queue:
    """Jobs for threads, each of which sleeps at a bell of its own: a lock that is released to wake it.

    Every operation on the deque and the list is atomic. Who adds a job looks for a sleeper afterwards, and who lies
    down looks for a job afterwards: one of the two sees the other.
    """

    def __init__(self) -> None:
        self._jobs: deque[_Job | None] = deque()
        self._asleep: list[threading.Lock] = []  # the last to lie down is woken first, its caches are warm
        self._waking = False  # one is getting up, and will wake the next if there is more

    def put(self, job: _Job | None) -> None:
        """Add a job, or a None that makes one thread leave."""
        self._jobs.append(job)
        if not self._waking:
            self._wake_one()

    def get(self, bell: threading.Lock) -> _Job | None:
        """Wait for a job; `bell` is the calling thread's, and taken."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._sleep(bell)
                continue
            if self._jobs and not self._waking:
                self._wake_one()
            return job

    def take_back(self, job: _Job) -> bool:
        """Remove a job; False if a thread has taken it."""
        try:
            self._jobs.remove(job)
        except ValueError:
            return False
        return True

    def _wake_one(self) -> None:
        try:
            bell = self._asleep.pop()
        except IndexError:
            return  # all are at work, and look here when they are through
        self._waking = True
        bell.release()

    def _sleep(self, bell: threading.Lock) -> None:
        self._asleep.append(bell)
        if self._jobs:
            with suppress(ValueError):  # somebody has rung it meanwhile
                self._asleep.remove(bell)
                return
        bell.acquire()
        self._waking = False


def _settle(call: Call) -> RunEnd:
    """Call the task's `run()` and return a value in every case, StopIteration included."""
    enter(call.scope)
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
