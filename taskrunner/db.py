"""Connections and the two pumps: one storage body, run by a blocking or by an asynchronous connection.

A storage function returns an `Op`, or, where it takes several statements, a generator that yields `Op`s and
returns its result (the way psycopg itself is built). `run` and `arun` execute either; a generator runs inside
one transaction.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, Connection, RawCursor
from psycopg.pq import ExecStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.array import ListBinaryDumper

from taskrunner import columns
from taskrunner.errors import AccessDenied, DatabaseUnreachable, SchemaBehind, TaskrunnerError

T = TypeVar("T")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Op(Generic[T]):
    """One statement, its parameters, and how its rows become a value."""

    sql: str
    params: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Sequence[Row]], T] = lambda rows: rows  # type: ignore[assignment,return-value]  # T is Sequence[Row] here


Steps = Generator[Op[Any], Any, T]
"""Several statements of one transaction: yields each `Op`, is sent its value, returns the result."""

Work = Op[T] | Steps[T]


def nothing(rows: Sequence[Row]) -> None:
    """Read no value: for statements whose effect is all."""


def scalar(rows: Sequence[Row]) -> Any:
    """Read the first column of the first row; None without one."""
    return rows[0][0] if rows else None


def column(rows: Sequence[Row]) -> list[Any]:
    """Read the first column of every row."""
    return [row[0] for row in rows]


def run(conn: Connection[Any], work: Work[T]) -> T:
    """Execute `work` on a blocking connection.

    Raises: `DatabaseUnreachable` when the connection breaks, `SchemaBehind` when a table or column is missing.
    """
    with translated():
        if isinstance(work, Op):
            return _execute(conn, work)
        with conn.transaction():
            return steps(conn, work)


async def arun(conn: AsyncConnection[Any], work: Work[T]) -> T:
    """Execute `work` on an asynchronous connection; raises what `run` raises."""
    with translated():
        if isinstance(work, Op):
            return await _aexecute(conn, work)
        async with conn.transaction():
            return await asteps(conn, work)


def steps(conn: Connection[Any], work: Steps[T]) -> T:
    """Execute the steps in the transaction that is open."""
    value: Any = None
    while True:
        try:
            op = work.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        value = _execute(conn, op)


async def asteps(conn: AsyncConnection[Any], work: Steps[T]) -> T:
    """Execute the steps in the transaction that is open."""
    value: Any = None
    while True:
        try:
            op = work.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        value = await _aexecute(conn, op)


# By cursors of our own: a connection of the user's may give dicts, or bind parameters on the client's side. Raw ones,
# with numbered parameters: psycopg would parse the long statements anew each time (it remembers those of up to 4,096
# characters), which is a tenth of what a cycle of 100 tasks costs this process.


class OwnConnection(Connection[TupleRow]):
    """A blocking connection of our own, with a cursor that is used again.

    A new one for each statement looks up anew how each parameter is written: 25 µs of an enqueue's 90.
    """

    @cached_property
    def steady(self) -> RawCursor[TupleRow]:
        """The cursor of all statements that come one by one."""
        return RawCursor(self, row_factory=tuple_row)


class OwnAsyncConnection(AsyncConnection[TupleRow]):
    """An asynchronous connection of our own: see `OwnConnection`."""

    @cached_property
    def steady(self) -> AsyncRawCursor[TupleRow]:
        """The cursor of all statements that come one by one."""
        return AsyncRawCursor(self, row_factory=tuple_row)


def _execute(conn: Connection[Any], op: Op[T]) -> T:
    text, names = numbered(op.sql)
    cursor = conn.steady if isinstance(conn, OwnConnection) else RawCursor(conn, row_factory=tuple_row)
    cursor.execute(text, _ordered(op.params, names), binary=True)
    return op.read(cursor.fetchall() if _brings_rows(cursor) else ())


async def _aexecute(conn: AsyncConnection[Any], op: Op[T]) -> T:
    text, names = numbered(op.sql)
    cursor = conn.steady if isinstance(conn, OwnAsyncConnection) else AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(text, _ordered(op.params, names), binary=True)
    return op.read(await cursor.fetchall() if _brings_rows(cursor) else ())


def _brings_rows(cursor: RawCursor[TupleRow] | AsyncRawCursor[TupleRow]) -> bool:
    """Whether there is something to fetch; `cursor.description` would make an object of each column to say so."""
    return cursor.pgresult is not None and cursor.pgresult.status == ExecStatus.TUPLES_OK


def execute(conn: Connection[Any], op: Op[Any]) -> RawCursor[TupleRow]:
    """Execute the statement; in a pipeline its rows are there when that has ended."""
    text, names = numbered(op.sql)
    return RawCursor(conn, row_factory=tuple_row).execute(text, _ordered(op.params, names), binary=True)


async def aexecute(conn: AsyncConnection[Any], op: Op[Any]) -> AsyncRawCursor[TupleRow]:
    """Execute the statement; in a pipeline its rows are there when that has ended."""
    text, names = numbered(op.sql)
    return await AsyncRawCursor(conn, row_factory=tuple_row).execute(text, _ordered(op.params, names), binary=True)


@lru_cache(maxsize=512)
def numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with `$1` for the first of its `%(names)s`, and so on, and the names in that order."""
    names = tuple(dict.fromkeys(_NAME.findall(sql)))
    text = _NAME.sub(lambda found: f"${names.index(found[1]) + 1}", in_schema(sql))
    return text.replace("%%", "%").encode(), names


_NAME = re.compile(r"%\((\w+)\)[sb]")


def _ordered(params: Mapping[str, Any], names: tuple[str, ...]) -> list[Any] | None:
    return [params[name] for name in names] if names else None


SCHEMA = "taskrunner"
_schema = SCHEMA


def schema_name() -> str:
    """Return the schema that this process works in."""
    return _schema


def use_schema(name: str) -> None:
    """Let all statements and channels of this process, from now on, mean those of another schema: for `bench`."""
    global _schema
    _schema = name
    numbered.cache_clear()


def in_schema(text: str) -> str:
    """Return SQL, or a channel's name, with the schema that this process works in."""
    return text if _schema == SCHEMA else text.replace(SCHEMA, _schema)


# OperationalErrors by class, after which the connection is well and the statement may be repeated.
_STATEMENT_ONLY = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


_BOUND = "a login sees and writes the rows of the tenant that it is mapped to, or that the door is given by tenant="


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors that a person can do something about into ours, with the remedy."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn) as error:
        raise SchemaBehind(f"{_first_line(error)}: run `taskrunner migrate`") from error
    except psycopg.errors.UndefinedFunction as error:
        if f"{_schema}." not in str(error):
            raise
        raise SchemaBehind(f"{_first_line(error)}: run `taskrunner migrate`") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise AccessDenied(f"{_first_line(error)}: {_BOUND}") from error
    except _STATEMENT_ONLY:
        raise
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise DatabaseUnreachable(f"the database cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# TCP keepalives notice a vanished peer; a connect attempt does not hang for minutes.
_CONNECT = {
    "connect_timeout": "10",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def arguments(url: str, *, name: str, prepare: bool = True) -> dict[str, Any]:
    """Return what a connection to `url` is opened with, for pools; what the URL says itself is left alone."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    defaults = {key: value for key, value in _CONNECT.items() if key not in given}
    threshold = 3 if prepare else None
    return {**defaults, "application_name": name, "autocommit": True, "prepare_threshold": threshold}


# What our statements rely on, whatever the database's, the role's or the client's defaults are.
_SESSION = """SELECT set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('TimeZone', 'UTC', false), set_config('jit', 'off', false),
    set_config('client_encoding', 'UTF8', false)"""


def configure(conn: Connection[Any]) -> None:
    """Give a fresh connection the session that our statements rely on."""
    conn.adapters.register_dumper(list, ListBinaryDumper)  # arrays as text cost four times as much
    columns.register(conn.adapters)
    conn.execute(_SESSION)


async def aconfigure(conn: AsyncConnection[Any]) -> None:
    """Give a fresh connection the session that our statements rely on."""
    conn.adapters.register_dumper(list, ListBinaryDumper)
    columns.register(conn.adapters)
    await conn.execute(_SESSION)


def connect(url: str, *, name: str = "taskrunner", prepare: bool = True) -> Connection[TupleRow]:
    """Open a blocking connection in autocommit mode. Raises: `DatabaseUnreachable`."""
    with translated():
        conn = OwnConnection.connect(url, **arguments(url, name=name, prepare=prepare))
        try:
            configure(conn)
        except BaseException:
            conn.close()
            raise
        return conn


async def aconnect(url: str, *, name: str = "taskrunner", prepare: bool = True) -> AsyncConnection[TupleRow]:
    """Open an asynchronous connection in autocommit mode. Raises: `DatabaseUnreachable`."""
    with translated():
        conn = await OwnAsyncConnection.connect(url, **arguments(url, name=name, prepare=prepare))
        try:
            await aconfigure(conn)
        except BaseException:  # a drain cancels whoever is still connecting
            await conn.close()
            raise
        return conn


def hang_up(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    """Break a connection off, from any thread: whoever waits for its server fails now, as if the server had gone.

    Cancelling a statement instead would make psycopg ask the server to, for seconds if that says nothing any more.
    """
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(conn.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


# To plan a cycle costs 0.9 ms, as much as 60 tasks, and the server would do it each time. A plan made while the table
# is empty stays until it is analyzed: it must not be one that reads the whole table.
_PLANNED_ONCE = """SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('enable_seqscan', 'off', false)"""

PATIENCE = 30.0
"""Seconds that a link waits for a statement: a thousand times what one takes, and not for ever."""


class Link:
    """One asynchronous connection that is opened when needed and thrown away when it breaks.

    Callers take turns. A link never retries by itself, since only the caller knows whether the lost statement
    may be repeated. A peer that keeps the connection up but does not answer counts as gone after `patience` seconds.
    """

    def __init__(
        self, url: str, *, name: str, prepare: bool = True, patience: float = PATIENCE, planned_once: bool = False
    ) -> None:
        """With `planned_once` a statement is planned once for all parameters: for such as find their rows by index."""
        self._url, self._name, self._prepare, self._patience = url, name, prepare, patience
        self._planned_once = planned_once
        self._conn: AsyncConnection[TupleRow] | None = None
        self._turn = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where it leads to."""
        return self._url

    async def run(self, work: Work[T]) -> T:
        """Execute `work`, connecting first if need be. Raises: `DatabaseUnreachable` and the connection is dropped."""
        async with self.connection() as conn:
            late = asyncio.get_running_loop().call_later(self._patience, hang_up, conn)
            try:
                return await arun(conn, work)
            finally:
                late.cancel()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """Lend the connection; a broken one, or one left in mid-statement by a cancellation, is closed after use."""
        async with self._turn:
            if self._conn is None or self._conn.closed:
                self._conn = await self._open()
            conn = self._conn
            try:
                yield conn
            except TaskrunnerError as error:
                if isinstance(error, DatabaseUnreachable):
                    await self.close()
                raise
            except psycopg.Error:
                if conn.broken:
                    await self.close()
                raise
            except BaseException:
                await self.close()
                raise

    async def _open(self) -> AsyncConnection[TupleRow]:
        conn = await aconnect(self._url, name=self._name, prepare=self._prepare)
        if self._planned_once:
            with translated():
                await conn.execute(_PLANNED_ONCE)
        return conn

    async def close(self) -> None:
        """Close the connection, if there is one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
