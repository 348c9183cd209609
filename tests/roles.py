"""Roles and logins for the tests of tenants: they are the whole server's, so each test has names of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from taskrunner import db, roles
from taskrunner.testing.database import Database

Connection = psycopg.Connection[Any]


@dataclass
class Roles:
    """The names of one test's roles, and its logins."""

    database: Database
    prefix: str
    made: list[str] = field(default_factory=list)

    def login(self, kind: str | None = None, options: str = "") -> str:
        """Return the URL of a new login, a member of the group if one is named."""
        name = f"{self.prefix}_{secrets.token_hex(3)}"
        self.made.append(name)
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw' {}").format(sql.Identifier(name), sql.SQL(options))  # type: ignore[arg-type]  # a test's own
        self.database.server.execute(create)
        if kind is not None:
            group = sql.Identifier(f"{self.prefix}_{kind}")
            self.database.server.execute(sql.SQL("GRANT {} TO {}").format(group, sql.Identifier(name)))
        return url_as(self.database.url, name)

    def mapped(self, tenant: str) -> str:
        """Return the URL of a new login that is mapped to the tenant."""
        url = self.login()
        with self.database.connect() as conn:
            db.run(conn, roles.map_login(name_of(url), tenant))
        return url


def url_as(url: str, name: str) -> str:
    """Return the URL with another login."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:pw@{parts.netloc.rpartition('@')[2]}").geturl()


def name_of(url: str) -> str:
    """Return the login of a URL."""
    return str(urlsplit(url).username)


@contextmanager
def roles_of(database: Database) -> Iterator[Roles]:
    """Lend names; what has them is dropped after the database is, since it depends on them."""
    lent = Roles(database, f"t{secrets.token_hex(5)}")
    try:
        yield lent
    finally:
        server = database.server
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
        for name in [*lent.made, *(f"{lent.prefix}_{kind}" for kind in roles.KINDS)]:
            server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Lend a session, every statement of which is a transaction."""
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


def bound(conn: Connection, tenant: str) -> None:
    """Bind the open transaction, as a trusted application does."""
    conn.execute("SELECT set_config('taskrunner.tenant', %s, true)", [tenant])
