"""Why a task is not running: a sentence, what it rests on, and what to do next; for a task in any state."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from taskrunner.db import Op, Steps, scalar
from taskrunner.errors import NotFound
from taskrunner.reads.answer import Task, Why
from taskrunner.reads.pending import why_pending
from taskrunner.reads.tasks import dead_letter_by_id, successor_by_id, task_by_id
from taskrunner.reads.views import DeadView, TaskView
from taskrunner.redaction import by_name
from taskrunner.statements import why as sql
from taskrunner.statements.successor import FOLLOW
from taskrunner.states import State
from taskrunner.wording import listed, some, span


def why(id_: UUID) -> Steps[Why]:
    """Say why the task is not running, or that it is, or how it ended. Raises: `NotFound`, with ids that are near."""
    rows = yield Op(sql.TASK, {"id": id_}, list)
    if rows:
        task = Task(*rows[0])
        if task.state == State.RUNNING:
            return (yield from _why_running(task))
        return (yield from (why_pending(task) if task.state == State.PENDING else _why_blocked(task)))
    ended: TaskView | None = yield task_by_id(id_)
    if ended is not None:
        return (yield from _why_ended(ended))
    behind = yield from successor_by_id(id_)
    if behind is not None:
        return (yield from _why_successor(id_, behind))
    raise NotFound((yield from _nobody(id_)))


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _why_running(task: Task) -> Steps[Why]:
    may = yield Op(sql.MAY, {}, list)
    rows = (yield Op(sql.RUNNER, {"runner_id": task.runner_id}, list)) if may[0][0] else None
    if rows is not None and (not rows or rows[0][2] <= 0):
        return (yield from _why_left(task, rows))
    place = f" on {rows[0][0]}:{rows[0][1]}" if rows else ""
    facts: dict[str, Any] = {
        "runner": f"{rows[0][0]}:{rows[0][1]}" if rows else None,
        "runner_id": task.runner_id,
        "lease_ends_in_seconds": round(rows[0][2], 1) if rows else None,
        "claimed_seconds_ago": task.claimed_ago,
        "started_seconds_ago": task.started_ago,
        "deadline_in_seconds": task.deadline_in,
        "progress": by_name(task.progress),
        "successor": task.successor_id,
    }
    if task.cancel_ago is not None:
        return task.because(
            "cancel-requested",
            f"it is running{place}, and was asked to stop {span(task.cancel_ago)} ago: async tasks are cancelled, "
            "processes killed, a thread stops when it looks at context.cancelled",
            "taskrunner tasks show " + str(task.id),
            cancel_requested_seconds_ago=task.cancel_ago,
            **facts,
        )
    if task.started_ago is None:
        answer = f"it was claimed{place} {span(task.claimed_ago)} ago, and is run as soon as a slot is free, or runs"
        return task.because("claimed", answer, f"taskrunner why {task.id}", **facts)
    deadline = f", its time is up in {span(task.deadline_in)}" if task.deadline_in is not None else ""
    answer = f"it has been running{place} for {span(task.started_ago)}{deadline}"
    return task.because("running", answer, f"taskrunner tasks show {task.id} --watch", **facts)


def _why_left(task: Task, rows: list[Any]) -> Steps[Why]:
    """Its runner is dead."""
    gone = f"the lease of {rows[0][0]}:{rows[0][1]} ended {span(-rows[0][2])} ago" if rows else "its runner is gone"
    if (yield Op(sql.ANYBODY, {}, scalar)):
        answer = f"its runner is dead ({gone}): it is taken back by another process within seconds"
        return task.because("runner-dead", answer, f"taskrunner why {task.id}", runner_id=task.runner_id)
    answer = f"its runner is dead ({gone}), and no process is alive to take the task back"
    return task.because("runner-dead", answer, "taskrunner start all", "taskrunner maintain", runner_id=task.runner_id)


# ── blocked ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _why_blocked(task: Task) -> Steps[Why]:
    rows = yield Op(sql.PARENTS, {"id": task.id}, list)
    parents = [f"{id_} ({type_}, {state})" for id_, _, state, type_, _ in rows]
    dead = [id_ for id_, _, state, _, requeued in rows if state == "dead" and requeued is None]
    facts: dict[str, Any] = {"waits_for": task.waits_for, "parents": parents}
    if dead:
        return task.because(
            "parent-dead",
            f"it waits for {some(len(dead), 'parent')} that {'is' if len(dead) == 1 else 'are'} dead: "
            f"{listed([str(id_) for id_ in dead], 2)}",
            *(f"taskrunner dead requeue {id_}" for id_ in dead[:3]),
            f"taskrunner tasks cancel {task.id}",
            **facts,
        )
    live = [id_ for id_, _, state, _, _ in rows if state != "dead"]
    answer = f"it waits until {some(task.waits_for or len(live), 'parent')} {_has(task.waits_for)} ended" + (
        f": {listed(parents, 3)}" if parents else ""
    )
    return task.because("blocked", answer, *(f"taskrunner why {id_}" for id_ in live[:3]), **facts)


def _has(count: int | None) -> str:
    return "has" if count == 1 else "have"


# ── ended, or not there ──────────────────────────────────────────────────────────────────────────────────────────────


def _why_ended(view: TaskView) -> Steps[Why]:
    when = f"{view.finished_at:%Y-%m-%d %H:%M:%S %Z}" if view.finished_at else "before"
    last = view.errors[-1].get("message") if view.errors else None
    facts: dict[str, Any] = {"type": view.type, "queue": view.queue, "finished_at": view.finished_at}
    facts |= {"tries": view.tries, "runner_id": view.runner_id, "last_error": last}
    facts = {name: value for name, value in facts.items() if value is not None}
    answer, commands = f"it ended {when}: {view.state}", [f"taskrunner tasks show {view.id}"]
    if view.state is State.DEAD:
        letter: DeadView | None = yield dead_letter_by_id(view.id)
        requeued = letter.requeued_as if letter else None
        answer = f"it died {when} after {some(view.tries, 'failed try', 'failed tries')}" + (
            f": {last}" if last else ""
        )
        commands = [f"taskrunner tasks show {view.id}", f"taskrunner dead requeue {view.id}"]
        if requeued is not None:
            answer += f"; it was requeued as {requeued}"
            facts["requeued_as"] = requeued
            commands = [f"taskrunner why {requeued}"]
    return Why(id=view.id, state=view.state, reason=str(view.state), answer=answer, facts=facts, commands=commands)


def _why_successor(id_: UUID, view: TaskView) -> Steps[Why]:
    if view.id != id_:  # the running task ran again, and took this one's work over
        return Why(
            id=id_,
            state=view.state,
            reason="taken-over",
            answer=f"its work was taken over by {view.id}, the task of the same key, when that ran again",
            facts={"type": view.type, "queue": view.queue, "taken_over_by": view.id},
            commands=[f"taskrunner why {view.id}"],
        )
    holder = (yield Op(FOLLOW, {"id": id_}, list))[0][0]
    return Why(
        id=id_,
        state=view.state,
        reason="key-running",
        answer=f"a task of the same key is running, {holder}: this one comes after it",
        facts={"type": view.type, "queue": view.queue, "behind": holder},
        commands=[f"taskrunner why {holder}", f"taskrunner tasks cancel {id_}"],
    )


def _nobody(id_: UUID) -> Steps[str]:
    """Say that there is no such task, and what was perhaps meant."""
    unknown = f"no task {id_}: it was never stored, or retention has removed it"
    schedule = yield Op(sql.SCHEDULE_OF, {"id": id_}, scalar)
    if schedule is not None:
        return f"{id_} is the schedule {schedule!r} and no task: `taskrunner schedules list` shows it"
    may = yield Op(sql.MAY, {}, list)
    if may[0][0] and (yield Op(sql.RUNNER, {"runner_id": id_}, list)):
        return f"{id_} is a runner and no task: `taskrunner runners list` shows it"
    first = id_.int >> 96 << 96
    rows = yield Op(sql.NEAR, {"low": UUID(int=first), "high": UUID(int=first | (1 << 96) - 1)}, list)
    near = sorted((_differing(id_, other), str(other), type_, state) for other, type_, state in rows)
    meant = [f"{other} ({type_}, {state})" for differing, other, type_, state in near if differing <= _FEW][:3]
    return f"{unknown}; did you mean {' or '.join(meant)}?" if meant else unknown


_FEW = 4
"""Digits in which two ids may differ to be taken for each other."""


def _differing(first: UUID, second: UUID) -> int:
    return sum(one != other for one, other in zip(first.hex, second.hex, strict=True))
