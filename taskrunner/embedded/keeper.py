"""The process that owns a project's server: starts it, restarts it after a crash, stops it when its last user is gone.

Run as `python -m taskrunner.embedded.keeper HOME BINARIES`; the first line of its output is its word to its starter.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
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
LONGEST_PAUSE_SECONDS = 30.0  # between attempts to restart a server that crashes at once


class Keeper:
    """Watches one server, the lock that its users share, and its own lock, which says that a keeper lives."""

    def __init__(self, home: Home, lock: Lock) -> None:
        self._home = home
        self._lock = lock
        self._users = Lock(home.folder / "users.lock", home.account)
        self._empty_since: float | None = None
        self._told_to_stop = False
        self._failures = 0
        self._next_attempt_at = 0.0
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
        while not self._told_to_stop and not self._deserted():
            if not self._lock.in_place():
                return server.kill()
            if not server.alive():
                self._revive(server)
            time.sleep(LOOK_SECONDS)
        return server.stop("fast")

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
        now = time.monotonic()
        if now < self._next_attempt_at:
            return
        _log(f"the server of {self._home.data} is gone: restarting it")
        try:
            server.start()
        except (EmbeddedError, OSError) as error:
            _log(str(error))
            self._failures += 1
            self._next_attempt_at = now + min(LONGEST_PAUSE_SECONDS, 0.2 * 2**self._failures)
        else:
            self._failures = 0

    def _obey(self, signum: int, frame: FrameType | None) -> None:
        self._told_to_stop = True


def main(folder: str, binaries: str) -> None:
    """Become a daemon, be the only keeper of the home, and keep its server."""
    _detach()
    home = Home(Path(folder), account_for(Path(folder) / "pgdata"))
    with Lock(home.folder / "keeper.lock", home.account) as lock:
        if _alone(lock):
            _keep(Keeper(home, lock), Path(binaries) if binaries else None)


def _alone(lock: Lock) -> bool:
    with suppress(EmbeddedError):
        lock.take(time.monotonic() + 1.0)  # a look at it by somebody else lasts microseconds
        return True
    return False


def _keep(keeper: Keeper, explicit: Path | None) -> None:
    try:
        server, started = keeper.open(explicit)
    except EmbeddedError as error:
        _answer({"error": str(error)})
    except Exception as error:
        _answer({"error": f"the server's keeper failed: {error!r}"})
        raise
    else:
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
