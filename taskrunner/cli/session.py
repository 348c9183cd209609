"""What a command works with: the settings, the database, and the two streams."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from taskrunner.errors import Conflict

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import Connection
    from rich.console import RenderableType

    from taskrunner.actions import Action
    from taskrunner.db import Work
    from taskrunner.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """A command's connection to a database whose schema this code can work with."""

    settings: Settings
    url: str
    connection: Connection[Any]
    tenant: str | None = None

    def run(self, work: Work[T]) -> T:
        """Execute an operation of the store, or a read; as the tenant that was asked for, if one was."""
        from taskrunner.tenancy import run_as

        return run_as(self.connection, work, self.tenant)

    def act(self, action: Action[T]) -> T:
        """Do what a person does, noted in the audit trail as done by whoever is at this terminal."""
        from taskrunner.actions import acting

        return self.run(acting(actor(), action).make())


def actor() -> str:
    """Return who is at this terminal, for the audit trail: `cli:ada@host`."""
    import getpass
    import socket

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        import os

        name = str(os.getuid())
    return f"cli:{name}@{socket.gethostname()}"


@contextmanager
def session(*, checked: bool = True, tenant: str | None = None, of: UUID | None = None) -> Iterator[Session]:
    """Lend a connection to the database of the settings; unless `checked` is False, to one with a current schema.

    With a tenant, logins under row security see what is its; filters are the caller's. What is `of` a task is
    refused unless that is the tenant's.

    Raises: `SettingsInvalid`, `EmbeddedError`, `DatabaseUnreachable`, `SchemaBehind`.
    """
    from taskrunner import redaction
    from taskrunner.access import database
    from taskrunner.db import connect
    from taskrunner.settings import load

    settings = load()
    redaction.use(settings.redact)
    with (
        database(settings) as way,
        connect(way.url, name="taskrunner cli", prepare=settings.prepare) as connection,
    ):
        if checked:
            check_schema(connection)
        opened = Session(settings, way.url, connection, tenant)
        if tenant is not None and of is not None:
            from taskrunner.tenancy import check_own

            opened.run(check_own(of, tenant))
        yield opened


@contextmanager
def reconnecting(opened: Session) -> Iterator[Callable[[], Session]]:
    """Lend what gives the session, connected anew where the database was away: for what goes on for long."""
    from dataclasses import replace

    from taskrunner.db import connect

    current = opened
    with ExitStack() as later:

        def session() -> Session:
            nonlocal current
            if current.connection.closed:
                again = connect(opened.url, name="taskrunner cli", prepare=opened.settings.prepare)
                current = replace(opened, connection=later.enter_context(again))
            return current

        yield session


def check_schema(connection: Connection[Any]) -> str:
    """Return the database's revision. Raises: `SchemaBehind` unless this code can work with it."""
    from taskrunner import schema
    from taskrunner.db import run
    from taskrunner.errors import SchemaBehind

    try:
        current = run(connection, schema.CURRENT)
    except SchemaBehind:  # there is no table of revisions: `check` has better words for it
        current = None
    schema.check(current)
    return str(current)


def talk(text: str) -> None:
    """Say something to the person at the terminal: never on stdout, which is for data."""
    typer.echo(text, err=True)


def emit(value: object, as_json: bool, show: Callable[[], RenderableType]) -> None:
    """Print data on stdout: as JSON, or as `show` makes them readable."""
    if as_json:
        from pydantic_core import to_json

        typer.echo(to_json(value, indent=2))
        return
    from taskrunner.console import screen

    screen().print(show())


def tell(value: object, as_json: bool, text: str) -> None:
    """Print data on stdout: as JSON, or as the text that says the same."""
    if as_json:
        emit(value, as_json, lambda: text)
    else:
        typer.echo(text)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone. Raises: `Conflict` on a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Conflict(f"{question} Nobody can be asked here: give --yes")
    if not typer.confirm(question, err=True):
        raise Conflict("nothing was done")
