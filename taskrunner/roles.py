"""The database's roles: made for a least-privilege installation, and logins that belong to one tenant each.

Optional: a single role that owns the tables needs none of this. See docs/how-to/tenants.md.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql

from taskrunner.db import Op, Steps, connect, nothing, translated
from taskrunner.errors import AccessDenied, Conflict, InvalidArgument, NotFound
from taskrunner.statements import roles as statements
from taskrunner.wording import first_line

PREFIX = "taskrunner"
"""What the roles' names begin with if nothing is said."""

KINDS = ("owner", "worker", "user", "reader", "tenant")

_ATTEMPTS = 10

# What the script, or a lock, refuses by a word of its own, and what is to be done.
_MINE = {
    "TR001": "its members would see this one's tasks; give these roles names of their own: "
    "`taskrunner migrate --roles --role-prefix NAME`",
    "TR002": "it would lose its tables: ALTER ROLE … INHERIT",
    "55P03": "a transaction holds on to a table; nothing was changed, say it again",
}

# Another database of the server is given its roles at the same time: catalogues are not locked, the loser comes again.
_MEANWHILE = (errors.UniqueViolation, errors.DuplicateObject, errors.InternalError_, errors.DeadlockDetected)


class Mapping(NamedTuple):
    """A login and its tenant; not `able` while it is no member of the group, or has been dropped."""

    login: str
    tenant: str
    able: bool


def script(prefix: str = PREFIX) -> str:
    """Return the SQL that makes the roles in a migrated database. Raises: `InvalidArgument` for a bad prefix."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", prefix) or prefix.startswith("pg_"):
        raise InvalidArgument(
            f"roles' names begin with up to 40 lower-case letters, digits and underscores, not with {prefix!r}"
        )
    return statements.script(prefix)


def create(url: str, prefix: str = PREFIX) -> None:
    """Make the roles `PREFIX_owner`, `_worker`, `_user`, `_reader`, `_tenant` and grant them what they need.

    Nothing happens to those that are there; it may be done twice and at once. The tables become the owner's, and who
    owned them a member of it.
    Raises: `AccessDenied` where this login may not, `Conflict` when such roles belong to another database of the
    server, or a transaction holds on to a table.
    """
    text = script(prefix)
    with connect(url, name="taskrunner migrate") as connection:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _run(connection, text, prefix)
                return
            except _MEANWHILE:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.05 * attempt)


def _run(connection: psycopg.Connection[Any], text: str, prefix: str) -> None:
    """The script is a transaction of its own: whatever stops it, nothing has happened."""
    try:
        with translated():
            connection.execute(text.encode())
    except psycopg.Error as error:
        connection.rollback()
        if error.sqlstate in _MINE:
            raise Conflict(f"{error.diag.message_primary}: {_MINE[error.sqlstate]}") from error
        raise
    except AccessDenied as error:
        connection.rollback()
        flag = "" if prefix == PREFIX else f" --role-prefix {prefix}"
        raise AccessDenied(
            f"this login may not make the roles ({first_line(error.__cause__)}): give an administrator of the "
            f"server the script that `taskrunner migrate --roles{flag} --sql` prints, to be run in this database"
        ) from error


def map_login(login: str, tenant: str) -> Steps[str]:
    """Let a login of the database see and change this tenant's rows alone, whatever it SETs; returns its name.

    Raises: `NotFound` for no such login; `Conflict` without roles, and for a login that would see more; `AccessDenied`.
    """
    prefix = yield from _prefix()
    if not tenant:
        raise InvalidArgument("a tenant's name is not empty")
    found = yield Op(statements.LOGIN, {"login": login}, list)
    if not found:
        raise NotFound(f"no role {login} in the database: an administrator makes it by CREATE ROLE {login} LOGIN")
    if found[0][1]:
        raise Conflict(f"{login} {found[0][1]}, and so sees every tenant: map a login of its own")
    yield _membership("GRANT {group} TO {login}", prefix, login)
    yield Op(statements.MAP, {"login": login, "tenant": tenant}, nothing)
    return login


def unmap_login(login: str) -> Steps[str]:
    """Take a login its tenant: it sees nothing from now on; returns whose it was. Raises: `NotFound`."""
    prefix = yield from _prefix()
    gone = yield Op(statements.UNMAP, {"login": login}, list)
    if not gone:
        raise NotFound(f"the login {login} is mapped to no tenant")
    if (yield Op(statements.LOGIN, {"login": login}, list)):
        yield _membership("REVOKE {group} FROM {login}", prefix, login)
    return str(gone[0][0])


def mappings() -> Op[list[Mapping]]:
    """Return the logins that are mapped, by tenant."""
    return Op(statements.MAPPED, {}, lambda rows: [Mapping(*row) for row in rows])


def _prefix() -> Steps[str]:
    prefix, there = (yield Op(statements.PREFIX, {}, list))[0]
    if not there:
        raise Conflict("this database has no roles yet: run `taskrunner migrate --roles`")
    return str(prefix)


def _membership(text: str, prefix: str, login: str) -> Op[None]:
    """DDL takes no parameters."""
    names = {"group": sql.Identifier(f"{prefix}_tenant"), "login": sql.Identifier(login)}
    return Op(sql.SQL(text).format(**names).as_string().replace("%", "%%"), {}, nothing)
