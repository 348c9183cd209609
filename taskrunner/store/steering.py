"""What people do to tasks: cancel, retry now, reschedule, requeue, delete; pause and resume of queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row, Steps, column, nothing
from taskrunner.errors import Conflict, NotFound, TaskrunnerError
from taskrunner.statements import steering as sql
from taskrunner.store import ending, flow, successor
from taskrunner.store.task import Due, announce

CANCEL_CHANNEL = "taskrunner_cancel"
"""NOTIFY channel: the id of a running task that somebody asked to stop."""


class _Where(NamedTuple):
    state: str
    type: str
    unique_key: str | None
    requeued_as: UUID | None
    key_holder: UUID | None


def cancel(id_: UUID, *, running: bool = True, repeated: bool = False) -> Steps[str]:
    """Cancel a pending or blocked task, or ask the runner of a running one to stop it.

    Returns: `cancelled`, or `requested` for a running task. A call that is `repeated` because its reply was lost may
    find its own work done: that is no conflict.
    Raises: `NotFound`; `Conflict` naming the state when it has ended, or is running and `running` is False.
    """
    for _ in range(2):  # a task that its runner hands back between the two statements is met by the second round
        gone = yield Op(sql.CANCEL, {"id": id_}, list)
        if gone:
            yield _count_cancelled(gone[0])
            yield from _leave_children(gone[0])
            return "cancelled"
        if running and (asked := (yield Op(sql.REQUEST_CANCEL, {"id": id_}, list))):
            yield Op(sql.NOTIFY_CANCEL, {"message": str(asked[0][0])}, nothing)
            return "requested"
    where = yield from _where(id_)
    if repeated and where is not None and where.state == "cancelled":
        return "cancelled"
    if where is None and (outcome := (yield from _cancel_successor(id_, running=running))):
        return outcome
    raise _refusal(id_, where, "cancelled")


def _cancel_successor(id_: UUID, *, running: bool) -> Steps[str | None]:
    """Cancel work that waits for a running task of its key to end, or the task that has taken it over."""
    gone = yield successor.withdraw(id_)
    if gone:
        yield _count_cancelled(gone[0])
        return "cancelled"
    behind = yield successor.taken_over_by(id_)
    if behind is None:
        return None
    come = yield from _where(id_)  # it may have come since the first look
    return (yield from cancel(id_ if come else behind, running=running))


def reschedule(id_: UUID, *, at: datetime | None = None, delay: timedelta = timedelta(0)) -> Steps[Due]:
    """Give a pending task a new maturity: the instant `at`, or `delay` from now.

    Raises: `NotFound`; `Conflict` naming the state when it is not pending.
    """
    moved = yield Op(sql.RESCHEDULE, {"id": id_, "at": at, "delay": delay}, _dues)
    if not moved:
        raise _refusal(id_, (yield from _where(id_)), "rescheduled")
    yield announce(moved)
    due: Due = moved[0]
    return due


def retry_now(id_: UUID, new_id: UUID) -> Steps[UUID]:
    """Make a pending task due now, or requeue a dead one as `new_id`; returns the id to look for.

    Raises: `NotFound`; `Conflict` naming the state, or the key that is taken again.
    """
    moved = yield Op(sql.RESCHEDULE, {"id": id_, "at": None, "delay": timedelta(0)}, _dues)
    if moved:
        yield announce(moved)
        return id_
    yield from requeue(id_, new_id)
    return new_id


def requeue(id_: UUID, new_id: UUID) -> Steps[UUID]:
    """Turn a dead letter into a new pending task with tries 0, linked to the old.

    Raises: `NotFound`; `Conflict` naming the state, or the key that is taken again.
    """
    fresh = yield Op(sql.REQUEUE, {"id": id_, "new_id": new_id}, _dues)
    if fresh:
        if not (yield from flow.inherit({id_: new_id})):
            yield announce(fresh)
        return new_id
    where = yield from _where(id_)
    if where is not None and where.requeued_as == new_id:
        return new_id  # a repeat: the first reply was lost
    raise _refusal(id_, where, "requeued")


def delete_dead(id_: UUID) -> Steps[UUID]:
    """Delete a dead letter for good. Raises: `NotFound`; `Conflict` naming the state of a task that is not dead."""
    gone = yield Op(sql.DELETE_DEAD, {"id": id_}, list)
    if not gone:
        raise _refusal(id_, (yield from _where(id_)), "deleted")
    # Who has waited for it to be requeued waits for nothing; other children had their say when it died.
    fallen = yield ending.fail([ending.Ended(id_, gone[0][1], "cancelled", True)], ending.NOBODY)
    due = yield from ending.leave(fallen)
    if due:
        yield announce(due)
    return id_


def pause_queue(queue: str, *, paused: bool) -> Op[list[str]]:
    """Stop (or let) runners claim from a queue; what runs goes on."""
    return Op(sql.PAUSE_QUEUE, {"queue": queue, "paused": paused}, column)


def resume_queue(queue: str) -> Steps[list[str]]:
    """Let runners claim from a queue again, and wake them."""
    resumed = yield pause_queue(queue, paused=False)
    yield announce([Due(UUID(int=0), queue, 0, 0.0)])
    return list(resumed)


def _where(id_: UUID) -> Steps[_Where | None]:
    found: list[_Where] = yield Op(sql.STATE, {"id": id_}, lambda rows: [_Where(*row) for row in rows])
    return found[0] if found else None


def _refusal(id_: UUID, where: _Where | None, verb: str) -> TaskrunnerError:
    if where is None:
        return NotFound(f"no task {id_}: it was never stored, or retention has removed it")
    if where.state == "dead" and verb == "requeued":
        holder = f"the live {where.type} {where.key_holder}" if where.key_holder else f"a {where.type} just now"
        return Conflict(f"task {id_} cannot be requeued: its key {where.unique_key!r} is taken by {holder}")
    if where.state == "requeued":
        return Conflict(f"task {id_} was dead and is requeued already: `taskrunner dead show {id_}` names the new one")
    hint = ": use `taskrunner dead requeue|delete`" if where.state == "dead" else ""
    return Conflict(f"task {id_} is {where.state} and cannot be {verb}{hint}")


def _count_cancelled(row: Row) -> Op[Any]:
    return Op(sql.COUNT_CANCELLED, {"tenant": row[1], "queue": row[2], "type": row[3]}, nothing)


def _leave_children(row: Row) -> Steps[None]:
    id_, _, _, type_, has_children = row
    due = yield from ending.leave([ending.Ended(id_, type_, "cancelled", has_children)])
    if due:
        yield announce(due)


def _dues(rows: Sequence[Row]) -> list[Due]:
    return [Due(*row) for row in rows]
