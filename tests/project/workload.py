"""Tasks for tests with real processes: they hold on until told, block, die, and note what they do.

A runner imports this file as its project's tasks (TASKRUNNER_TASKS=workload); the environment says what else it does:
WORKLOAD_BREAK=`kind:manner:path` breaks the import in children of that kind once the file is there,
WORKLOAD_TICK=seconds declares a schedule, WORKLOAD_KILL_TICK=yes kills schedulers in ticks.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar

from taskrunner import Task, register_task
from tests.chaos.history import here


def _kind() -> str:
    """Return what this process is: the kind of a supervisor's child, or nothing."""
    words = sys.orig_argv
    return words[words.index("taskrunner.child") + 1] if "taskrunner.child" in words else ""


class Noted(Task):
    """A task that writes its runs into the history; a `deadly` one kills its runner."""

    deadly: ClassVar[bool] = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the beginning, and the end if there is one."""
        claim = {"task": str(self.id), "claim_no": self.context.claim_no}
        about = {"type": type(self).__name__, "tries": self.tries, "crashes": self.crashes, "deadly": self.deadly}
        here().note("run", **about, **claim)
        try:
            yield
        except Exception as error:
            here().note("failed", error=str(error), **claim)
            raise
        here().note("effect", **claim)
        here().note("done", **claim)


def _told(path: str) -> bool:
    """Whether the file is there, or one for this process alone."""
    return os.path.exists(path) or os.path.exists(f"{path}.{os.getpid()}")  # noqa: PTH110 - a loop of stats


@register_task("work.nothing")
class Nothing(Task):
    """Does nothing, as fast as it can, and notes nothing."""

    async def run(self) -> None:
        """Do nothing."""


@register_task("work.nap")
class Nap(Noted):
    """Sleeps politely."""

    seconds: float = 0.0

    async def run(self) -> None:
        with self.noted():
            await asyncio.sleep(self.seconds)


@register_task("work.hold")
class Hold(Noted):
    """Runs until its file is there."""

    path: str

    async def run(self) -> str:
        with self.noted():
            while not _told(self.path):  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(0.02)
        return str(os.getpid())


@register_task("work.hold-thread")
class HoldThread(Noted):
    """Runs in a thread until its file is there, whatever anybody asks."""

    path: str

    def run(self) -> None:
        with self.noted():
            while not _told(self.path):
                time.sleep(0.02)


@register_task("work.hold-child", executor="process")
class HoldChild(HoldThread):
    """Runs in a child process until its file is there."""


@register_task("work.jam", priority=200)
class Jam(Noted):
    """Blocks the event loop until its file is there."""

    path: str

    async def run(self) -> None:
        with self.noted():
            while not _told(self.path):
                time.sleep(0.02)  # noqa: ASYNC251 - to block the loop is its purpose


@register_task("work.block")
class Block(Noted):
    """Blocks the event loop for a time."""

    seconds: float

    async def run(self) -> None:
        with self.noted():
            time.sleep(self.seconds)  # noqa: ASYNC251 - to block the loop is its purpose


@register_task("work.grip")
class Grip(Noted):
    """Holds the interpreter in one call of C code, for `seconds` to twice that."""

    seconds: float

    async def run(self) -> float:
        with self.noted():
            length = 16
            while (took := self._backtrack(length)) < self.seconds:
                length += 1  # twice the time
            return took

    def _backtrack(self, length: int) -> float:
        began = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        return time.monotonic() - began


@register_task("work.poison")
class Poison(Noted):
    """Kills the process that runs it."""

    deadly: ClassVar[bool] = True

    async def run(self) -> None:
        with self.noted():
            os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(60)


class Death(Noted):
    """Ends its process in one of the ways that cannot be caught."""

    manner: str

    def run(self) -> None:
        with self.noted():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _DEATHS[self.manner]()


@register_task("work.death-in-child", executor="process", max_retries=0)
class DeathInChild(Death):
    """Costs a child process."""


@register_task("work.death-in-runner", max_retries=0)
class DeathInRunner(Death):
    """Costs the runner."""

    deadly: ClassVar[bool] = True


def _segfault() -> None:
    ctypes.string_at(0)


def _overflow() -> None:
    class Deep:
        def __repr__(self) -> str:
            return repr(self)

    sys.setrecursionlimit(10**9)
    repr(Deep())


def _exhaust() -> None:
    """Allocate until the limit, where C code that does not check its malloc would write to nowhere."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    hoard = []
    with suppress(MemoryError):
        while True:
            hoard.append(bytearray(1 << 24))
    os.abort()


_DEATHS: dict[str, Any] = {
    "segfault": _segfault,
    "exit": lambda: os._exit(7),
    "memory": _exhaust,
    "stack": _overflow,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@register_task("work.flaky", max_retries=20)
class Flaky(Noted):
    """Fails some times, then succeeds."""

    failures: int = 1

    async def run(self) -> None:
        with self.noted():
            if self.tries < self.failures:
                raise RuntimeError("not yet")

    def next_try(self) -> float:
        """At once."""
        return 0.0


@register_task("work.single", unique=("key",))
class Single(Noted):
    """At most one live task a key."""

    key: str

    async def run(self) -> None:
        with self.noted():
            await asyncio.sleep(0.01)


if os.environ.get("WORKLOAD_TICK"):

    @register_task("work.tick", timedelta(seconds=float(os.environ["WORKLOAD_TICK"])), catch_up="all")
    class Tick(Noted):
        """Made by a schedule."""

        async def run(self) -> None:
            with self.noted():
                pass


# ── what breaks the process that imports this ────────────────────────────────────────────────────────────────────────


def _break() -> None:
    """End the import as WORKLOAD_BREAK says, if it speaks of this kind of process."""
    kind, manner, path = os.environ.get("WORKLOAD_BREAK", "::").split(":")
    if not kind or kind != _kind() or not _told(path):
        return
    if manner == "raise":
        raise RuntimeError("broken on purpose")
    os._exit(9)


def _kill_tick() -> None:
    """Let the process die in its first tick, a statement later than the last one did; in the end before its commit."""
    from taskrunner.store import schedule

    whole = schedule.tick

    def cut_short(*args: Any) -> Any:
        cuts = here().of("fault")
        statements = 0 if not cuts or cuts[-1]["commit"] else cuts[-1]["after"] + 1
        steps, answer, done = whole(*args), None, 0
        while True:
            try:
                op = steps.send(answer)
            except StopIteration:
                op = None
            if op is None or done == statements:
                here().note("fault", name="tick cut", after=done, commit=op is None)
                os.kill(os.getpid(), signal.SIGKILL)
            answer = yield op
            done += 1

    schedule.tick = cut_short


_break()
if os.environ.get("WORKLOAD_KILL_TICK") and _kind() == "scheduler":
    _kill_tick()
