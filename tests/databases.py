"""Databases of tests, used again where that cannot be seen: a copy of the template costs several times as much.

Only a database whose catalogs are those of the template is lent again, emptied, without statistics, under a new name
and with nobody left in it. One that a test has altered (tables, grants, settings, roles) is dropped as ever.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from taskrunner.testing.database import TEMPLATE, Database, Server
from tests.processes import PATIENCE

_USES = 50
"""Times that a database is lent: each leaves dead rows in its catalogs."""

_TRIES = 20
"""Times that its sessions are ended before it is dropped: somebody of the test that has ended keeps coming back."""

_CATALOGS = (
    *("pg_attrdef", "pg_constraint", "pg_default_acl", "pg_event_trigger", "pg_extension", "pg_foreign_server"),
    *("pg_index", "pg_inherits", "pg_language", "pg_largeobject_metadata", "pg_namespace", "pg_policy"),
    *("pg_publication", "pg_rewrite", "pg_sequence", "pg_statistic_ext", "pg_trigger", "pg_type"),
    "pg_attribute WHERE attrelid >= 16384",
    "pg_proc WHERE oid < 16384",
)
"""Catalogs in which nothing may have been written. Of others it is compared what stands in them."""

_WRITTEN = " UNION ALL ".join(
    f"SELECT '{catalog}', count(*), sum(hashtextextended(ctid::text || xmin, 0)) FROM {catalog}"
    for catalog in _CATALOGS
)

# Emptying a table gives it a new file, and moving the clock replaces a function: all else must be as it was.
_SHAPE = f"""
SELECT md5(string_agg(part, '|' ORDER BY part)) FROM (
    SELECT written::text AS part FROM ({_WRITTEN}) AS written
    UNION ALL
    SELECT ROW(c.oid, relname, relnamespace, relowner, relacl, reloptions, relkind, relpersistence, relnatts, relchecks,
               relhasindex, relhasrules, relhastriggers, relhassubclass, relrowsecurity, relforcerowsecurity,
               relreplident, relispartition, reltablespace, reltoastrelid)::text
      FROM pg_class c
    UNION ALL
    SELECT ROW(p.oid, proname, pronamespace, proowner, proacl, proconfig, prosrc, provolatile, proparallel,
               prosecdef)::text
      FROM pg_proc p WHERE p.oid >= 16384
    UNION ALL
    SELECT ROW(s.*)::text
      FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
    UNION ALL
    SELECT ROW(datdba, datacl, datallowconn, datconnlimit, datistemplate)::text
      FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT version_num FROM taskrunner.schema_version
) AS parts
"""

_RESTARTS = """
SELECT format('ALTER SEQUENCE %s RESTART', oid::regclass) FROM pg_class
 WHERE relkind = 'S' AND relnamespace = 'taskrunner'::regnamespace
"""

_USED = """
SELECT format('%I.%I', relnamespace::regnamespace, relname)
  FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'taskrunner'::regnamespace AND relname <> 'schema_version'
   AND (reltuples >= 0 OR pg_relation_size(oid) > 0)
"""

_CLOCK = "SELECT pg_get_functiondef('taskrunner.clock()'::regprocedure)"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


class Databases:
    """Lends databases of one server, to one test at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._free: list[tuple[str, int]] = []
        self._shape = self._clock = ""
        self._admin = psycopg.connect(server.admin_url, autocommit=True)

    def close(self) -> None:
        """Drop what is there."""
        for name, _ in self._free:
            self._drop(name)
        self._admin.close()

    @contextmanager
    def lent(self) -> Iterator[Database]:
        """Lend a database in which nothing is."""
        name, uses = self._free.pop() if self._free else (self._made(), 1)
        try:
            yield Database(self._server, name)
        finally:
            fresh = self._renamed(name) if uses < _USES else None
            if fresh is None:
                self._drop(name)
            elif self._emptied(fresh):
                self._free.append((fresh, uses + 1))
            else:
                self._drop(fresh)

    def _made(self) -> str:
        name = _new_name()
        self._do("CREATE DATABASE {} TEMPLATE {}", name, TEMPLATE)
        if not self._shape:
            self._learn(name)
        return name

    def _renamed(self, name: str) -> str | None:
        """Give it a name that nobody of the test that has ended knows; None while somebody keeps coming back."""
        fresh = _new_name()
        for _ in range(_TRIES):
            self._end_sessions(name)
            try:
                self._do("ALTER DATABASE {} RENAME TO {}", name, fresh)
            except psycopg.errors.ObjectInUse:
                continue
            except psycopg.errors.InvalidCatalogName:  # the test has dropped it
                return None
            return fresh
        return None

    def _learn(self, name: str) -> None:
        with psycopg.connect(self._server.url_of(name), autocommit=True) as conn:
            self._shape, self._clock = _value(conn, _SHAPE), _value(conn, _CLOCK)

    def _emptied(self, name: str) -> bool:
        """Make it what the template is. Returns: whether that was possible."""
        try:
            with psycopg.connect(self._server.url_of(name), autocommit=True) as conn:
                conn.execute("SET lock_timeout = '2s'")  # of a transaction that was prepared and left
                if not self._empty(conn):
                    return False
        except psycopg.Error:
            return False
        self._end_sessions(name)
        return True

    def _end_sessions(self, name: str) -> None:
        """End who is connected, and wait until they have gone: PostgreSQL itself would look every 100 ms."""
        until = time.monotonic() + PATIENCE
        while self._admin.execute(_END_SESSIONS, [name]).fetchall():
            assert time.monotonic() < until, f"somebody stays in {name}"
            time.sleep(0.002)

    def _empty(self, conn: psycopg.Connection[Any]) -> bool:
        if _value(conn, "SELECT to_regclass('taskrunner.test_clock') IS NOT NULL"):
            conn.execute("DROP TABLE taskrunner.test_clock")
            conn.execute(self._clock.encode())
        if _value(conn, _SHAPE) != self._shape:
            return False
        if used := [name for (name,) in conn.execute(_USED)]:
            conn.execute(f"TRUNCATE {', '.join(used)} CASCADE".encode())
        for (restart,) in conn.execute(_RESTARTS).fetchall():
            conn.execute(restart)
        conn.execute("DELETE FROM pg_statistic WHERE starelid >= 16384")
        conn.execute("SELECT pg_stat_reset()")
        return True

    def _drop(self, name: str) -> None:
        self._do("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _do(self, statement: str, *names: str) -> None:
        self._admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]


def _new_name() -> str:
    return f"test_{secrets.token_hex(6)}"


def _value(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
