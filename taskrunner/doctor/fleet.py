"""Checks of the processes: leases that nobody minds, schedules that nobody ticks, listeners that do not listen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from taskrunner import reads
from taskrunner.db import Op, Steps, column
from taskrunner.doctor.case import Case, Check, shown
from taskrunner.doctor.server import SKEW
from taskrunner.doctor.values import Finding, Unseen
from taskrunner.reads import Runner
from taskrunner.statements import doctor as sql
from taskrunner.statements import runner as runner_sql
from taskrunner.wording import listed, some, span

QUIET = 20.0
"""Seconds without a sign of life after which a listener counts as dead: it gives one every seven."""

YOUNG = 10.0
"""Seconds that a process has to open all its connections."""

LATE_JOIN = 300.0
"""Seconds between the making of a runner's id and its joining that a database that is away may explain."""


def place(runner: Runner) -> str:
    """Name a process as people find it."""
    return f"{runner.kind} {runner.host}:{runner.pid}"


def leases(case: Case) -> Steps[list[Finding]]:
    """The lease of a process has ended, and nobody has taken back what it held."""
    rows = yield Op(sql.LEASES, {"overdue": case.overdue}, list)
    lost: list[UUID] = yield Op(runner_sql.ORPHANED, {}, column)
    live = [one for one in (yield reads.runners()) if one.alive]
    if not rows and not lost:
        return []
    held = sum(row[5] for row in rows)
    rescuers = f"{len(live)} processes are alive and should have done it" if live else "nobody is alive to do it"
    evidence = [f"{row[1]} {row[2]}:{row[3]}: ended {span(row[4])} ago, holds {some(row[5], 'task')}" for row in rows]
    evidence += [f"tasks run under {id_}, which is no process any more" for id_ in lost]
    found = Finding(
        id="lease-expired",
        severity="error" if held or lost else "warning",
        summary=f"{some(len(rows) + len(lost), 'lease')} of dead processes have not been cleared away",
        evidence=[*shown(evidence), rescuers],
        consequence="the tasks that they held count as running and run nowhere"
        if held or lost
        else "they are shown as runners, and hold nothing",
        remedy="Take them back now; a live runner or scheduler does it by itself within seconds.",
        commands=["taskrunner maintain", *([] if live else ["taskrunner start all"])],
    )
    return [found]


def scheduler(case: Case) -> Steps[list[Finding]]:
    """Schedules are due, or will be, and nobody ticks them."""
    ticks: list[Any] = yield Op(sql.TICKS, {}, list)
    alive = [one for one in (yield reads.runners()) if one.alive]
    live = [one for one in alive if one.kind == "scheduler"]
    late = [row for row in ticks if row[5] > case.overdue.total_seconds()]
    if not live:
        return [_stopped(ticks, late)] if ticks else []
    known = {name for one in live for name in one.types}
    findings = []
    for name, rows in (("late", [row for row in late if row[2] in known and row[4] is None]), ("failing", ticks)):
        concerned = rows if name == "late" else [row for row in rows if row[4] is not None]
        if concerned:
            findings.append(_late(concerned) if name == "late" else _failing(concerned))
    orphaned = [row for row in ticks if row[2] not in known]
    return [*findings, *([_orphaned(orphaned)] if orphaned else [])]


def _tick(row: Any) -> str:
    name, tenant, type_, _, error, late = row
    whose = "" if tenant == "default" else f" of {tenant}"
    when = f"due for {span(late)}" if late > 0 else f"due in {span(-late)}"
    return f"{name}{whose} ({type_}): {when}" + (f": {error}" if error else "")


def _stopped(ticks: list[Any], late: list[Any]) -> Finding:
    return Finding(
        id="scheduler-stopped",
        severity="error" if late else "warning",
        summary=f"no scheduler is alive, and {some(len(ticks), 'schedule')} wait for one",
        evidence=shown(_tick(row) for row in ticks),
        consequence="no schedule makes a task; what is missed is made up for as each schedule's catch-up says",
        remedy="Start a scheduler.",
        commands=["taskrunner start scheduler"],
    )


def _late(rows: list[Any]) -> Finding:
    return Finding(
        id="schedule-late",
        severity="error",
        summary=f"{some(len(rows), 'schedule')} should have ticked, and a live scheduler has not done it",
        evidence=shown(map(_tick, rows)),
        consequence="their tasks are late, or will be left out",
        remedy="Look into the scheduler's log; restart it where it does nothing. Somebody's lock on the schedule's row "
        "has the same effect.",
        commands=[f"taskrunner schedules next {rows[0][0]}", "taskrunner runners list"],
    )


def _failing(rows: list[Any]) -> Finding:
    return Finding(
        id="schedule-failing",
        severity="error",
        summary=f"{some(len(rows), 'schedule')} cannot tick",
        evidence=shown(map(_tick, rows)),
        consequence="no task comes of them until that is mended; they are tried again every half minute",
        remedy="Correct the payload that the schedule gives, or its task type, and start the scheduler anew.",
        commands=[f"taskrunner schedules list --json  # {rows[0][0]}"],
    )


def _orphaned(rows: list[Any]) -> Finding:
    return Finding(
        id="schedule-orphaned",
        severity="warning",
        summary=f"{some(len(rows), 'schedule')} name a task type that no live scheduler knows",
        evidence=shown(map(_tick, rows)),
        consequence="they do not tick",
        remedy="Start a scheduler whose code has the type, or pause or remove the schedule.",
        commands=["taskrunner start scheduler", f"taskrunner schedules pause {rows[0][0]}"],
    )


def zones(case: Case) -> Steps[list[Finding]]:
    """A schedule goes by a time zone that this machine has no rules for."""
    ticks: list[Any] = yield Op(sql.TICKS, {}, list)
    unknown = [row for row in ticks if not _is_zone(row[3])]
    if not unknown:
        return []
    names = sorted({row[3] for row in unknown})
    found = Finding(
        id="zone-unknown",
        severity="warning",
        summary=f"this machine has no rules for the time zone {listed(names)}",
        evidence=shown(f"{row[0]} goes by {row[3]}" for row in unknown),
        consequence="a scheduler on this machine cannot tick these schedules",
        remedy="Bring the package tzdata up to date, or correct the schedule's zone.",
        commands=["pip install --upgrade tzdata"],
    )
    return [found]


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return False
    except KeyError:
        return False
    return True


def listeners(case: Case) -> Steps[list[Finding]]:
    """A runner that should listen has no connection to listen by, or one that has fallen silent."""
    now: datetime = yield reads.now()
    runners = [one for one in (yield reads.runners()) if one.alive and one.kind == "runner"]
    quiet: dict[str, float | None] = dict((yield Op(sql.LISTENERS, {}, list)))
    if not case.settings.listen:
        if not quiet:
            return []
        case.unseen.append(Unseen(check="listeners", reason="listening is off here: who should listen is not known"))
        return []
    deaf = [_deafness(one, quiet, now) for one in runners]
    said = [text for text in deaf if text]
    if not said:
        return []
    found = Finding(
        id="listen-dead",
        severity="warning",
        summary=f"{some(len(said), 'runner')} hear no NOTIFY",
        evidence=shown(said),
        consequence=f"new tasks are found by looking, every {span(case.settings.poll.total_seconds())}, instead of at "
        "once, and stops of running tasks come as late",
        remedy="A listener connects anew by itself within 15 s; where it cannot, a firewall or a pooler is in its way: "
        "let it through, restart the runner, or set TASKRUNNER_LISTEN=off everywhere.",
        commands=[f"kill -TERM {one.pid}  # on {one.host}" for one, text in zip(runners, deaf, strict=True) if text][
            :3
        ],
    )
    return [found]


def _deafness(runner: Runner, quiet: dict[str, float | None], now: datetime) -> str:
    silence = quiet.get(str(runner.id))
    if str(runner.id) not in quiet:
        age = (now - runner.started_at).total_seconds()
        return f"{place(runner)} has no LISTEN connection" if age > YOUNG else ""
    if silence is not None and silence > QUIET:
        return f"{place(runner)}: its LISTEN connection is up, and has been silent for {span(silence)}"
    return ""


def processes(case: Case) -> Steps[list[Finding]]:
    """Processes of several releases, on machines with wrong clocks, or with threads that do not end."""
    live = [one for one in (yield reads.runners()) if one.alive]
    findings = [_mixed(live)] if len({one.version for one in live}) > 1 else []
    skewed = [text for text in map(_skew, live) if text]
    if skewed:
        findings.append(_skewed(skewed))
    strays = [one for one in live if one.strays]
    return [*findings, *([_strays(strays)] if strays else [])]


def _mixed(live: Sequence[Runner]) -> Finding:
    return Finding(
        id="versions-mixed",
        severity="info",
        summary=f"processes of {len({one.version for one in live})} releases of taskrunner are at work",
        evidence=shown(f"{place(one)}: {one.version}" for one in live),
        consequence="none while a release is rolled out: one release older keeps working",
        remedy="Bring the others up to date.",
        commands=["pip install --upgrade taskrunner"],
    )


def _skew(runner: Runner) -> str:
    """A runner's id is made by its own clock, a moment before the database's says when it joined."""
    if runner.id.version != 7:
        return ""
    ahead = (runner.id.int >> 80) / 1000 - runner.started_at.timestamp()
    if ahead > SKEW:
        return f"{place(runner)}: {span(ahead)} ahead"
    if ahead < -LATE_JOIN:
        return f"{place(runner)}: {span(-ahead)} behind, unless the database was away when it started"
    return ""


def _skewed(lines: list[str]) -> Finding:
    return Finding(
        id="clock-skew-runner",
        severity="warning",
        summary=f"the clocks of {some(len(lines), 'runner')} are not the database's",
        evidence=shown(lines),
        consequence="ids that they make sort wrongly, and logs do not fit together; leases, schedules and retries go "
        "by the database's clock and are not concerned",
        remedy="Synchronise the clocks of these machines.",
        commands=["timedatectl set-ntp true"],
    )


def _strays(strays: Sequence[Runner]) -> Finding:
    return Finding(
        id="threads-stray",
        severity="warning",
        summary=f"{some(len(strays), 'runner')} have threads of stopped tasks that still run",
        evidence=shown(f"{place(one)}: {some(one.strays, 'thread')}" for one in strays),
        consequence="Python cannot end a thread: it goes on beside the next try of its task, and past the limit the "
        "runner drains and starts afresh",
        remedy='Let the task look at `self.context.cancelled`, or give it executor="process", which can be killed.',
        commands=["taskrunner runners list"],
    )


CHECKS = (
    Check("leases", leases),
    Check("scheduler", scheduler),
    Check("zones", zones),
    Check("listeners", listeners),
    Check("processes", processes),
)
