"""The caller's own connection, taken from what `connection=` was given, so that a task commits with the caller's data.

SQLAlchemy is recognised by what its objects offer; it is never imported.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from taskrunner.errors import InvalidArgument

_REMEDY = "give a psycopg 3 connection, or a SQLAlchemy session on an engine of `postgresql+psycopg://`"


def sync_connection(given: Any) -> psycopg.Connection[Any]:
    """Return the psycopg connection behind a Connection or a SQLAlchemy/SQLModel Session or Connection.

    Raises: `InvalidArgument` for anything else, naming the remedy.
    """
    if isinstance(given, psycopg.Connection):
        return _begun(given)
    if isinstance(given, psycopg.AsyncConnection) or _is_async(given):
        raise InvalidArgument("connection= is asynchronous: use AsyncTaskQueue with it")
    found = _driver_of(_core_of(given))
    if isinstance(found, psycopg.Connection):
        return _begun(found)
    raise InvalidArgument(f"connection= cannot be a {_kind(given, found)}: {_REMEDY}")


async def async_connection(given: Any) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection behind an AsyncConnection or a SQLAlchemy/SQLModel AsyncSession or AsyncConnection.

    Raises: `InvalidArgument` for anything else, naming the remedy.
    """
    if isinstance(given, psycopg.AsyncConnection):
        return await _abegun(given)
    if isinstance(given, psycopg.Connection) or not _is_async(given):
        raise InvalidArgument(f"connection= must be asynchronous, not {_kind(given, given)}: use TaskQueue with it")
    core = await given.connection() if hasattr(given, "sync_session") else given
    found = _driver_of(core.sync_connection)
    if isinstance(found, psycopg.AsyncConnection):
        return await _abegun(found)
    raise InvalidArgument(f"connection= cannot be a {_kind(given, found)}: {_REMEDY}")


def _begun(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Begin the caller's transaction if none is open: ours, being the first, would be the whole of it, and commit."""
    if _must_begin(conn):
        conn.execute("SELECT")
    return conn


async def _abegun(conn: psycopg.AsyncConnection[Any]) -> psycopg.AsyncConnection[Any]:
    if _must_begin(conn):
        await conn.execute("SELECT")
    return conn


def _must_begin(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return not conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE


def _is_async(given: Any) -> bool:
    return hasattr(given, "sync_session") or hasattr(given, "sync_connection")


def _core_of(given: Any) -> Any:
    """A Session begins its transaction, and lends its Connection; a Connection is one already."""
    if hasattr(given, "get_bind") and callable(getattr(given, "connection", None)):
        return given.connection()
    return given


def _driver_of(core: Any) -> Any:
    if core is not None and hasattr(core, "in_transaction") and not core.in_transaction():
        core.begin()
    return getattr(getattr(core, "connection", None), "driver_connection", None)


def _kind(given: Any, found: Any) -> str:
    names = [f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in (given, found) if thing is not None]
    return " over ".join(dict.fromkeys(names)) or "None"
