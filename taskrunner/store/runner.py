"""Leases: join, beat, leave, and rescue what dead runners have left."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from taskrunner.buckets import BOUNDS
from taskrunner.db import Op, Row, Steps, column, nothing, scalar
from taskrunner.statements import runner as sql
from taskrunner.store.ending import end_many
from taskrunner.store.task import Due, Ending, announce


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it registers itself; `kind` is `runner` or `scheduler`."""

    id: UUID
    kind: str
    host: str
    pid: int
    queues: tuple[str, ...]
    types: tuple[str, ...]
    slots: int
    version: str


class Pulse(NamedTuple):
    """What one heartbeat says of a runner."""

    id: UUID
    running: int = 0
    strays: int = 0


class Beaten(NamedTuple):
    """What became of heartbeats: whose leases last, and whether anybody's has ended."""

    alive: frozenset[UUID]
    died: bool


class Rescued(NamedTuple):
    """A task taken back from a dead runner: `verdict` is `charged`, `released` or `dead`.

    Or `special`: it is to die too, but has children or a successor; see `bury`.
    """

    id: UUID
    queue: str
    priority: int
    due_in: float | None
    verdict: str


def join(process: Process, lease: timedelta) -> Op[list[UUID]]:
    """Register a process; its lease starts now."""
    params = {
        "id": process.id,
        "kind": process.kind,
        "host": process.host,
        "pid": process.pid,
        "queues": list(process.queues),
        "types": list(process.types),
        "slots": process.slots,
        "version": process.version,
        "lease": lease,
    }
    return Op(sql.JOIN, params, column)


def beat(pulses: Sequence[Pulse], lease: timedelta) -> Op[Beaten]:
    """Extend leases that have not ended. Who is not alive afterwards must rejoin under a new id."""
    params = {
        "ids": [pulse.id for pulse in pulses],
        "runnings": [pulse.running for pulse in pulses],
        "strays": [pulse.strays for pulse in pulses],
        "lease": lease,
    }
    return Op(sql.BEAT, params, _beaten)


def mark_started_of(runner_id: UUID, started: Sequence[tuple[UUID, int]]) -> Op[list[UUID]]:
    """Mark what a dead process had started, by its flight recorder, before its tasks are rescued."""
    ids, claim_nos = [id_ for id_, _ in started], [claim_no for _, claim_no in started]
    return Op(sql.MARK_STARTED_OF, {"runner_id": runner_id, "ids": ids, "claim_nos": claim_nos}, column)


def end_leases(ids: Collection[UUID]) -> Op[list[UUID]]:
    """End the leases of processes that are known to be dead, so that rescue need not wait."""
    return Op(sql.END_LEASE, {"ids": list(ids)}, column)


def leave(ids: Collection[UUID]) -> Op[list[UUID]]:
    """Remove runners that no task names any more."""
    return Op(sql.LEAVE, {"ids": list(ids)}, column)


def any_expired() -> Op[bool]:
    """Return whether any registered process's lease has ended."""
    return Op(sql.ANY_EXPIRED, {}, scalar)


def rescue_next(seen: Collection[UUID], crash_limit: int) -> Steps[tuple[UUID, list[Rescued]] | None]:
    """Take back the tasks of one runner whose lease has ended; None when there is none besides `seen`."""
    expired = yield Op(sql.EXPIRED, {"seen": list(seen)}, column)
    if not expired:
        return None
    rescued = yield from rescue(expired[0], crash_limit)
    return expired[0], rescued


def rescue(runner_id: UUID, crash_limit: int) -> Steps[list[Rescued]]:
    """Take back the tasks of a runner that has no lease, charge whom the rule blames, and remove its row.

    While another rescuer is at it, nothing is taken.
    """
    if not (yield Op(sql.TRY_ALONE, {"runner_id": runner_id}, scalar)):
        return []
    params = {"runner_id": runner_id, "crash_limit": crash_limit, "bounds": BOUNDS}
    rescued: list[Rescued] = yield Op(sql.RESCUE, params, _rescued)
    yield leave([runner_id])
    back = [Due(task.id, task.queue, task.priority, task.due_in) for task in rescued if task.due_in is not None]
    if back:
        yield announce(back)
    return rescued


def rescue_of(runner_id: UUID, started: Sequence[tuple[UUID, int]], crash_limit: int) -> Steps[list[Rescued]]:
    """Rescue the tasks of a process that is known to be dead; `started` is what its flight recorder says had started.

    No other rescuer takes the tasks before they are marked.
    """
    yield Op(sql.ALONE, {"runner_id": runner_id}, nothing)
    yield end_leases([runner_id])
    yield mark_started_of(runner_id, started)
    return (yield from rescue(runner_id, crash_limit))


def bury(runner_id: UUID, specials: Collection[UUID], patience: timedelta) -> Steps[list[UUID]]:
    """Make dead letters of what a rescue has called special, with all that follows; returns the dead.

    Raises psycopg's `LockNotAvailable` where somebody's lock on a child lasts longer than `patience`.
    """
    rows = yield Op(sql.OVERDUE, {"ids": list(specials), "runner_id": runner_id}, list)
    endings = [Ending(id_, claim_no, age, age, "dead", _died(crashes)) for id_, claim_no, crashes, age in rows]
    closed = yield from end_many(runner_id, endings, patience=patience, crash=True)
    yield leave([runner_id])
    if closed.due:
        yield announce(closed.due)
    return closed.ids


def _died(crashes: int) -> str:
    return json.dumps([{"message": f"its runner died {crashes} times", "traceback": None}])


def orphaned() -> Op[list[UUID]]:
    """Return runner ids that running tasks name though no such runner is registered."""
    return Op(sql.ORPHANED, {}, column)


def _beaten(rows: Sequence[Row]) -> Beaten:
    ids = {row[0] for row in rows}
    return Beaten(frozenset(ids - {None}), died=None in ids)


def _rescued(rows: Sequence[Row]) -> list[Rescued]:
    return [Rescued(*row) for row in rows]
