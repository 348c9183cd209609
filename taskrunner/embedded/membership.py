"""Joining the project's private server: the first one has it started, the kernel notices when the last one is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import taskrunner
from taskrunner.embedded.creation import OWNER, password_of
from taskrunner.embedded.folders import Home, has_data, home_in
from taskrunner.embedded.locks import Lock
from taskrunner.embedded.server import PidFile, running_pid, socket_url
from taskrunner.errors import EmbeddedError

FOLDER = ".taskrunner"
JOIN_SECONDS = 120.0
LOOK_SECONDS = 0.05
LOG_BYTES = 10_000_000


@dataclass
class Embedded:
    """One process's membership of the project's server, which runs for as long as anybody is a member."""

    url: str = field(repr=False)  # of the database's owner, an ordinary role; holds its password
    data: Path
    version: str
    started: bool  # whether this call started the server
    _lock: Lock = field(repr=False)

    def close(self) -> None:
        """Give up the membership; the server stops about 3 s after its last member has left."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def join(project: Path, *, binaries: Path | None = None) -> Embedded:
    """Start the project's private server, or join the running one; its data are in `<project>/.taskrunner/pgdata`.

    `binaries` is the folder of the programs to start with, else see `find_binaries`. Raises EmbeddedError.
    """
    home = home_in(project / FOLDER)
    _hide_from_git(home)
    until = time.monotonic() + JOIN_SECONDS
    lock = Lock(home.folder / "users.lock", home.account)
    try:
        lock.take(until, shared=True)  # waits for a keeper that is about to stop the server
        started = _ensure_served(home, binaries, until)
        state = json.loads(home.state.read_text())
        url = socket_url(_socket(home), OWNER, password_of(OWNER, home.data), OWNER)
        return Embedded(url, home.data, state["version"], started, lock)
    except BaseException:
        lock.close()
        raise


def is_made(project: Path) -> bool:
    """Tell whether the project has a private server already, running or not; nothing is made."""
    return has_data(project / FOLDER)


def _hide_from_git(home: Home) -> None:
    ignore = home.folder / ".gitignore"
    if not ignore.exists() and os.access(home.folder, os.W_OK):
        ignore.write_text("*\n")


def _ensure_served(home: Home, binaries: Path | None, until: float) -> bool:
    started = False
    while not (_kept(home) and _serving(home)):
        with Lock(home.folder / "start.lock", home.account).take(until):
            if not _kept(home):
                started = _start_keeper(home, binaries, until) or started
        if time.monotonic() > until:
            raise EmbeddedError(f"the server of {home.data} is not ready after {JOIN_SECONDS:.0f} s: see {home.log}")
        time.sleep(LOOK_SECONDS)
    return started


def _kept(home: Home) -> bool:
    """Tell whether a keeper lives: it holds its lock for life. A shared look at it disturbs no other look."""
    with Lock(home.folder / "keeper.lock", home.account) as lock:
        return not lock.attempt(shared=True)


def _serving(home: Home) -> bool:
    found = PidFile.read(home.data)
    return found is not None and found.status == "ready" and running_pid(home.data) is not None


def _socket(home: Home) -> Path:
    found = PidFile.read(home.data)
    if found is None:
        raise EmbeddedError(f"the server of {home.data} stopped at once: see {home.log}")
    return Path(found.socket)


def _start_keeper(home: Home, binaries: Path | None, until: float) -> bool:
    """Start a keeper and wait for its word; return whether it started the server (or found it running)."""
    if home.log.exists() and home.log.stat().st_size > LOG_BYTES:
        home.log.rename(home.log.with_suffix(".log.1"))
    with home.log.open("ab") as log:
        home.account.own(home.log)
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "taskrunner.embedded.keeper", str(home.folder), str(binaries or "")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=_keeper_env(),
            start_new_session=True,  # a Ctrl-C in the starter's terminal is not meant for it
        )
    with keeper:
        try:
            word, _ = keeper.communicate(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return True  # it goes on; the caller sees that time is up
    if keeper.returncode:
        raise EmbeddedError(f"{sys.executable} could not run the server's keeper: see {home.log}")
    answer = json.loads(word or b"{}")  # no word: it was killed, or was not the first
    if "error" in answer:
        raise EmbeddedError(answer["error"])
    return bool(answer.get("started", False))


def _keeper_env() -> dict[str, str]:
    """Return what Python needs to find us, and nothing of PG*, LANG or the application's secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONHOME") if name in os.environ}
    package = str(Path(taskrunner.__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**kept, "LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join([package, *others])}
