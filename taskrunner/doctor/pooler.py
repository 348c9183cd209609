"""The check for a transaction pooler on the way to the database: one that gives each transaction another session."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg

from taskrunner.doctor.case import Case
from taskrunner.doctor.values import Finding

ROUNDS = 3
_BACKEND = "SELECT pg_backend_pid()"
_PATIENCE = "3"  # s, for a connection


def pooler(case: Case) -> list[Finding]:
    """Return what a transaction pooler is at odds with; nothing, or a note, where the settings suit it."""
    with _open(case.url) as first, _open(case.url) as second:
        if not _shares_sessions(first, second):
            return []
        at_odds = ["listen"] if case.settings.listen else []
        if case.settings.prepare and not _keeps_prepared(first, second):
            at_odds.append("prepare")
        told, real = first.info.backend_pid, _backend(first)
    return [_found(at_odds, told, real)]


def _open(url: str) -> psycopg.Connection[Any]:
    arguments = psycopg.conninfo.conninfo_to_dict(url)
    patience: dict[str, Any] = {} if "connect_timeout" in arguments else {"connect_timeout": _PATIENCE}
    return psycopg.connect(
        url, autocommit=True, prepare_threshold=None, application_name="taskrunner doctor", **patience
    )


def _backend(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(_BACKEND).fetchone()
    return int(row[0]) if row else 0


def _shares_sessions(first: psycopg.Connection[Any], second: psycopg.Connection[Any]) -> bool:
    """Whether two connections are served by one session, or one connection by several.

    The pid that a pooler makes up for a connection is a hint and no proof: one that lends whole sessions does it too,
    and does no harm. Nothing is held while the other one asks: a pool may have a single session.
    """
    seen: set[int] = set()
    for _ in range(ROUNDS):
        mine = _backend(first)
        with second.transaction():
            theirs = _backend(second)
        seen.add(mine)
        if theirs == mine or len(seen) > 1:
            return True
    return False


def _keeps_prepared(first: psycopg.Connection[Any], second: psycopg.Connection[Any]) -> bool:
    """Whether statements that two connections prepare under one name stay apart: PgBouncer 1.21 renames them."""
    try:
        for round_ in range(ROUNDS):
            for number, conn in enumerate((first, second)):
                conn.execute(f"SELECT {10 * round_ + number}", prepare=True)
    except psycopg.Error:
        return False
    finally:
        for conn in (first, second):
            with suppress(psycopg.Error):
                conn.execute("DEALLOCATE ALL")
    return True


_CONSEQUENCES = {
    "listen": "LISTEN holds for a session that the next transaction may not be given: runners hear no NOTIFY, or "
    "those of others, and keep a session of the pool busy",
    "prepare": "statements that one process has prepared are unknown in the next session that it is given, or "
    "are another's: work fails at random",
}


def _found(at_odds: list[str], told: int, real: int) -> Finding:
    settings = [f"TASKRUNNER_{name.upper()}=off" for name in at_odds]
    return Finding(
        id="transaction-pooler",
        severity="error" if "prepare" in at_odds else "warning" if at_odds else "info",
        summary="DATABASE_URL leads through a transaction pooler"
        + (f", and {' and '.join(at_odds)} are on" if len(at_odds) > 1 else "")
        + (f", and {at_odds[0]} is on" if len(at_odds) == 1 else ""),
        evidence=[
            "two connections were served by one session of the server, or one by several",
            f"the connection was told it is session {told}, and is served by session {real}",
        ],
        consequence="; ".join(_CONSEQUENCES[name] for name in at_odds) or "none: the settings suit it",
        remedy=f"Set {' and '.join(settings)}, for every process, or let DATABASE_URL go to the server itself."
        if at_odds
        else "Nothing is to be done; see docs/how-to/pooler.md.",
        commands=[f"export {' '.join(settings)}"] if at_odds else [],
    )
