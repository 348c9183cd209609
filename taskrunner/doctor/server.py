"""Checks of the server: who keeps vacuum from its work, who holds locks, what room and what safety there is."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from taskrunner.db import Op, Steps, scalar
from taskrunner.doctor.case import Case, Check, shown, statement
from taskrunner.doctor.values import Finding, Unseen
from taskrunner.statements import doctor as sql
from taskrunner.statements import sessions
from taskrunner.wording import some, span

DEAD_ROWS = 50_000
"""Dead rows of a table that are worth a word: autovacuum is set to come long before."""

SKEW = 2.0
"""Seconds between two clocks that are worth a word."""


class Holder(NamedTuple):
    """A session of somebody's that has a transaction open."""

    pid: int
    login: str
    application: str
    state: str
    open_seconds: float | None
    transactions: int | None = None
    query_seconds: float | None = None

    def words(self) -> str:
        """Name it."""
        who = f"pid {self.pid} {self.application!r}" + (f" of {self.login}" if self.login else "")
        parts = [f"open for {span(self.open_seconds)}"] if self.open_seconds is not None else []
        parts += [f"reaches {self.transactions:,} transactions back"] if self.transactions is not None else []
        parts += [self.state] if self.state else []
        parts += [f"its last statement began {span(self.query_seconds)} ago"] if self.query_seconds is not None else []
        return f"{who}: {', '.join(parts)}"


def _end(pid: int) -> str:
    return statement(f"SELECT pg_terminate_backend({pid})")


def xmin(case: Case) -> Steps[list[Finding]]:
    """Somebody's transaction keeps vacuum from removing what tasks have left behind."""
    if not (yield Op(sessions.SEES_ALL, {}, scalar)):
        reason = "this login is not told since when others' transactions are open: GRANT pg_monitor TO it"
        case.unseen.append(Unseen(check="xmin", reason=reason))
    rows = yield Op(sql.PINNING, {"patience": case.patience}, list)
    holders = [Holder(row[0], row[1], row[2], row[3], row[5], row[4], row[6]) for row in rows]
    findings = [_pinned(holders)] if holders else []
    findings += _prepared((yield Op(sql.PREPARED, {"patience": case.patience}, list)))
    return findings + _slots((yield Op(sql.SLOTS, {}, list)))


_PINS = "dead rows of the task table cannot be removed: claims get slower by the minute, and the disk fills"


def _pinned(holders: list[Holder]) -> Finding:
    return Finding(
        id="xmin-pinned",
        severity="warning",
        summary=f"{some(len(holders), 'open transaction')} of others {_keep(len(holders))} vacuum from its work",
        evidence=shown(holder.words() for holder in holders),
        consequence=_PINS,
        remedy="End the transaction where it was begun, or the session from here; idle_in_transaction_session_timeout "
        "prevents the next one.",
        commands=[_end(holder.pid) for holder in holders[:3]],
    )


def _keep(count: int) -> str:
    return "keeps" if count == 1 else "keep"


def _prepared(rows: list[Any]) -> list[Finding]:
    if not rows:
        return []
    found = Finding(
        id="transaction-prepared",
        severity="error",
        summary=f"{some(len(rows), 'prepared transaction')} wait for COMMIT PREPARED or ROLLBACK PREPARED",
        evidence=shown(f"{gid!r} of {login}, prepared {span(seconds)} ago" for gid, login, seconds, _ in rows),
        consequence=f"they keep their locks over restarts, and {_PINS}",
        remedy="Let its transaction manager decide it, or roll it back by hand.",
        commands=[statement(f"ROLLBACK PREPARED '{rows[0][0]}'")] if "'" not in rows[0][0] else [],
    )
    return [found]


def _slots(rows: list[Any]) -> list[Finding]:
    if not rows:
        return []
    found = Finding(
        id="slot-pinning",
        severity="warning",
        summary=f"{some(len(rows), 'replication slot')} that nobody reads {_keep(len(rows))} vacuum from its work",
        evidence=shown(f"slot {slot} reaches {transactions:,} transactions back" for slot, transactions in rows),
        consequence=_PINS,
        remedy="Start its reader again, or drop the slot.",
        commands=[statement(f"SELECT pg_drop_replication_slot('{rows[0][0]}')")],
    )
    return [found]


def locks(case: Case) -> Steps[list[Finding]]:
    """Somebody has had tasks locked for long."""
    rows = yield Op(sql.HOLDERS, {"patience": case.patience}, list)
    holders = [Holder(*row) for row in rows]
    if not holders:
        return []
    found = Finding(
        id="tasks-locked",
        severity="warning",
        summary=f"{some(len(holders), 'transaction')} may have had tasks locked for longer than "
        f"{span(case.patient_seconds)}",
        evidence=shown(holder.words() for holder in holders),
        consequence="tasks whose rows it has locked are passed over: they do not start, and cannot be cancelled",
        remedy="End the transaction where it was begun, or the session from here; "
        "`taskrunner why ID` tells whether one task is concerned.",
        commands=[_end(holder.pid) for holder in holders[:3]],
    )
    return [found]


def vacuum(case: Case) -> Steps[list[Finding]]:
    """Dead rows pile up, or nobody will come to remove them."""
    server = yield Op(sql.SERVER, {}, list)
    tables = yield Op(sql.TABLES, {}, list)
    off = [name for name, *_, switched_off in tables if switched_off]
    findings = []
    if server[0][3] == "off" or off:
        findings.append(_autovacuum(off))
    piled = [
        (name, live, dead, size, ago)
        for name, live, dead, size, ago, _ in tables
        if dead > DEAD_ROWS and dead > live and (ago is None or ago > case.patient_seconds)
    ]
    if piled:
        findings.append(_dead_rows(piled))
    return findings


def _autovacuum(off: list[str]) -> Finding:
    mend = [statement(f"ALTER TABLE taskrunner.{name} RESET (autovacuum_enabled)") for name in off]
    return Finding(
        id="autovacuum-off",
        severity="error",
        summary=f"autovacuum is off for {', '.join(off)}" if off else "autovacuum is off on the whole server",
        evidence=[f"{name}: autovacuum_enabled=false" for name in off] or ["autovacuum = off"],
        consequence="the task table is rewritten all day: it grows without end, and claims get slower",
        remedy="Switch it on again.",
        commands=mend or [statement("ALTER SYSTEM SET autovacuum = on"), statement("SELECT pg_reload_conf()")],
    )


def _dead_rows(piled: list[Any]) -> Finding:
    return Finding(
        id="dead-rows",
        severity="warning",
        summary=f"dead rows pile up in {', '.join(name for name, *_ in piled[:4])}",
        evidence=shown(
            f"{name}: {dead:,} dead rows, {live:,} live ones, {size / 2**20:,.0f} MiB, "
            + (f"last vacuumed {span(ago)} ago" if ago is not None else "never vacuumed")
            for name, live, dead, size, ago in piled
        ),
        consequence="claims and lists read past them: they get slower, and the disk fills",
        remedy="Vacuum it now; where that removes nothing, somebody's transaction is in the way (see xmin-pinned).",
        commands=[statement(f"VACUUM (ANALYZE) taskrunner.{name}") for name, *_ in piled[:3]],
    )


def safety(case: Case) -> Steps[list[Finding]]:
    """The server loses what it has confirmed, takes no writes, or has no room for more connections."""
    rows = yield Op(sql.SERVER, {}, list)
    synchronous, fsync, full_page_writes, _, standby, connections, room = rows[0]
    findings = [_standby()] if standby else []
    values = {"fsync": fsync, "full_page_writes": full_page_writes, "synchronous_commit": synchronous}
    off = [name for name, value in values.items() if value == "off"]
    if off:
        findings.append(_durability(off))
    if connections >= 0.9 * room:
        findings.append(_crowded(connections, room))
    return findings


def _standby() -> Finding:
    return Finding(
        id="standby",
        severity="error",
        summary="this server is a standby: it takes no writes",
        evidence=["pg_is_in_recovery() is true"],
        consequence="no task can be added, claimed or ended here",
        remedy="Let DATABASE_URL name the primary, as with host=a,b and target_session_attrs=read-write.",
        commands=["taskrunner config show"],
    )


def _durability(off: list[str]) -> Finding:
    corrupts = "fsync" in off or "full_page_writes" in off
    return Finding(
        id="durability-off",
        severity="error" if corrupts else "warning",
        summary=f"the server confirms what it may lose: {', '.join(off)} off",
        evidence=[f"{name} = off" for name in off],
        consequence="a crash of the machine can corrupt the database"
        if corrupts
        else "after a crash of the server, tasks that were accepted may be gone, and ended ones run again",
        remedy="Switch it on.",
        commands=[
            *(statement(f"ALTER SYSTEM SET {name} = on") for name in off),
            statement("SELECT pg_reload_conf()"),
        ],
    )


def _crowded(connections: int, room: int) -> Finding:
    return Finding(
        id="connections-scarce",
        severity="warning",
        summary=f"{connections} of {room} connections of the server are taken",
        evidence=[f"{connections} sessions, max_connections leaves {room} to ordinary logins"],
        consequence="the next process cannot connect: runners that restart stay away",
        remedy="Raise max_connections, run fewer processes, or put a pooler before the applications.",
        commands=[statement("SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1 ORDER BY 2 DESC")],
    )


def clock(case: Case) -> Steps[list[Finding]]:
    """This machine and the database do not agree on the time."""
    best: tuple[float, float] | None = None
    for _ in range(3):
        asked = time.time()
        theirs = yield Op(sql.CLOCK, {}, scalar)
        answered = time.time()
        if best is None or answered - asked < best[1]:
            best = (asked + answered) / 2 - theirs, answered - asked
    assert best is not None  # noqa: S101 - the loop has run
    ahead, trip = best
    if abs(ahead) <= SKEW + trip:
        return []
    found = Finding(
        id="clock-skew",
        severity="warning",
        summary=f"this machine's clock is {span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the database's",
        evidence=[f"measured over a round trip of {trip * 1000:.0f} ms"],
        consequence="times given from here (`--at`, `at=`) mean other instants than meant, ids sort wrongly, and logs "
        "do not fit together; leases, schedules and retries go by the database's clock and are not concerned",
        remedy="Synchronise the clock of this machine, or of the database's.",
        commands=["timedatectl set-ntp true"],
    )
    return [found]


CHECKS = (
    Check("xmin", xmin, schema=False),
    Check("locks", locks),
    Check("vacuum", vacuum),
    Check("safety", safety, schema=False),
    Check("clock", clock, schema=False),
)
