"""Processes that are measured: started with their output in a file, watched, and stopped whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.probe import VARIABLE, Progress, progress

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 15.0


class BenchError(Exception):
    """A measurement could not be made; the message says why."""


@dataclass(frozen=True)
class Command:
    """A program: its words, what is added to the environment, where it runs."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT

    def also(self, *words: str, **environment: str) -> Command:
        """Return the command with more words and variables."""
        return Command((*self.words, *words), {**self.environment, **environment}, self.folder)


def ours(*words: str, **environment: str) -> Command:
    """Return a command of our own interpreter."""
    return Command((sys.executable, *words), environment)


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings of ours that somebody has exported, and with `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TASKRUNNER_", "BENCH_", "DATABASE_URL"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def ask(command: Command, patience: float) -> str:
    """Run a command to its end and return what it printed; BenchError tells its last words when it fails."""
    try:
        done = subprocess.run(
            command.words,
            cwd=command.folder,
            env=clean_environment(command.environment),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{_name(command)} did not end within {patience:.0f} s") from error
    except OSError as error:
        raise BenchError(f"{_name(command)}: {error}") from error
    if done.returncode:
        raise BenchError(f"{_name(command)} left with {done.returncode}: {_last_words(done.stderr or done.stdout)}")
    return done.stdout


class Team:
    """Running processes that count their runs into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        """Start one more; its output goes into a file of the folder."""
        log = self.folder / f"{len(self.processes)}.log"
        environment = clean_environment({VARIABLE: str(self.folder), **command.environment})
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command.words,
                    cwd=command.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{_name(command)}: {error}") from error
        self.processes.append(process)
        self._logs.append(log)
        return process

    def progress(self) -> Progress:
        """Return what they have run so far."""
        return progress(self.folder)

    def check(self) -> None:
        """Raise if one of them has left with an error."""
        for process, log in zip(self.processes, self._logs, strict=True):
            if process.poll():
                said = _last_words(log.read_text(errors="replace"))
                raise BenchError(f"{Path(str(process.args[0])).name} left with {process.returncode}: {said}")  # type: ignore[index]  # args is the list we gave

    def checked(self) -> Progress:
        """Return what they have run so far, once none has left with an error."""
        self.check()
        return self.progress()

    def said(self) -> str:
        """Return the last words of all, for an error's message."""
        return " | ".join(_last_words(log.read_text(errors="replace")) for log in self._logs)

    def tree(self) -> list[psutil.Process]:
        """Return the processes with all their descendants."""
        found: list[psutil.Process] = []
        for process in self.processes:
            found += _family(process.pid)
        return found

    def cpu(self) -> float:
        """Return the CPU seconds used by all, ended children included."""
        return sum(map(_used, self.tree()))

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whoever does not heed it within 15 s; their children go with them."""
        everybody = self.tree()
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.terminate()
        _, alive = psutil.wait_procs(everybody, timeout=STOP_SECONDS)
        for left in alive:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self.processes:
            process.wait(STOP_SECONDS)


@contextmanager
def team(*commands: Command) -> Iterator[Team]:
    """Start commands, and stop them at the end whatever happens."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        Path(name).chmod(0o755)
        started = Team(Path(name))
        try:
            for command in commands:
                started.start(command)
            yield started
        finally:
            started.stop()


def wait_until(reached: Callable[[], object], *, patience: float, what: str, pause: float = 0.005) -> None:
    """Wait until a function returns something true; BenchError after `patience` seconds."""
    until = time.monotonic() + patience
    while not reached():
        if time.monotonic() > until:
            raise BenchError(f"{what} took more than {patience:.0f} s")
        time.sleep(pause)


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _used(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _name(command: Command) -> str:
    return " ".join(Path(word).name if "/" in word else word for word in command.words[:4])


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-400:] or "it said nothing"
