"""One postmaster on one data folder: started, recognised, stopped, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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


@dataclass
class Server:
    """A server that is ours, on `home.data`, with its socket in `socket`."""

    home: Home
    binaries: Binaries
    socket: Path
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the postmaster and wait until it accepts connections; EmbeddedError says why it does not."""
        self._clear_remains()
        with self.home.log.open("ab") as log:
            self.home.account.own(self.home.log)
            begin = log.seek(0, os.SEEK_END)
            argv = [self.binaries.program("postgres"), "-D", str(self.home.data), "-k", str(self.socket)]
            self._child = self.home.account.spawn(argv, output=log.fileno())
        try:
            self._await_ready(self._child, begin)
        except BaseException:
            self.kill()
            raise

    def alive(self) -> bool:
        """Tell whether the postmaster runs, whoever started it."""
        if self._child is not None:
            return self._child.poll() is None
        return running_pid(self.home.data) is not None

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the postmaster by the mode's signal and wait for its end; after 60 s kill it."""
        pid = self.pid
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[mode])
        if not self._ended(STOP_SECONDS):
            self.kill()

    def kill(self) -> None:
        """SIGKILL the postmaster and every process of it, as a power failure would."""
        pid = self.pid
        if pid is None:
            return
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            family = [postmaster, *postmaster.children(recursive=True)]
            _kill(family)
        self._ended(STOP_SECONDS)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self.alive() else running_pid(self.home.data)

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
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
