"""Databases for tests: one throwaway server a session, a migrated template, a fresh copy for each test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

TEMPLATE = "taskrunner_template"

# Tests wait for nothing that a disk must confirm; a test that is killed leaves no session behind for long.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "autovacuum_naptime": "5s",
}

# Replaces taskrunner.clock() in a test's own database by one that can be moved; other databases are not touched.
_MOVABLE_CLOCK = """
CREATE TABLE taskrunner.test_clock (shift interval NOT NULL, frozen_at timestamptz);
INSERT INTO taskrunner.test_clock VALUES ('0', NULL);
CREATE OR REPLACE FUNCTION taskrunner.clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT coalesce(frozen_at, now()) + shift FROM taskrunner.test_clock';
"""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server whose superuser tests may use; `url_of` gives the URL of one of its databases."""

    admin_url: str

    def url_of(self, database: str) -> str:
        """Return the URL of `database` on this server."""
        return urlsplit(self.admin_url)._replace(path=f"/{database}").geturl()

    def execute(self, query: sql.Composed | sql.SQL) -> None:
        """Run one statement on the maintenance database."""
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            conn.execute(query)


class Database:
    """A migrated database of one test. Its clock can be moved: nobody else's is."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.url = server.url_of(name)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection in autocommit mode, for looking at the tables."""
        return psycopg.connect(self.url, autocommit=True)

    def travel(self, delta: timedelta) -> None:
        """Move the database's clock by `delta`, on top of earlier journeys."""
        self._clock("UPDATE taskrunner.test_clock SET shift = shift + %s", delta)

    def travel_to(self, instant: datetime) -> None:
        """Set the database's clock to `instant`, from where it goes on."""
        self._clock("UPDATE taskrunner.test_clock SET shift = %s - coalesce(frozen_at, now())", instant)

    def freeze(self, instant: datetime) -> None:
        """Stop the database's clock at `instant`."""
        self._clock("UPDATE taskrunner.test_clock SET frozen_at = %s, shift = '0'", instant)

    def unfreeze(self) -> None:
        """Let the clock run on from where it stands."""
        self._clock("UPDATE taskrunner.test_clock SET shift = shift + (frozen_at - now()), frozen_at = NULL")

    def now(self) -> datetime:
        """Return what the database's clock says."""
        with self.connect() as conn:
            row = conn.execute("SELECT taskrunner.clock()").fetchone()
        assert row is not None  # noqa: S101 - a SELECT of one value has a row
        found: datetime = row[0]
        return found

    def _clock(self, update: str, *values: object) -> None:
        with self.connect() as conn:
            missing = conn.execute("SELECT to_regclass('taskrunner.test_clock') IS NULL").fetchone()
            if missing == (True,):
                conn.execute(_MOVABLE_CLOCK)
            conn.execute(update, values)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Start a throwaway server in `folder`, or use the one of TASKRUNNER_TEST_URL (a superuser's URL).

    TASKRUNNER_TEST_PG_BIN chooses the programs, TASKRUNNER_TEST_TIMEZONE the server's time zone.
    """
    given = os.environ.get("TASKRUNNER_TEST_URL")
    if given:
        yield Server(given)
        return
    from taskrunner.embedded import Cluster

    binaries = os.environ.get("TASKRUNNER_TEST_PG_BIN")
    settings = {**_SETTINGS, "timezone": os.environ.get("TASKRUNNER_TEST_TIMEZONE", "UTC")}
    with Cluster.create(folder, binaries=Path(binaries) if binaries else None, settings=settings) as cluster:
        _connect_cheaply(cluster.url(), cluster.password)
        yield Server(cluster.url())


def _connect_cheaply(url: str, password: str) -> None:
    """Let the superuser's password be hashed once instead of 4096 times: 2 ms of each connection's 3 ms here.

    The rounds protect passwords that can be guessed; this one is random. PostgreSQL 16 and later.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.info.server_version >= 160_000:
            conn.execute("SET scram_iterations = 1")
            conn.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(password))


def prepare_template(on: Server) -> None:
    """Create the migrated database that every test's database is copied from."""
    from taskrunner import schema

    name = sql.Identifier(TEMPLATE)
    on.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
    on.execute(sql.SQL("CREATE DATABASE {}").format(name))
    schema.migrate(on.url_of(TEMPLATE))


@contextmanager
def database(on: Server, *, template: str = TEMPLATE) -> Iterator[Database]:
    """Create a database for one test, a copy of the template; it is dropped afterwards, with whoever is connected."""
    name = f"test_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    on.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield Database(on, name)
    finally:
        on.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
