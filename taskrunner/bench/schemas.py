"""The schema that a bench makes for itself and drops again: nobody else's tables, queues or channels are touched.

Its name is `taskrunner_bench_` and twelve hexadecimal digits, its comment says who made it, and its maker holds an
advisory lock for as long as it lives. What has such a name and such a comment and whose lock is free was left by one
that was killed.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from taskrunner import schema
from taskrunner.db import Op, connect, nothing, run, scalar, use_schema
from taskrunner.errors import ConfigError, Conflict
from taskrunner.statements import bench as sql

PREFIX = "taskrunner_bench_"
_PATTERN = f"^{PREFIX}[0-9a-f]{{12}}$"
_MARK = "made by `taskrunner bench`"


class LeftOver(NamedTuple):
    """A schema whose bench is no more, and what its comment says of that."""

    name: str
    made: str


@contextmanager
def room(url: str) -> Iterator[str]:
    """Make a migrated schema of a new name and let this process work in it; it is dropped afterwards, come what may.

    Raises: `ConfigError` where the role may not create one; `DatabaseUnreachable`.
    """
    with connect(url, name="taskrunner bench") as conn:
        _check_right(conn)
        name = PREFIX + secrets.token_hex(6)
        run(conn, Op(sql.TRY_HOLD, {"name": name}, nothing))
        try:
            conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
            made = f"{_MARK} at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, pid {os.getpid()} on {socket.gethostname()}"
            conn.execute(SQL("COMMENT ON SCHEMA {} IS {}").format(Identifier(name), Literal(made)))
            use_schema(name)
            schema.migrate(url)
            yield name
        finally:
            _leave(conn, url, name)


def left_over(conn: psycopg.Connection[Any]) -> list[LeftOver]:
    """Return the schemas of benches that were killed; this session has their locks, so that nobody else drops them."""
    params = {"pattern": _PATTERN, "mark": f"{_MARK}%"}
    made = run(conn, Op(sql.MADE, params, lambda rows: [LeftOver(*row) for row in rows]))
    return [one for one in made if run(conn, Op(sql.TRY_HOLD, {"name": one.name}, scalar))]


def drop(conn: psycopg.Connection[Any], name: str) -> None:
    """Drop such a schema with all that is in it. Raises: `Conflict` while a runner of it is still at work."""
    conn.execute("SET lock_timeout = '10s'")
    try:
        conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))
    except psycopg.errors.LockNotAvailable as error:
        raise Conflict(f"the schema {name} is still in use: `taskrunner bench --clean` drops it later") from error
    run(conn, Op(sql.LET_GO, {"name": name}, nothing))


def _check_right(conn: psycopg.Connection[Any]) -> None:
    role, database, allowed = run(conn, Op(sql.MAY_CREATE, {}, lambda rows: rows[0]))
    if not allowed:
        raise ConfigError(
            f"a bench works in a schema of its own, and role {role} may not create one in database {database}: "
            f'let its owner run `GRANT CREATE ON DATABASE "{database}" TO "{role}"`, or set DATABASE_URL to another'
        )


def _leave(conn: psycopg.Connection[Any], url: str, name: str) -> None:
    """Drop the schema, by a new connection if the old one broke."""
    with suppress(psycopg.OperationalError):
        drop(conn, name)
        return
    with connect(url, name="taskrunner bench") as again:
        drop(again, name)
