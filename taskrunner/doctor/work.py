"""Checks of the tasks that wait: for a runner, for a type that nobody knows, for a queue that is paused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from taskrunner import reads
from taskrunner.db import Op, Steps
from taskrunner.doctor.case import Case, Check, shown
from taskrunner.doctor.values import Finding
from taskrunner.reads import Runner
from taskrunner.statements import doctor as sql
from taskrunner.wording import some, span

BOUND = 100
"""How many due tasks of one front are counted."""

UNCLAIMED = timedelta(minutes=1)
"""How long a due task may wait while somebody who could run it has room."""

MANY_DEAD, DEAD_SHARE = 10, 0.05
"""Deaths in an hour, and their share of what ended in it, that are worth a word."""


class Front(NamedTuple):
    """The pending tasks of a queue, type and priority: the first one, and how many are due."""

    queue: str
    type: str
    priority: int
    id: UUID
    crashes: int
    due_seconds: float
    due: int


def waiting(case: Case) -> Steps[list[Finding]]:
    """Tasks wait for something that will not come by itself."""
    fronts = [Front(*row) for row in (yield Op(sql.FRONTS, {}, list))]
    live = [one for one in (yield reads.runners()) if one.alive and one.kind == "runner"]
    if not live:
        return [_no_runner(fronts)] if fronts else []
    paused: dict[str, float | None] = dict((yield Op(sql.PAUSED, {}, list)))
    known = {name for one in live for name in one.types}
    unknown = [front for front in fronts if front.type not in known]
    known_ones = [front for front in fronts if front.type in known and front.queue not in paused]
    unserved = [front for front in known_ones if not _serving(front, live)]
    findings = [_unregistered(unknown)] if unknown else []
    findings += [_unserved(unserved, live)] if unserved else []
    findings += _paused(case, fronts, paused)
    return findings + (yield from _overdue(case, known_ones, live))


def _serving(front: Front, live: Sequence[Runner]) -> list[Runner]:
    return [one for one in live if front.queue in one.queues and front.type in one.types]


def _overdue(case: Case, fronts: Sequence[Front], live: Sequence[Runner]) -> Steps[list[Finding]]:
    """Tell tasks that nobody takes from those whose runners have their hands full.

    A runner's load is some seconds old and says little of short tasks: one that takes from the queue is at work.
    """
    late = [front for front in fronts if not front.crashes and front.due_seconds > UNCLAIMED.total_seconds()]
    late = [front for front in late if _serving(front, live)]
    if not late:
        return []
    taken = set((yield Op(sql.TAKEN, {"runners": [one.id for one in live], "lately": UNCLAIMED}, list)))
    stuck, behind = [], []
    for front in late:
        serving = _serving(front, live)
        busy = any((one.id, front.queue) in taken for one in serving)
        if not busy and any(one.running < one.slots for one in serving):
            stuck.append(front)
        elif front.due_seconds > case.patient_seconds:
            behind.append(front)
    return [*([_unclaimed(stuck)] if stuck else []), *([_behind(behind, live)] if behind else [])]


def _due(fronts: Iterable[Front]) -> int:
    return sum(front.due for front in fronts)


def _by_name(fronts: Sequence[Front], name: str) -> list[str]:
    """Say of each type, or queue, how much waits, and for how long."""
    lines = []
    for value in dict.fromkeys(getattr(front, name) for front in fronts):
        own = [front for front in fronts if getattr(front, name) == value]
        due = some(_due(own), "task", bound=BOUND) + " due"
        since = max(front.due_seconds for front in own)
        lines.append(f"{value}: {due}" + (f", the first for {span(since)}" if since > 0 else ", others to come"))
    return shown(lines)


def _no_runner(fronts: Sequence[Front]) -> Finding:
    return Finding(
        id="runner-stopped",
        severity="error" if _due(fronts) else "warning",
        summary="no runner is alive, and tasks wait for one",
        evidence=_by_name(fronts, "queue"),
        consequence="nothing runs",
        remedy="Start a runner.",
        commands=["taskrunner start runner"],
    )


def _unregistered(fronts: Sequence[Front]) -> Finding:
    return Finding(
        id="type-unregistered",
        severity="error" if _due(fronts) else "warning",
        summary=f"no live runner knows {some(len({front.type for front in fronts}), 'task type')} that tasks are of",
        evidence=_by_name(fronts, "type"),
        consequence="these tasks wait until a runner comes that knows their type",
        remedy="Deploy the code that registers it; a type that was renamed keeps its old name as an alias: "
        "@register_task(…, aliases=('old name',)). Or take the tasks back.",
        commands=[
            f"taskrunner tasks list --type {name} --state pending"
            for name in dict.fromkeys(front.type for front in fronts[:3])
        ],
    )


def _unserved(fronts: Sequence[Front], live: Sequence[Runner]) -> Finding:
    served = sorted({name for one in live for name in one.queues})
    queues = list(dict.fromkeys(front.queue for front in fronts))
    return Finding(
        id="queue-unserved",
        severity="error" if _due(fronts) else "warning",
        summary=f"no live runner takes {some(len(queues), 'queue')} that tasks are in",
        evidence=[*_by_name(fronts, "queue"), f"runners take: {', '.join(served) or 'no queue'}"],
        consequence="these tasks wait",
        remedy="Start a runner for the queue; a runner takes the queues that its task types name, or those that "
        "--queues says.",
        commands=[f"taskrunner start runner --queues {','.join(queues[:8])}"],
    )


def _paused(case: Case, fronts: Sequence[Front], paused: dict[str, float | None]) -> list[Finding]:
    held = [front for front in fronts if front.due and front.queue in paused]
    long = [front for front in held if (paused[front.queue] or 0.0) > case.patient_seconds]
    if not long:
        return []
    queues = list(dict.fromkeys(front.queue for front in long))
    since = [f"{queue} has been paused for {span(paused[queue])}" for queue in queues]
    found = Finding(
        id="queue-paused",
        severity="warning",
        summary=f"{some(len(queues), 'queue')} with due tasks {'is' if len(queues) == 1 else 'are'} paused",
        evidence=[*_by_name(long, "queue"), *shown(since)],
        consequence="these tasks wait until somebody resumes the queue",
        remedy="Resume it.",
        commands=[f"taskrunner queues resume {queue}" for queue in queues[:3]],
    )
    return [found]


def _unclaimed(fronts: Sequence[Front]) -> Finding:
    return Finding(
        id="work-unclaimed",
        severity="warning",
        summary="due tasks wait, and runners that have room take nothing from their queue",
        evidence=_by_name(fronts, "type"),
        consequence="they may wait for long",
        remedy="Ask of one of them why: somebody may have its row locked, or a runner may be stuck.",
        commands=[f"taskrunner why {front.id}" for front in fronts[:3]],
    )


def _behind(fronts: Sequence[Front], live: Sequence[Runner]) -> Finding:
    serving = {one.id: one for front in fronts for one in _serving(front, live)}.values()
    slots = f"{sum(one.running for one in serving):,} of {some(sum(one.slots for one in serving), 'slot')}"
    queues = list(dict.fromkeys(front.queue for front in fronts))
    return Finding(
        id="work-behind",
        severity="info",
        summary="due tasks wait for runners that are busy",
        evidence=[*_by_name(fronts, "queue"), f"{slots} of the {some(len(serving), 'runner')} that could are taken"],
        consequence="they start late; where more comes in than is done, later and later",
        remedy="Nothing is broken. Where it lasts, start more runners, or let them run more at once (--concurrency).",
        commands=[f"taskrunner start runner --queues {','.join(queues[:8])}"],
    )


def deaths(case: Case) -> Steps[list[Finding]]:
    """More tasks die than is usual."""
    dead, ended = (yield Op(sql.LAST_HOUR, {}, list))[0]
    if dead < MANY_DEAD or dead < DEAD_SHARE * ended:
        return []
    found = Finding(
        id="dead-growing",
        severity="warning",
        summary=f"{some(dead, 'task')} died in the last hour",
        evidence=[f"{dead:,} of {ended:,} that ended: {dead / max(ended, 1):.0%}"],
        consequence="they are out of retries and wait for a person",
        remedy="Look at their errors, mend the cause, then requeue them.",
        commands=["taskrunner dead list --since 1h"],
    )
    return [found]


CHECKS = (Check("waiting", waiting), Check("deaths", deaths))
