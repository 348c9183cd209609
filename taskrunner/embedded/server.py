"""One postmaster on one data folder: started, recognised, stopped, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psutil

from taskrunner.embedded.binaries import Binaries
from taskrunner.embedded.folders import Home
from taskrunner.embedded.trouble import explain
from taskrunner.errors import EmbeddedError

StopMode = Literal["smart", "fast", "immediate"]
SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
DEFAULT_PORT = "5432"
START_SECONDS = 300.0  # a recovery replays what the last checkpoint left, on a slow disk
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class PidFile:
    """What a postmaster writes into its data folder: pid, socket folder, and `ready` once it accepts."""

    pid: int
    port: str
    socket: str
    status: str

    @classmethod
    def read(cls, data: Path) -> PidFile | None:
        """Return it, or None where there is none or the postmaster has not written all of it yet."""
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            return cls(int(lines[0]), lines[3], lines[4], lines[7].strip())
        except (FileNotFoundError, IndexError, ValueError):
            return None


class Server:
    """The postmaster on `home.data`, with its socket in `socket`: our child, or one that was found running."""

    def __init__(self, home: Home, binaries: Binaries, socket: Path) -> None:
        self.home = home
        self.binaries = binaries
        self.socket = socket
        self._child: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None

    @classmethod
    def running_on(cls, home: Home, binaries: Binaries) -> Server | None:
        """Return the server that somebody else has started on the data folder, or None."""
        found = PidFile.read(home.data)
        if found is None or running_pid(home.data) is None:
            return None
        server = cls(home, binaries, Path(found.socket))
        with suppress(psutil.NoSuchProcess):
            server._process = psutil.Process(found.pid)
            return server
        return None

    @property
    def pid(self) -> int | None:
        """The postmaster's pid while it runs."""
        return self._process.pid if self._process is not None and self.alive() else None

    def start(self) -> None:
        """Start the postmaster and wait until it accepts connections; EmbeddedError says why it does not."""
        self._clear_remains()
        argv = [self.binaries.program("postgres"), "-D", str(self.home.data), "-k", str(self.socket)]
        with self.home.log.open("ab") as log:
            self.home.account.own(self.home.log)
            begin = log.seek(0, os.SEEK_END)
            self._child = self.home.account.spawn(argv, output=log.fileno())
        try:
            self._process = psutil.Process(self._child.pid)
            self._await_ready(self._child, begin)
        except BaseException:
            self.kill()
            raise

    def alive(self) -> bool:
        """Tell whether the postmaster runs; one that nobody has reaped yet does not."""
        if self._child is not None:
            return self._child.poll() is None
        return self._process is not None and not _gone(self._process)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the postmaster by the mode's signal and wait for its end; after 60 s kill it."""
        if self._process is None or not self.alive():
            return
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(SIGNALS[mode])
        if not self._ended(STOP_SECONDS):
            self.kill()

    def kill(self) -> None:
        """SIGKILL the postmaster and every process of it, as a power failure would."""
        if self._process is None or not self.alive():
            return
        with suppress(psutil.NoSuchProcess):
            _kill([self._process, *self._process.children(recursive=True)])
        self._ended(STOP_SECONDS)

    def _ended(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _await_ready(self, child: subprocess.Popen[bytes], begin: int) -> None:
        until = time.monotonic() + START_SECONDS
        while child.poll() is None:
            found = PidFile.read(self.home.data)
            if found and found.pid == child.pid and found.status == "ready":
                return
            if time.monotonic() > until:
                self.kill()
            time.sleep(LOOK_SECONDS)
        with self.home.log.open("rb") as log:
            log.seek(begin)
            said = log.read().decode(errors="replace")
        raise EmbeddedError(f"the server of {self.home.data} did not start: {explain(said)}")

    def _clear_remains(self) -> None:
        """Remove what a killed postmaster left: PostgreSQL believes a pid file whose pid is somebody else's by now."""
        data = self.home.data
        if running_pid(data) is not None:
            raise EmbeddedError(f"a server runs on {data} already")
        if (data / "postmaster.pid").exists():
            _kill(_orphans(data))  # backends busy in a query do not notice, and hold the shared memory
            (data / "postmaster.pid").unlink(missing_ok=True)
        for remains in self.socket.glob(".s.PGSQL.*"):
            remains.unlink(missing_ok=True)


def socket_url(socket: Path, role: str, password: str, database: str, port: str = DEFAULT_PORT) -> str:
    """Return a URL that libpq, psycopg and SQLAlchemy read; it names the port, or PGPORT would."""
    host = quote(str(socket), safe="/")
    return f"postgresql://{role}:{password}@/{quote(database, safe='')}?host={host}&port={port}"


def running_pid(data: Path) -> int | None:
    """Return the pid of the postmaster that runs on the data folder, known by its command line; None if none does."""
    found = PidFile.read(data)
    if found is None:
        return None
    with suppress(psutil.Error):
        process = psutil.Process(found.pid)
        if str(data) in process.cmdline() or _works_in(process, data):
            return found.pid
    return None


def _works_in(process: psutil.Process, data: Path) -> bool:
    """Tell whether a process is a PostgreSQL process of this folder, even if the folder was renamed since."""
    return process.name().startswith("postgres") and Path(process.cwd()) == data


def _orphans(data: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _works_in(process, data):
                found.append(process)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until = time.monotonic() + STOP_SECONDS
    while not all(map(_gone, processes)) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def _gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended; pid 1 may take its time to reap an orphan, or (in a container) never do it."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True
