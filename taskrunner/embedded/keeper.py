"""The process that owns a project's server: starts it, restarts it after a crash, stops it when its last user is gone.

Run as `python -m taskrunner.embedded.keeper HOME BINARIES`; the first line of its output is its word to its starter.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from taskrunner.embedded.account import account_for
from taskrunner.embedded.binaries import binaries_for
from taskrunner.embedded.creation import OWNER, Recipe, check_version, create_data
from taskrunner.embedded.folders import Home, socket_folder
from taskrunner.embedded.locks import Lock
from taskrunner.embedded.server import Server
from taskrunner.errors import EmbeddedError

GRACE_SECONDS = 3.0  # without users, before the server is stopped: a command line that is called twice finds it running
LOOK_SECONDS = 0.2
PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before each attempt to restart a crashed server


class Keeper:
    """Watches one server, the lock that its users share, and its own lock, which says that a keeper lives."""

    def __init__(self, home: Home, lock: Lock) -> None:
        self._home = home
        self._lock = lock
        self._users = Lock(home.folder / "users.lock", home.account)
        self._empty_since: float | None = None
        self._told_to_stop = False
        signal.signal(signal.SIGTERM, self._obey)

    def open(self, explicit: Path | None) -> tuple[Server, bool]:
        """Have the server run, from new data if there are none; return it, and whether it had to be started."""
        home = self._home
        binaries = binaries_for(home.account, explicit)
        if not home.data.exists():
            create_data(home, binaries, Recipe(owner=OWNER))
        running = Server.running_on(home, binaries)
        if running is not None:
            return running, False  # its keeper was killed
        check_version(home, binaries)
        home.state.write_text(json.dumps({"version": binaries.version}))
        home.account.own(home.state)
        server = Server(home, binaries, socket_folder(home))
        server.start()
        return server, True

    def keep(self, server: Server) -> None:
        """Keep the server running until it has had no user for 3 s, its folder is deleted, or SIGTERM; then stop it."""
        while not self._told_to_stop and self._lock.in_place() and not self._deserted():
            if not server.alive():
                self._revive(server)
            time.sleep(LOOK_SECONDS)
        server.stop("fast")

    def _deserted(self) -> bool:
        """Tell whether nobody used the server for 3 s; if so the lock is kept, and who joins now waits for our end."""
        if not self._users.attempt():
            self._empty_since = None
            return False
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if now - self._empty_since >= GRACE_SECONDS:
            return True
        self._users.release()
        return False

    def _revive(self, server: Server) -> None:
        for pause in PAUSES:
            time.sleep(pause)
            _log(f"the server of {self._home.data} is gone: restarting it")
            try:
                return server.start()
            except EmbeddedError as error:
                _log(str(error))
        raise EmbeddedError(f"the server of {self._home.data} cannot be restarted")

    def _obey(self, signum: int, frame: FrameType | None) -> None:
        self._told_to_stop = True


def main(folder: str, binaries: str) -> None:
    """Become a daemon, be the only keeper of the home, and keep its server."""
    _detach()
    home = Home(Path(folder), account_for(Path(folder) / "pgdata"))
    with Lock(home.folder / "keeper.lock", home.account) as lock:
        try:
            lock.take(time.monotonic() + 1.0)  # a look at it by somebody else lasts microseconds
        except EmbeddedError:
            return
        keeper = Keeper(home, lock)
        try:
            server, started = keeper.open(Path(binaries) if binaries else None)
        except Exception as error:
            _answer({"error": str(error) if isinstance(error, EmbeddedError) else repr(error)})
            raise
        _answer({"started": started})
        keeper.keep(server)


def _detach() -> None:
    """Leave the starter's children, so that it need not reap us; there is no other thread that a fork could lose."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _answer(word: dict[str, object]) -> None:
    try:
        os.write(1, json.dumps(word).encode())
    except BrokenPipeError:
        _log("whoever started the server is gone already")
    os.dup2(2, 1)  # ends the starter's reading


def _log(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
