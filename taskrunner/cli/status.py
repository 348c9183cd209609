"""`taskrunner status`: the figures on one page."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskrunner.cli.options import AsJson, ByTenant

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Connection

    from taskrunner.cli.session import Session
    from taskrunner.reads import Recent, Status

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Look again each second, until Ctrl-C.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: taskrunner status --watch")(status)


def status(watch: Watch = False, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Show tasks, runners, queues and schedules.

    Pending tasks include due and retrying ones; what ended counts for 24 hours, dead tasks until somebody deals with
    them.
    """
    from taskrunner import console
    from taskrunner.cli.session import emit, session

    with session() as opened:
        if watch:
            _watch(opened, as_json, tenant)
            return
        found, now, recent = _look(opened.connection, tenant)
        emit(found, as_json, lambda: console.show_status(found, now, width=console.screen().width, recent=recent))


def _look(connection: Connection[Any], tenant: str | None) -> tuple[Status, datetime, Recent]:
    from taskrunner import reads
    from taskrunner.db import run
    from taskrunner.tenancy import run_as

    found, recent = run_as(connection, reads.status(tenant), tenant), run_as(connection, reads.recent(tenant), tenant)
    return found, run(connection, reads.now()), recent


def _watch(opened: Session, as_json: bool, tenant: str | None) -> None:
    from taskrunner.console import screen, watch
    from taskrunner.db import connect

    connection = opened.connection
    with ExitStack() as later:

        def look() -> tuple[Status, datetime, Recent]:
            nonlocal connection
            if connection.closed:  # the database was away
                connection = later.enter_context(connect(opened.url, name="taskrunner cli"))
            return _look(connection, tenant)

        watch(screen(), look, _json_line if as_json else None)


def _json_line(found: Status, now: datetime) -> str:
    return found.model_dump_json()
