"""Counts the runs of tasks in any process of any contestant, for a harness that looks from outside.

Standard library alone: it is imported in the peers' environments too. BENCH_PROBE names a folder; each process
writes one file there, three 64-bit numbers: runs, and the first's and the last's instant by CLOCK_MONOTONIC, which
is one clock for all processes of a machine. Without BENCH_PROBE nothing is counted.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns

VARIABLE = "BENCH_PROBE"
LAYOUT = struct.Struct("=qqq")

_folder = os.environ.get(VARIABLE)
_lock = threading.Lock()
_pid = 0
_view: memoryview | None = None


def _open() -> memoryview:
    """Map this process's file; a forked child has its own."""
    global _pid, _view
    assert _folder is not None
    _pid = os.getpid()
    path = Path(_folder, f"{_pid}.probe")
    path.write_bytes(bytes(LAYOUT.size))
    with path.open("r+b") as file:
        _view = memoryview(mmap.mmap(file.fileno(), LAYOUT.size)).cast("q")
    return _view


def _count(runs: int = 1) -> None:
    with _lock:
        view = _view if _view is not None and _pid == os.getpid() else _open()
        now = monotonic_ns()
        if not view[0]:
            view[1] = now
        view[2] = now
        view[0] += runs


def _ignore(runs: int = 1) -> None:
    """Count nothing: nobody looks."""


ran = _count if _folder else _ignore
"""Called by every task that runs, first thing: 0.3 µs."""


@dataclass(frozen=True)
class Progress:
    """What all processes of a contestant have run so far; instants are monotonic nanoseconds, 0 without a run."""

    runs: int
    first_ns: int
    last_ns: int


def progress(folder: Path) -> Progress:
    """Read the counters of all processes."""
    found = [LAYOUT.unpack(data) for data in map(Path.read_bytes, folder.glob("*.probe")) if len(data) == LAYOUT.size]
    busy = [counted for counted in found if counted[0]]
    return Progress(
        sum(counted[0] for counted in busy),
        min((counted[1] for counted in busy), default=0),
        max((counted[2] for counted in busy), default=0),
    )
