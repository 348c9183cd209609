"""Why a pending task is not claimed: it is not due, something that claims need is missing, or others come first."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any, NamedTuple

from taskrunner.db import Op, Steps, scalar
from taskrunner.reads.answer import Task, Why
from taskrunner.statements import why as sql
from taskrunner.wording import listed, some, span

ROOM = 1000
"""How many tasks that come first are counted, at most."""

SOON = 10.0
"""Seconds that a claim may take to come: runners look by themselves, and tell every five how much they have to do."""

LOCKED = timedelta(seconds=5)
"""How long a row is locked at least before it is worth a word: claims and endings lock rows all the time."""


class Serving(NamedTuple):
    """A live runner; where this login may not know its load, that is None."""

    queues: list[str]
    types: list[str]
    place: str = ""
    slots: int | None = None
    running: int | None = None

    @property
    def full(self) -> bool:
        """Whether it is known to have no room."""
        return self.running is not None and self.slots is not None and self.running >= self.slots


def why_pending(task: Task) -> Steps[Why]:
    """Say what a pending task waits for, the most telling reason first."""
    runners, paused_for = yield from _around(task)
    if task.due_in > 0:
        return _immature(task, paused=paused_for is not None)
    if paused_for is not None:
        paused = f"has been paused for {span(paused_for)}" if paused_for else "is paused"
        return task.because(
            "queue-paused",
            f"it is due, and its queue {task.queue} {paused}",
            f"taskrunner queues resume {task.queue}",
            due_seconds_ago=-task.due_in,
            paused_seconds=paused_for or None,
        )
    missing = _nobody_to_run(task, runners)
    if missing is not None:
        return missing
    able = [one for one in runners if task.queue in one.queues and task.type in one.types]
    for step in (_locked, _suspect):
        found = yield from step(task)
        if found is not None:
            return found
    return (yield from _queued(task, able))


def _around(task: Task) -> Generator[Op[Any], Any, tuple[list[Serving], float | None]]:
    """Return the live runners, and for how long the queue is paused (0: not known), or None."""
    may_runners, may_settings = (yield Op(sql.MAY, {}, list))[0]
    if may_runners:
        rows = yield Op(sql.BUSY, {}, list)
        runners = [
            Serving(queues, types, f"{host}:{pid}", slots, running) for host, pid, slots, running, queues, types in rows
        ]
    else:
        runners = [Serving(*row) for row in (yield Op(sql.SERVING, {}, list))]
    settings = yield Op(sql.QUEUE, {"queue": task.queue}, list)
    if not settings or not settings[0][0]:
        return runners, None
    seconds = (yield Op(sql.PAUSED_FOR, {"queue": task.queue}, scalar)) if may_settings else None
    return runners, seconds or 0.0


def _immature(task: Task, *, paused: bool) -> Why:
    facts: dict[str, Any] = {"maturity_at": task.maturity_at, "due_in_seconds": task.due_in, "tries": task.tries}
    facts |= {"last_error": task.last_error, "tick_at": task.tick_at, "queue_paused": paused or None}
    also = f"; its queue {task.queue} is paused, too" if paused else ""
    now = f"taskrunner tasks retry {task.id}"
    when = f"{task.maturity_at:%Y-%m-%d %H:%M:%S %Z}, in {span(task.due_in)}"
    if task.tries:
        failed = f"its try {task.tries} failed" + (f" ({task.last_error})" if task.last_error else "")
        return task.because("retrying", f"{failed}: it is tried again at {when}{also}", now, **facts)
    return task.because("immature", f"it is not due before {when}{also}", now, **facts)


def _nobody_to_run(task: Task, runners: list[Serving]) -> Why | None:
    facts = {"due_seconds_ago": -task.due_in, "live_runners": len(runners)}
    if not runners:
        return task.because(
            "no-runner", "it is due, and no runner is alive to run it", "taskrunner start runner", **facts
        )
    knowing = [one for one in runners if task.type in one.types]
    if not knowing:
        known = sorted({name for one in runners for name in one.types})
        return task.because(
            "type-unregistered",
            f"no live runner knows the type {task.type}: its code is not deployed, or the type was renamed "
            "(aliases=… keeps the old name)",
            "taskrunner runners list",
            "taskrunner config check",
            known_types=listed(known, 20),
            **facts,
        )
    if not any(task.queue in one.queues for one in knowing):
        taken = sorted({name for one in knowing for name in one.queues})
        return task.because(
            "queue-unserved",
            f"no live runner that knows {task.type} takes from the queue {task.queue}; they take {listed(taken, 8)}",
            f"taskrunner start runner --queues {task.queue}",
            queues_taken=taken,
            **facts,
        )
    return None


def _locked(task: Task) -> Steps[Why | None]:
    rows = yield Op(sql.LOCKER, {"id": task.id, "patience": LOCKED}, list)
    if not rows:
        return None
    pid, application, seconds = rows[0]
    who = f"session {pid} {application!r}" if pid else "a prepared transaction"
    return task.because(
        "locked",
        f"a transaction of {who} has its row locked"
        + (f", open for {span(seconds)}" if seconds is not None else "")
        + ": claims pass it over until that ends",
        _ending(pid) if pid and seconds is not None else "taskrunner doctor",
        session=pid,
        application=application,
        open_seconds=seconds,
    )


def _ending(pid: int) -> str:
    return f'psql "$DATABASE_URL" -c "SELECT pg_terminate_backend({pid})"'


def _suspect(task: Task) -> Steps[Why | None]:
    if not task.crashes or not (yield Op(sql.MAY, {}, list))[0][0]:
        return None
    taken, able = (yield Op(sql.SUSPECTS, {"queue": task.queue, "type": task.type}, list))[0]
    if not able or taken < able:
        return None
    return task.because(
        "suspect",
        f"it ran {some(task.crashes, 'time')} when its runner died: a runner runs one such task at a time, and "
        f"{'the runner that could run it has one' if able == 1 else f'each of the {able} that could run it has one'}",
        f"taskrunner tasks show {task.id}",
        crashes=task.crashes,
        last_error=task.last_error,
    )


def _queued(task: Task, able: list[Serving]) -> Steps[Why]:
    """Somebody can run it: who comes first, and is there room?"""
    types = sorted({name for one in able for name in one.types})
    params = {"queue": task.queue, "types": types, "priority": task.priority, "maturity_at": task.maturity_at}
    params |= {"id": task.id, "tenant": task.tenant, "room": ROOM}
    ahead: int = yield Op(sql.AHEAD_OF_TENANT if task.fair else sql.AHEAD, params, scalar)
    facts: dict[str, Any] = {"due_seconds_ago": -task.due_in, "priority": task.priority, "tasks_ahead": ahead}
    facts["runners"] = [f"{one.place}: {one.running} of {one.slots}" for one in able if one.place][:20] or None
    before = f"{some(ahead, 'due task', bound=ROOM)} {'comes' if ahead == 1 else 'come'} before it"
    load = "all slots of the " + some(len(able), "runner") + " that could run it are taken"
    full = all(one.full for one in able)
    if task.fair:
        tenants = yield Op(sql.TENANTS, {"queue": task.queue, "type": task.type}, scalar)
        facts["tenants_waiting"] = tenants
        answer = f"its queue is fair: {some(tenants, 'tenant')} take turns, and of its own {before}"
        return task.because("fair-turn", answer + (f"; {load}" if full else ""), f"taskrunner why {task.id}", **facts)
    if full:
        answer = f"{load}" + (f", and {before}" if ahead else ", and it is the next one")
        more = f"taskrunner start runner --queues {task.queue}"
        return task.because("slots-taken", answer, more, "taskrunner runners list", **facts)
    if ahead:
        return task.because("queued", f"it is due, and {before}", f"taskrunner why {task.id}", **facts)
    if -task.due_in <= SOON:
        return task.because("due", "it is due, and is about to be claimed", f"taskrunner why {task.id}", **facts)
    return task.because(
        "unclaimed",
        f"it has been due for {span(-task.due_in)}, comes first, and runners that could run it have room: "
        "that should not be",
        "taskrunner doctor",
        "taskrunner runners list",
        **facts,
    )
