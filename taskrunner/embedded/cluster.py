"""A throwaway server for tests and benchmarks, made and run by the same means as a project's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from taskrunner.embedded.binaries import binaries_for
from taskrunner.embedded.creation import SUPERUSER, Recipe, create_data, password_of
from taskrunner.embedded.folders import Home, home_in, socket_folder
from taskrunner.embedded.server import DEFAULT_PORT, Server, StopMode, socket_url

# Ends the server when its reader's other end closes: also when we are killed and close nothing ourselves.
GUARD = 'read -r _; kill -QUIT "$1" 2>/dev/null'


class Cluster:
    """A running server that ends with its process at the latest; leaving it as a context manager removes it."""

    def __init__(self, server: Server, port: str) -> None:
        self._server = server
        self._port = port
        self._guard: subprocess.Popen[bytes] | None = None
        self.password = password_of(SUPERUSER, server.home.data)

    @classmethod
    def create(
        cls, folder: Path, *, binaries: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> Cluster:
        """Create and start a server in the folder; `settings` are those of postgresql.conf, `fsync="off"` among them.

        As root, where the server's account cannot enter the folder, `data` is under /var/lib/taskrunner.
        """
        settings = settings or {}
        home = home_in(folder)
        programs = binaries_for(home.account, binaries)
        try:
            create_data(home, programs, Recipe(settings))
            cluster = cls(Server(home, programs, socket_folder(home)), settings.get("port", DEFAULT_PORT))
            cluster.start()
        except BaseException:
            _remove(home, home.folder / "socket")
            raise
        return cluster

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._server.home.data

    @property
    def socket(self) -> Path:
        """The folder of the server's socket."""
        return self._server.socket

    @property
    def log(self) -> Path:
        """The file of the server's own messages."""
        return self._server.home.log

    @property
    def binaries(self) -> Path:
        """The folder of the programs it runs by, pg_dump and pg_basebackup beside them."""
        return self._server.binaries.folder

    @property
    def version(self) -> str:
        """The server's version, such as `18.6`."""
        return self._server.binaries.version

    def url(self, database: str = "postgres") -> str:
        """Return the superuser's URL of a database, over the unix socket."""
        return socket_url(self.socket, SUPERUSER, self.password, database, self._port)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self._server.start()
        pid = str(self._server.pid)
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "sh", pid], stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server: `smart` waits for its clients, `fast` ends them, `immediate` skips the checkpoint."""
        self._server.stop(mode)
        self._dismiss_guard()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its processes."""
        self._server.kill()
        self._dismiss_guard()

    def remove(self) -> None:
        """Stop the server and delete all its files."""
        self.stop("immediate")
        _remove(self._server.home, self.socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()  # before its pipe closes: the pid it knows may be somebody else's by then
            self._guard.communicate()
            self._guard = None


def _remove(home: Home, socket: Path) -> None:
    for folder in (home.data, socket):
        shutil.rmtree(folder, ignore_errors=True)
    home.log.unlink(missing_ok=True)
    with suppress(OSError):  # the caller may keep things of its own in it
        home.folder.rmdir()
