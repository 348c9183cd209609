"""History in compressed files: written, read back and counted before anything is dropped."""

from __future__ import annotations

import filecmp
import gzip
import io
import itertools
import os
import secrets
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import Connection, Error
from psycopg.errors import UndefinedTable
from psycopg.sql import SQL, Composable

from taskrunner import db
from taskrunner.errors import DatabaseUnreachable

# One janitor at a time writes archives of a database; a session's lock, since that may take minutes.
_ALONE = "SELECT pg_try_advisory_lock(7235440318201949)"
# Said, and not left to the connection's end, which a server may notice only after we have asked for the next lock.
_OTHERS = "SELECT pg_advisory_unlock(7235440318201949)"
_COPY = SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')")


ABANDONED = 86_400  # s, after which a draft that nobody has written to is nobody's


LEVEL = 6  # of 9: a million rows take some 10 s and 35 MB
BLOCK = 1 << 18  # bytes given to zlib at once: rows come one by one


class ArchiveError(Exception):
    """An archive could not be written; what it was to hold must stay."""


class Archived(NamedTuple):
    """A finished file and how many rows it holds."""

    path: Path
    rows: int


class Archive:
    """The writer of a folder's archives; `write` blocks and `abort`, from another thread, ends it."""

    def __init__(self, url: str, folder: Path, *, prepare: bool = True) -> None:
        self._url, self._folder, self._prepare = url, folder, prepare
        self._conn: Connection[Any] | None = None
        self._aborted = threading.Event()

    def write(self, name: str, rows: Composable) -> Archived | None:
        """Write the rows that a select yields to `name.csv.gz`; None when another janitor is at it.

        The file appears under its name when it is on disk, whole, and was read back. One that exists already is never
        replaced: the same rows need no other file, others go to `name-2.csv.gz`.
        Raises: `ArchiveError`, and nothing is left of the file.
        """
        try:
            with self._connected() as conn, _alone(conn) as alone:
                return self._write(conn, name, rows) if alone else None
        except UndefinedTable:  # another janitor has dropped it meanwhile
            return None
        except (OSError, EOFError, zlib.error, Error, DatabaseUnreachable) as error:
            raise ArchiveError(f"{name}.csv.gz in {self._folder}: {str(error).strip()}") from error

    def abort(self) -> None:
        """Let `write` fail soon, wherever it is."""
        self._aborted.set()
        if (conn := self._conn) is not None:
            with suppress(OSError, Error):
                db.hang_up(conn)

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        with db.connect(self._url, name="taskrunner archive", prepare=self._prepare) as conn:
            self._conn = conn
            try:
                self._go_on()
                yield conn
            finally:
                self._conn = None

    def _write(self, conn: Connection[Any], name: str, rows: Composable) -> Archived:
        if not self._folder.is_dir():
            raise ArchiveError(f"{self._folder} is no folder: create it, or mount what belongs there")
        self._tidy()
        draft = self._folder / f".{name}.{secrets.token_hex(6)}.tmp"
        try:
            sent = self._copy(conn, rows, draft)
            if (kept := self._count(draft)) != sent:
                raise ArchiveError(f"{draft} holds {kept} rows of {sent} after it was written")
            return Archived(self._publish(draft, name), sent)
        finally:
            draft.unlink(missing_ok=True)

    def _copy(self, conn: Connection[Any], rows: Composable, draft: Path) -> int:
        """Write the file, for its owner's eyes only: payloads are in it. Equal rows make equal bytes."""
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
            io.BufferedWriter(packed, BLOCK) as block,
            conn.cursor() as cursor,
        ):
            with cursor.copy(_COPY.format(rows)) as copy:
                for row in copy:
                    self._go_on()
                    block.write(row)
            block.close()
            packed.close()
            file.flush()
            os.fsync(file.fileno())
            return cursor.rowcount

    def _count(self, path: Path) -> int:
        """Read the file back, which checks its CRC, and count its rows: a line may end inside of quotes."""
        quotes = lines = 0
        with gzip.open(path, "rb") as packed:
            for line in packed:
                self._go_on()
                quotes += line.count(b'"')
                lines += quotes % 2 == 0
        return lines - 1  # the header

    def _publish(self, draft: Path, name: str) -> Path:
        for path in self._names(name):
            if not path.exists():
                draft.rename(path)
                break
            if filecmp.cmp(draft, path, shallow=False):
                break
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path

    def _tidy(self) -> None:
        """Remove the drafts of writers that were killed; those of other databases may be at work in this folder."""
        for draft in self._folder.glob(".task_history_p*.tmp"):
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > ABANDONED:
                    draft.unlink()

    def _names(self, name: str) -> Iterator[Path]:
        yield self._folder / f"{name}.csv.gz"
        yield from (self._folder / f"{name}-{number}.csv.gz" for number in itertools.count(2))

    def _go_on(self) -> None:
        if self._aborted.is_set():
            raise ArchiveError("the archive was not finished: its process is stopping")


@contextmanager
def _alone(conn: Connection[Any]) -> Iterator[bool]:
    """Be the only one who archives, or say that another one does."""
    alone = conn.execute(_ALONE).fetchone() == (True,)
    try:
        yield alone
    finally:
        if alone:
            with suppress(Error):
                conn.execute(_OTHERS)
