"""Tenants: roles, row security, doors that are bound; and who tries to get around them, in SQL of his own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from taskrunner import db, roles
from taskrunner.testing.database import Database
from tests.engine import Engine

Connection = psycopg.Connection[Any]


@dataclass
class Roles:
    """The roles of one test's database, and logins of its own: roles are the whole server's."""

    database: Database
    prefix: str
    made: list[str] = field(default_factory=list)

    def login(self, kind: str | None = None, options: str = "") -> str:
        """Return the URL of a new login, a member of the group if one is named."""
        name = f"{self.prefix}_{secrets.token_hex(3)}"
        self.made.append(name)
        self.database.server.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw' {}").format(sql.Identifier(name), sql.SQL(options))  # type: ignore[arg-type]  # a test's own
        )
        if kind is not None:
            self.database.server.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"{self.prefix}_{kind}"), sql.Identifier(name))
            )
        return self.url(name)

    def url(self, name: str) -> str:
        parts = urlsplit(self.database.url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{name}:pw@{place}").geturl()

    def mapped(self, tenant: str) -> str:
        """Return the URL of a new login that is mapped to the tenant."""
        url = self.login()
        with self.database.connect() as conn:
            db.run(conn, roles.map_login(name_of(url), tenant))
        return url


def name_of(url: str) -> str:
    return str(urlsplit(url).username)


@contextmanager
def roles_of(database: Database) -> Iterator[Roles]:
    """Lend names; what has them is dropped after the database is."""
    lent = Roles(database, f"t{secrets.token_hex(5)}")
    yield lent
    server = database.server
    server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
    for name in [*lent.made, *(f"{lent.prefix}_{kind}" for kind in roles.KINDS)]:
        server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture
def lent(taskrunner_db: Database) -> Iterator[Roles]:
    with roles_of(taskrunner_db) as made:
        yield made


@pytest.fixture
def installed(lent: Roles) -> Roles:
    """Roles in the test's database."""
    roles.create(lent.database.url, lent.prefix)
    return lent


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


def test_smoke(engine: Engine, installed: Roles) -> None:
    url = installed.mapped("acme")
    engine.add(3, tenant="acme")
    engine.add(4, tenant="other")
    with connected(url) as conn:
        assert conn.execute("SELECT count(*) FROM taskrunner.task").fetchone() == (3,)
