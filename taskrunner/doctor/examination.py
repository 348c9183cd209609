"""One examination: every check in a transaction of its own, so that none that fails or is too slow hides another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from taskrunner import schema
from taskrunner.db import Op, Steps, connect, run, scalar
from taskrunner.doctor import fleet, server, upkeep, work
from taskrunner.doctor.case import Case, Check
from taskrunner.doctor.pooler import pooler
from taskrunner.doctor.values import SEVERITIES, Finding, Report, Unseen
from taskrunner.errors import DatabaseUnreachable, SchemaBehind, TaskrunnerError
from taskrunner.settings import Settings
from taskrunner.statements import doctor as sql
from taskrunner.wording import first_line

CHECKS = (*server.CHECKS, *work.CHECKS, *fleet.CHECKS, *upkeep.CHECKS)

LIMIT_MS = 1000
"""How long one statement of a check may take; what takes longer is reported as unseen."""


def examine(
    url: str, settings: Settings, *, patience: timedelta | None = None, overdue: timedelta | None = None
) -> Report:
    """Look at everything that can be wrong with the database at `url` and with the processes that work on it.

    Transactions, locks and pauses count from `patience` on, ticks and rescues that have not come from `overdue` on.
    Nothing is changed; a database that is away, or whose schema is behind, is a finding and no error.
    """
    began, examined_at = time.monotonic(), datetime.now(UTC)
    case = Case(settings, url)
    case.patience = case.patience if patience is None else patience
    case.overdue = case.overdue if overdue is None else overdue
    made: list[str] = []
    findings = list(_findings(case, made))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        healthy=all(finding.severity == "info" for finding in findings),
        examined_at=examined_at,
        seconds=round(time.monotonic() - began, 3),
        findings=findings,
        checks=made,
        unseen=case.unseen,
    )


def _findings(case: Case, made: list[str]) -> Iterator[Finding]:
    """Yield what is found; `made` is filled with the checks that could be made."""
    made.append("database")
    try:
        with connect(case.url, name="taskrunner doctor", prepare=False) as conn:
            yield from _connected(case, conn, made)
    except DatabaseUnreachable as error:
        yield _unreachable(error)


def _connected(case: Case, conn: psycopg.Connection[Any], made: list[str]) -> Iterator[Finding]:
    made.append("schema")
    usable, findings = _schema(case, conn)
    yield from findings
    for check in CHECKS:
        if usable or not check.schema:
            yield from _guarded(case, check.name, made, lambda check=check: run(conn, _brief(check, case)))  # type: ignore[misc]
        else:
            case.unseen.append(Unseen(check=check.name, reason="the schema is missing or behind"))
    yield from _guarded(case, "pooler", made, lambda: pooler(case))


def _brief(check: Check, case: Case) -> Steps[list[Finding]]:
    yield Op(sql.BRIEF, {"patience": LIMIT_MS}, scalar)
    return (yield from check.look(case))


def _guarded(case: Case, name: str, made: list[str], look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what a check finds; one that cannot be made says so, and the others go on."""
    try:
        found = look()
    except DatabaseUnreachable:
        raise
    except (TaskrunnerError, psycopg.Error) as error:
        case.unseen.append(Unseen(check=name, reason=first_line(error)))
        return []
    made.append(name)
    return found


def _schema(case: Case, conn: psycopg.Connection[Any]) -> tuple[bool, list[Finding]]:
    """Return whether the other checks may ask the tables, and what is to be said of the schema."""
    try:
        current = run(conn, schema.CURRENT)
    except SchemaBehind:
        current = None
    except (TaskrunnerError, psycopg.Error) as error:
        if isinstance(error, DatabaseUnreachable):
            raise
        case.unseen.append(Unseen(check="schema", reason=first_line(error)))
        return True, []
    try:
        schema.check(current)
    except SchemaBehind as error:
        return False, [_behind(str(error), current)]
    return True, [] if current in schema.revisions() else [_newer(str(current))]


def _behind(words: str, current: str | None) -> Finding:
    return Finding(
        id="schema-behind",
        severity="error",
        summary=words.partition(":")[0],
        evidence=[f"revision {current or 'none'}, this release needs {schema.head()}"],
        consequence="no process of this release starts on it",
        remedy="Bring it up to date; running processes of one release older go on working.",
        commands=["taskrunner migrate"],
    )


def _newer(current: str) -> Finding:
    return Finding(
        id="schema-newer",
        severity="info",
        summary=f"the database is at {current}, which this release does not know",
        evidence=[f"revision {current}, this release knows {schema.head()}"],
        consequence="none while a release is rolled out: one release older keeps working",
        remedy="Bring this installation up to date.",
        commands=["pip install --upgrade taskrunner"],
    )


def _unreachable(error: DatabaseUnreachable) -> Finding:
    return Finding(
        id="database-unreachable",
        severity="error",
        summary="the database cannot be reached",
        evidence=[str(error).partition(": ")[2] or str(error)],
        consequence="nothing is added, claimed or ended; runners wait, and go on when it is back",
        remedy="See that it runs, that DATABASE_URL names it, and that nothing is in the way.",
        commands=["taskrunner config show", "pg_isready"],
    )
