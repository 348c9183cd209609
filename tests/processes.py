"""Real supervisors with their children as subprocesses: start, signal, freeze and kill them, and leave none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from uuid import uuid4

import psutil

from taskrunner.registry import Registry, discover
from taskrunner.registry.types import isolated
from tests.chaos.history import VARIABLE, History

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "tests" / "project"
PATIENCE = 60.0
"""Seconds until a condition counts as never met: far beyond any bound, since nothing is measured here."""

# Leases that a test can wait for, with room for a machine that is busy with other tests.
QUICK = {"TASKRUNNER_HEARTBEAT": "0.5", "TASKRUNNER_LEASE": "3"}

_MARK = "TASKRUNNER_TEST_FLEET"


def eventually(condition: Callable[[], T], what: str = "", patience: float = PATIENCE) -> T:
    """Return what `condition()` returns once that is true. Raises: AssertionError after `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"it never came to pass: {what or condition}"
        time.sleep(0.03)


@cache
def workload() -> tuple[ModuleType, Registry]:
    """Return the workload's module and a registry of its types, which stay out of this process's own registry."""
    with isolated() as registry:
        discover(PROJECT, "workload")
        return sys.modules["workload"], registry.copy()


class Group:
    """One supervisor with its children."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self._supervisor = psutil.Process(process.pid)

    @property
    def log(self) -> str:
        """What the group has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def children(self, kind: str = "") -> list[psutil.Process]:
        """Return the living children, of one kind or all."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in self._supervisor.children():
                with suppress(psutil.Error):
                    words = child.cmdline()
                    if "taskrunner.child" in words and kind in ("", words[words.index("taskrunner.child") + 1]):
                        found.append(child)
        return found

    def child(self, kind: str = "runner", other_than: int = 0) -> psutil.Process:
        """Return the child of a kind once there is one (`other_than` that pid)."""
        return eventually(
            lambda: next((child for child in self.children(kind) if child.pid != other_than), None), f"a {kind}"
        )

    def everybody(self) -> list[psutil.Process]:
        """Return the supervisor, its children and theirs."""
        with suppress(psutil.NoSuchProcess):
            return [self._supervisor, *self._supervisor.children(recursive=True)]
        return []

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Return the exit code once the supervisor has ended."""
        return self.process.wait(patience)

    def stop(self) -> int:
        """Drain, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def left_well(self) -> bool:
        """Whether its end was a drain; before it hears signals, and has done anything, they end it the usual way."""
        code = self.wait()
        return code == 0 or ("draining" not in self.log and code in (-signal.SIGTERM, -signal.SIGINT, 130))

    def kill(self) -> None:
        """SIGKILL the supervisor and all below it, children first stopped so that none sees the others go."""
        self.freeze()
        for process in self.everybody():
            _signal(process, signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """SIGSTOP everybody."""
        for process in self.everybody():
            _signal(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT everybody."""
        for process in self.everybody():
            _signal(process, signal.SIGCONT)


class Fleet:
    """Starts groups on one database; when it is closed, no process of it is left."""

    def __init__(self, url: str, folder: Path, **environment: str) -> None:
        self.url, self.folder = url, folder
        self.history = History(folder / "history.jsonl")
        self.groups: list[Group] = []
        self._token = uuid4().hex
        self._environment = environment

    def start(self, *arguments: str, url: str | None = None, **environment: str) -> Group:
        """Run `taskrunner start …`; lower-case names among the environment are settings: `grace="1"`."""
        settings = {f"TASKRUNNER_{k.upper()}" if k.islower() else k: v for k, v in environment.items()}
        variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TASKRUNNER_", "WORKLOAD_", "COV_"))},
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": url or self.url,
            "TASKRUNNER_PROJECT": str(PROJECT),
            "TASKRUNNER_TASKS": "workload",
            "TASKRUNNER_LOG_FORMAT": "text",
            VARIABLE: str(self.history.path),
            _MARK: self._token,
            **self._environment,
            **settings,
        }
        log = self.folder / f"group-{len(self.groups)}.log"
        command = [sys.executable, "-m", "taskrunner", "start", *arguments]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=variables,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        group = Group(process, log)
        self.groups.append(group)
        return group

    def survivors(self) -> list[psutil.Process]:
        """Return every living process that descends from this fleet, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _lives(process) and process.environ().get(_MARK) == self._token:
                    found.append(process)
        return found

    def close(self) -> None:
        """End everything, however it is."""
        until = time.monotonic() + PATIENCE
        while (left := self.survivors()) and time.monotonic() < until:
            for process in left:
                _signal(process, signal.SIGKILL)
            while any(_lives(process) for process in left) and time.monotonic() < until:
                time.sleep(0.01)
        for group in self.groups:
            with suppress(subprocess.TimeoutExpired):
                group.process.wait(PATIENCE)


@contextmanager
def fleet(url: str, folder: Path, **environment: str) -> Iterator[Fleet]:
    """Lend a fleet; the logs of its groups are printed, for pytest to show when the test fails."""
    folder.mkdir(parents=True, exist_ok=True)
    lent = Fleet(url, folder, **environment)
    try:
        yield lent
    finally:
        lent.close()
        for number, group in enumerate(lent.groups):
            print(f"── group {number} ──\n{group.log[-6000:]}")


def _lives(process: psutil.Process) -> bool:
    """Whether it still runs: a dead orphan stays for ever where process 1 does not reap, as in many containers."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)
