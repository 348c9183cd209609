"""One batch of a bulk action: a transaction that changes what it can, and says of the others why not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from taskrunner.buckets import BOUNDS
from taskrunner.db import Op, Steps, column, nothing
from taskrunner.statements import bulk as sql
from taskrunner.statements import flow as flows
from taskrunner.store import ending, flow
from taskrunner.store.ending import NOBODY, Ended
from taskrunner.store.task import Due, announce, dues

LOCKED = "locked"
"""Somebody's open transaction had it: may be tried again."""

CHANGED = "changed"
"""It had ended, begun, or been requeued by then."""

KEY_TAKEN = "key taken"
"""A live task has its key again."""


class Batch(NamedTuple):
    """What became of one batch: `requested` are running ones, whose runners were asked to stop them."""

    done: int
    requested: int
    skipped: dict[UUID, str]


class When(NamedTuple):
    """The new maturity: the instant `at`, or `delay` from now."""

    at: datetime | None = None
    delay: timedelta = timedelta(0)


Worker = Callable[[Sequence[UUID], When], Steps[Batch]]


def patient(lock: timedelta, statement: timedelta) -> Op[None]:
    """Let the statements of the transaction wait for locks, and run, for so long at most."""
    return Op(sql.PATIENCE, {"lock": _milliseconds(lock), "statement": _milliseconds(statement)}, nothing)


def cancel(ids: Sequence[UUID], _when: When) -> Steps[Batch]:
    """Cancel what waits, and ask the runners of what runs to stop it."""
    free = yield Op(sql.FREE, {"ids": ids}, column)
    params = {"ids": free, "runner_id": NOBODY, "bounds": BOUNDS}
    gone: list[Ended] = yield Op(flows.CANCEL_ALL, params, lambda rows: [Ended(*row) for row in rows])
    yield from _tell((yield from ending.leave(gone)))
    asked = yield Op(flows.REQUEST_CANCEL_ALL, {"ids": free}, column)
    done = {task.id for task in gone}
    skipped = yield from _why(ids, {*done, *asked}, sql.LIVE)
    return Batch(len(done), len(asked), skipped)


def reschedule(ids: Sequence[UUID], when: When) -> Steps[Batch]:
    """Give pending tasks a new maturity."""
    moved: list[Due] = yield Op(sql.RESCHEDULE, {"ids": ids, "at": when.at, "delay": when.delay}, dues)
    yield from _tell(moved)
    skipped = yield from _why(ids, {task.id for task in moved}, sql.LIVE)
    return Batch(len(moved), 0, skipped)


def requeue(ids: Sequence[UUID], _when: When) -> Steps[Batch]:
    """Make new tasks of dead letters, with their places in their flows."""
    rows = yield Op(sql.REQUEUE, {"ids": ids, "new_ids": [uuid7() for _ in ids]}, list)
    fresh = {old: Due(*rest) for old, *rest in rows if rest[0] is not None}
    if fresh:
        blocked = yield from flow.inherit({old: due.id for old, due in fresh.items()})
        yield from _tell([due for due in fresh.values() if due.id not in blocked])
    taken = {old: KEY_TAKEN for old, *rest in rows if rest[0] is None}
    skipped = yield from _why(ids, {*fresh, *taken}, sql.DEAD)
    return Batch(len(fresh), 0, {**skipped, **taken})


def delete_dead(ids: Sequence[UUID], _when: When) -> Steps[Batch]:
    """Delete dead letters for good; who has waited for one to be requeued waits for nothing."""
    gone = yield Op(sql.DELETE_DEAD, {"ids": ids}, list)
    if gone:
        fallen = yield ending.fail([Ended(id_, type_, "cancelled", True) for id_, type_ in gone], NOBODY)
        yield from _tell((yield from ending.leave(fallen)))
    skipped = yield from _why(ids, {id_ for id_, _ in gone}, sql.DEAD)
    return Batch(len(gone), 0, skipped)


def _tell(due: Sequence[Due]) -> Steps[None]:
    if due:
        yield announce(due)


def _why(ids: Sequence[UUID], met: Collection[UUID], there: str) -> Steps[dict[UUID, str]]:
    rest = [id_ for id_ in ids if id_ not in met]
    if not rest:
        return {}
    still: set[Any] = set((yield Op(there, {"ids": rest}, column)))
    return {id_: LOCKED if id_ in still else CHANGED for id_ in rest}


def _milliseconds(span: timedelta) -> str:
    return str(round(span.total_seconds() * 1000))
