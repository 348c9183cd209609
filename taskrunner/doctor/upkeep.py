"""Checks of what is kept: partitions ahead, rows without one, retention, archives, and who may read what."""

from __future__ import annotations

import os
from datetime import date, timedelta
from typing import Any

from taskrunner import roles
from taskrunner.db import Op, Steps, scalar
from taskrunner.doctor.case import Case, Check, shown, statement
from taskrunner.doctor.values import Finding, Unseen
from taskrunner.keeping import Keeping
from taskrunner.settings.values import is_loopback
from taskrunner.statements import doctor as sql
from taskrunner.statements import history as history_sql
from taskrunner.store import history
from taskrunner.wording import listed, some

AHEAD = 7
"""Days for which partitions must be there: the janitor makes a month's, every hour."""

LINGERING = 3
"""Days after its time that a partition may still be there."""

WEAK_TOKEN = 16

# Tables with rows of tenants.
SECURED = (
    *("task", "task_history", "dead_letter", "schedule", "effect", "idempotency_key", "task_log", "audit"),
    *("task_stats", "dependency"),
)


def partitions(case: Case) -> Steps[list[Finding]]:
    """History has no partition to go to, or nobody removes what is too old."""
    found = yield history.partitions()
    today: date = yield Op(history_sql.TODAY, {}, scalar)
    stranded: bool = yield Op(sql.IN_DEFAULT, {}, scalar)
    days = [today + timedelta(days=ahead) for ahead in range(AHEAD + 1)]
    missing = [day for day in days if not any(each.span.begin <= day < each.span.end for each in found)]
    findings = [_missing(missing, today)] if missing else []
    findings += [_stranded()] if stranded else []
    keeping = Keeping(case.settings.history_retention, case.settings.history_keep)
    oldest = today - keeping.longest - timedelta(days=LINGERING)
    old = [each.name for each in found if each.ours and each.span.end < oldest]
    return findings + ([_unretained(old)] if old else [])


def _missing(days: list[date], today: date) -> Finding:
    return Finding(
        id="partition-missing",
        severity="error" if today in days else "warning",
        summary=f"history has no partition for {some(len(days), 'day')} of the coming week",
        evidence=shown(f"{day}" for day in days),
        consequence="tasks that end then go to DEFAULT: nothing fails, but moving them later locks history for a while",
        remedy="Make them now; a live scheduler does it every hour.",
        commands=["taskrunner maintain"],
    )


def _stranded() -> Finding:
    return Finding(
        id="history-in-default",
        severity="warning",
        summary="rows of history lie in DEFAULT: their partition was missing when they ended",
        evidence=["taskrunner.task_history_default is not empty"],
        consequence="they are found all the same, but no partition of their days can be made before they are moved",
        remedy="Move them; a live scheduler does it every hour, unless somebody's transaction has history locked.",
        commands=["taskrunner maintain"],
    )


def _unretained(names: list[str]) -> Finding:
    return Finding(
        id="retention-stopped",
        severity="warning",
        summary=f"{some(len(names), 'partition')} of history should have gone",
        evidence=shown(names),
        consequence="history grows; what the settings promise to forget is kept",
        remedy="Remove them now, and see what it says: somebody's transaction or an archive that cannot be written may "
        "be in the way.",
        commands=["taskrunner maintain"],
    )


def archive(case: Case) -> Steps[list[Finding]]:
    """The folder of archives cannot be written to from here."""
    folder = case.settings.archive_dir
    yield from ()
    if folder is None or (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return []
    found = Finding(
        id="archive-unwritable",
        severity="warning",
        summary=f"archives cannot be written to {folder} on this machine",
        evidence=[f"{folder} {'is not writable' if folder.is_dir() else 'does not exist'}"],
        consequence="where a scheduler runs with this setting, history that cannot be archived is kept, and grows",
        remedy="Make the folder, and give it to whoever runs the scheduler.",
        commands=[f"mkdir -p {folder}"],
    )
    return [found]


def tenants(case: Case) -> Steps[list[Finding]]:
    """Row security does not hold any more, or a mapped login cannot work."""
    rows: list[Any] = yield Op(sql.UNSECURED, {"tables": list(SECURED)}, list)
    findings = []
    unsecured = [name for name, is_open, _ in rows if is_open]
    granted = [name for name, _, is_granted in rows if is_granted]
    if unsecured or granted:
        findings.append(_unsecured(unsecured, granted))
    if not (yield Op(sql.OWNS, {}, scalar)):
        reason = "only an owner of the tables may read which logins are mapped to tenants"
        case.unseen.append(Unseen(check="tenants", reason=reason))
        return findings
    unfit = [mapping for mapping in (yield roles.mappings()) if not mapping.able]
    return findings + ([_unfit(unfit)] if unfit else [])


def _unsecured(unsecured: list[str], granted: list[str]) -> Finding:
    evidence = [f"{name}: row security is off, or has no policy" for name in unsecured]
    mend = [statement(f"ALTER TABLE taskrunner.{name} ENABLE ROW LEVEL SECURITY") for name in unsecured[:3]]
    if granted:
        evidence += [f"{name}: a partition that others than its owner may read" for name in granted]
        mend += [statement(f"REVOKE ALL ON taskrunner.{name} FROM PUBLIC") for name in granted[:2]]
    return Finding(
        id="row-security-off",
        severity="error",
        summary=f"tenants are not kept apart in {listed(unsecured + granted)}",
        evidence=shown(evidence),
        consequence="a tenant's login sees rows of others",
        remedy="Switch row security on again, take back what was granted on partitions, and see who did it.",
        commands=[*mend, "taskrunner migrate --roles"],
    )


def _unfit(unfit: list[roles.Mapping]) -> Finding:
    return Finding(
        id="login-unfit",
        severity="warning",
        summary=f"{some(len(unfit), 'login')} mapped to a tenant cannot reach its tables",
        evidence=shown(f"{one.login}, of {one.tenant}: dropped, or not in the group" for one in unfit),
        consequence="its applications are refused",
        remedy="Map it again, which makes it a member of the group, or unmap it.",
        commands=[f"taskrunner tenants map {unfit[0].login} {unfit[0].tenant}"],
    )


def secrets(case: Case) -> Steps[list[Finding]]:
    """What should be secret can be read or guessed."""
    settings = case.settings
    tokens = [("TASKRUNNER_API_TOKEN", settings.api_token)] if settings.api_token else []
    tokens += [(f"{token.name} of TASKRUNNER_API_TOKENS", token.secret) for token in settings.api_tokens]
    weak = [(whose, len(secret.get_secret_value())) for whose, secret in tokens if len(secret) < WEAK_TOKEN]
    findings = [_weak(weak)] if weak else []
    address, encrypted = (yield Op(sql.ENCRYPTED, {}, list))[0]
    if address and not encrypted and not is_loopback(address):
        findings.append(_readable(address))
    return findings


def _weak(tokens: list[tuple[str, int]]) -> Finding:
    return Finding(
        id="token-weak",
        severity="warning",
        summary=f"a token of the API has {some(min(length for _, length in tokens), 'character')}: it can be guessed",
        evidence=shown(f"{whose} is shorter than {WEAK_TOKEN} characters" for whose, _ in tokens),
        consequence="whoever guesses it may add, cancel and delete tasks",
        remedy="Take a random one.",
        commands=["python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"],
    )


def _readable(address: str) -> Finding:
    return Finding(
        id="connection-plain",
        severity="info",
        summary=f"the connection to the database at {address} is not encrypted",
        evidence=["pg_stat_ssl.ssl is false for this session"],
        consequence="whoever is on the way reads payloads; on a network of one's own this may be meant",
        remedy="Add sslmode=verify-full, or at least sslmode=require, to DATABASE_URL.",
        commands=["taskrunner config show"],
    )


CHECKS = (
    Check("partitions", partitions),
    Check("archive", archive, schema=False),
    Check("tenants", tenants),
    Check("secrets", secrets, schema=False),
)
