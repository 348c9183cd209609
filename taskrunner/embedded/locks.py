"""Locks that the kernel drops when their holder dies, however it dies: flock on files of the home."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from taskrunner.embedded.account import Account
from taskrunner.errors import EmbeddedError

LOOK_SECONDS = 0.02


class Lock:
    """An open lock file, held shared, exclusively or not at all; closing it lets go. Children do not inherit it."""

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EmbeddedError(
                f"the private server's files belong to another user: {error}; run as that one, or set DATABASE_URL"
            ) from error
        account.own(path)

    def attempt(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free at once, and tell whether it was."""
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take(self, until: float, *, shared: bool = False) -> Self:
        """Take the lock, waiting until that time.monotonic(); EmbeddedError after it."""
        while not self.attempt(shared=shared):
            if time.monotonic() > until:
                raise EmbeddedError(f"{self.path} stays locked by another process: is the machine very slow?")
            time.sleep(LOOK_SECONDS)
        return self

    def release(self) -> None:
        """Let go, and keep the file open."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def in_place(self) -> bool:
        """Tell whether the path still names the file that is locked: somebody may have deleted the folder."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Let go and close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
