"""Watches an event loop from a thread: one warning for each time it is blocked, naming the task and the line.

A task that computes or sleeps without `await` holds up every other task of its runner; nothing else tells which it is.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import sysconfig
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

log = logging.getLogger(__name__)

_LOOKS: Final = 4  # a threshold; so a blockage is reported at 1.25 times it at the latest
_NAMES: Final = 5  # tasks named at most
_OURS: Final = str(Path(__file__).parent)
_ASYNCIO: Final = str(Path(asyncio.__file__).parent)
_LOOP_FUNCTIONS: Final = frozenset(("_run", "_run_once", "run_forever", "run_until_complete", "run"))
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclass(frozen=True, slots=True)
class Blockage:
    """One time that the loop did not run; `where` is empty when no Python code ran either."""

    seconds: float
    tasks: tuple[str, ...]
    where: str

    def __str__(self) -> str:
        """Say it in one line."""
        tasks = ", ".join(self.tasks[:_NAMES]) or "no task"
        more = f" and {len(self.tasks) - _NAMES} more" if len(self.tasks) > _NAMES else ""
        if not self.where:
            return (
                f"the event loop stood still for {self.seconds:.1f} s while running {tasks}{more}: "
                "C code held the interpreter, or the process was stopped"
            )
        return (
            f"the event loop has been blocked for {self.seconds:.1f} s by {tasks}{more} at {self.where}: "
            'use `await`, a plain `def run`, or executor="process"'
        )


class Watchdog:
    """A daemon thread that pings the running loop and reports when it does not answer within `threshold`."""

    def __init__(
        self,
        *,
        running: Callable[[asyncio.Task[Any] | None], Iterable[str]],
        threshold: timedelta = timedelta(seconds=1),
        report: Callable[[Blockage], None] | None = None,
    ) -> None:
        """Take `running`, called in the watchdog's thread: it names the task that is in this asyncio task, else all."""
        self._running = running
        self._threshold = threshold.total_seconds()
        self._report = report or _warn
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._answered = threading.Event()
        self._asked_at = 0.0
        self._reported = False

    def start(self) -> None:
        """Watch the loop that runs in this thread."""
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, ident), name="taskrunner-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it is gone when this returns."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: AbstractEventLoop, ident: int) -> None:
        while self._ask(loop):
            looks = 0
            while not self._answered.wait(self._threshold / _LOOKS) and not self._stop.is_set():
                # Time alone would blame the running line for a SIGSTOP or for C code that held the GIL,
                # through which this thread did not look either.
                looks += 1
                if looks >= _LOOKS and not self._reported:
                    self._tell(self._names(asyncio.current_task(loop)), _where(ident))
            if self._stop.wait(self._threshold / _LOOKS):
                return

    def _ask(self, loop: AbstractEventLoop) -> bool:
        self._answered.clear()
        self._asked_at = time.monotonic()
        self._reported = False
        try:
            loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed
            return False
        return not self._stop.is_set()

    def _answer(self) -> None:
        if not self._reported and time.monotonic() - self._asked_at > 2 * self._threshold:
            self._tell(self._names(None), "")
        self._answered.set()

    def _names(self, current: asyncio.Task[Any] | None) -> tuple[str, ...]:
        try:
            return tuple(self._running(current))
        except RuntimeError:  # the loop's thread changed the collection meanwhile: it is no longer blocked
            return ()

    def _tell(self, tasks: tuple[str, ...], where: str) -> None:
        self._reported = True
        self._report(Blockage(time.monotonic() - self._asked_at, tasks, where))


def _warn(blockage: Blockage) -> None:
    log.warning("%s", blockage)


def _where(ident: int) -> str:
    """Return `file:line in function: source` of the innermost frame of the user's code in that thread."""
    frames = _frames(sys._current_frames().get(ident))
    outside = [frame for frame in frames if not frame.f_code.co_filename.startswith((_OURS, "<"))]
    users = [frame for frame in outside if not frame.f_code.co_filename.startswith(_LIBRARIES)]
    chosen = next(iter(users or outside or frames), None)
    if chosen is None:
        return "an unknown place"
    path, line = chosen.f_code.co_filename, chosen.f_lineno
    source = linecache.getline(path, line).strip()
    return f"{path}:{line} in {chosen.f_code.co_name}" + (f": {source}" if source else "")


def _is_loop(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in _LOOP_FUNCTIONS and code.co_filename.startswith(_ASYNCIO)


def _frames(innermost: FrameType | None) -> list[FrameType]:
    """Return the stack from the innermost frame out to the loop's own."""
    frames: list[FrameType] = []
    while innermost is not None and not _is_loop(innermost):
        frames.append(innermost)
        innermost = innermost.f_back
    return frames
