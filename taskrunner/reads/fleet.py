"""Runners and queues as people see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.reads.live import Waiting, longest, waiting
from taskrunner.reads.views import AtWork, Queue, Runner
from taskrunner.statements import reads as sql

_RUNNER_FIELDS = tuple(Runner.model_fields)
_UNATTENDED = "no live runner knows {}: it waits until one starts (`taskrunner start all`)"


def runners() -> Op[list[Runner]]:
    """Return every registered process, the live ones first, by kind, host and pid."""
    return Op(sql.RUNNERS, {}, lambda rows: [Runner(**dict(zip(_RUNNER_FIELDS, row, strict=True))) for row in rows])


def at_work(each: int = 10) -> Op[dict[UUID, list[AtWork]]]:
    """Return what the runners run now, by their ids: of each the `each` tasks that began first."""

    def read(rows: Sequence[Row]) -> dict[UUID, list[AtWork]]:
        found: dict[UUID, list[AtWork]] = {}
        for runner_id, *values in rows:
            found.setdefault(runner_id, []).append(AtWork(**dict(zip(AtWork.model_fields, values, strict=True))))
        return found

    return Op(sql.AT_WORK, {"each": each}, read)


def live_runners() -> Op[int]:
    """Return how many runners are alive: for readiness."""
    return Op(sql.LIVE_RUNNERS, {}, scalar)


def unattended(id_: UUID) -> Op[str]:
    """Return why a pending task can only wait: no live runner knows its type; an empty text when one does."""
    return Op(sql.UNATTENDED, {"id": id_}, lambda rows: _UNATTENDED.format(rows[0][0]) if rows else "")


def queues() -> Steps[list[Queue]]:
    """Return every queue that is known, by name."""
    return (yield from queues_with((yield waiting())))


def queues_with(rows: Iterable[Waiting]) -> Steps[list[Queue]]:
    """Return every queue that is known, by name, when the live tasks have been counted already."""
    found: dict[str, Queue] = {}
    for row in rows:
        _add(found.setdefault(row.queue, Queue(name=row.queue)), row)
    for name, paused, paused_at, fair, weights in (yield Op(sql.QUEUES, {}, list)):
        queue = found.setdefault(name, Queue(name=name))
        queue.paused, queue.paused_at, queue.fair, queue.weights = paused, paused_at if paused else None, fair, weights
    for name, served in (yield Op(sql.SERVED, {}, list)):
        found.setdefault(name, Queue(name=name)).runners = served
    return sorted(found.values(), key=lambda queue: queue.name)


def queues_of(rows: Iterable[Waiting]) -> Steps[list[Queue]]:
    """Return the queues that a tenant's live tasks are in; whose weights are others' is not for it to see."""
    found: dict[str, Queue] = {}
    for row in rows:
        _add(found.setdefault(row.queue, Queue(name=row.queue)), row)
    for name, paused, fair in (yield Op(sql.OPEN_QUEUES, {"queues": list(found)}, list)):
        found[name].paused, found[name].fair = paused, fair
    for name, served in (yield Op(sql.SERVED, {}, list)):
        if name in found:
            found[name].runners = served
    return sorted(found.values(), key=lambda queue: queue.name)


def _add(queue: Queue, row: Waiting) -> None:
    queue.pending += row.pending
    queue.due += row.due
    queue.running += row.running
    queue.oldest_due_seconds = longest(queue.oldest_due_seconds, row.oldest_due_seconds)
