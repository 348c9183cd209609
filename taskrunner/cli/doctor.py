"""`taskrunner doctor` and `why`: what is wrong, and why a task does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from taskrunner.cli.options import AsJson, ByTenant, TaskId

if TYPE_CHECKING:
    from taskrunner.doctor import Report

Patience = Annotated[
    str | None, typer.Option(help="From when on transactions, locks and pauses count as long: 30s, 5m (the default).")
]

# Findings that other commands leave with a code of their own for.
_CODES = {"database-unreachable": 4, "schema-behind": 5}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: taskrunner doctor --json")(doctor)
    app.command(epilog="Example: taskrunner why 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")(why)


def doctor(patience: Patience = None, as_json: AsJson = False) -> None:
    """Say what is wrong, what comes of it, and which command mends it.

    Nothing is changed. The exit code is 0 where all is well (a note is no fault), 1 with findings, 4 where the database
    is away, 5 where its schema is behind.
    """
    from taskrunner import console
    from taskrunner.access import database
    from taskrunner.cli.options import duration
    from taskrunner.cli.session import emit
    from taskrunner.doctor import examine
    from taskrunner.settings import load

    settings = load()
    long = duration(patience, "--patience")
    with database(settings) as way, console.waiting("examining"):
        found = examine(way.url, settings, patience=long)
    emit(found, as_json, lambda: console.show_findings(found))
    if not found.healthy:
        raise typer.Exit(_code(found))


def _code(report: Report) -> int:
    return max((_CODES.get(finding.id, 1) for finding in report.findings), default=0)


def why(id_: TaskId, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Say why a task is not running.

    A sentence, what it rests on, and what to do next; for a task in any state.
    """
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session

    with session(tenant=tenant, of=id_) as opened:
        found = opened.run(reads.why(id_))
    emit(found, as_json, lambda: console.show_why(found))
