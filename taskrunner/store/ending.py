"""The end of tasks that leave something behind: children that wait for them, a successor that takes their place.

All of it is one transaction, which the caller commits: by `run`/`arun`, or as a part of a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.buckets import BOUNDS
from taskrunner.db import Op, Row, Steps, column
from taskrunner.statements import ending as sql
from taskrunner.store.successor import take_over
from taskrunner.store.task import Due, Ending, announce, dues

NOBODY = UUID(int=0)
"""The runner of what no runner has ended, in the counts."""

_FAILED = ("dead", "cancelled")


class Ended(NamedTuple):
    """A task that has left the table, and what it leaves behind: the columns of END and FAIL."""

    id: UUID
    type: str
    state: str
    has_children: bool
    succession: str | None = None


class Closed(NamedTuple):
    """What a batch of endings brought: the tasks that have ended, and what became pending by it."""

    ids: list[UUID]
    due: list[Due]


def end(runner_id: UUID, ending: Ending) -> Steps[list[Due] | None]:
    """End one claim whatever it leaves behind; waits for the locks that are in the way.

    `ending.state` is `succeeded`, `ignored`, `cancelled` or `dead`; its `detail` the result, or the list of errors, as
    JSON text. Returns what became pending by it, of which the runners are told at the commit; None when the claim is no
    longer this runner's, and nothing was written.
    """
    fence = {"runner_id": runner_id, "id": ending.id, "claim_no": ending.claim_no}
    if not (yield Op(sql.FENCE, fence, column)):
        return None
    closed = yield from end_many(runner_id, [ending])
    if closed.due:
        yield announce(closed.due)
    return closed.due


def end_many(
    runner_id: UUID, endings: Sequence[Ending], *, patience: timedelta = timedelta(0), crash: bool = False
) -> Steps[Closed]:
    """End claims, each child of several parents unblocked once. Rows that somebody has locked are left over.

    A child's lock is waited for, at most `patience` if that is not zero: then psycopg's `LockNotAvailable` is raised.
    With a `crash` the errors say so, and no try is counted. The caller tells the runners.
    """
    ended: list[Ended] = yield Op(sql.END, _params(runner_id, endings, crash=crash), _ended)
    due = yield from leave(ended, runner_id, patience=patience)
    return Closed([task.id for task in ended], due)


def end_free(runner_id: UUID, endings: Sequence[Ending], *, patience: timedelta) -> Steps[Closed]:
    """End those claims of whose children none is locked by somebody else; the rest is left over."""
    free = set((yield Op(sql.FREE, {"ids": [ending.id for ending in endings]}, column)))
    chosen = [ending for ending in endings if ending.id in free]
    if not chosen:
        return Closed([], [])
    return (yield from end_many(runner_id, chosen, patience=patience))


def leave(ended: Sequence[Ended], runner_id: UUID = NOBODY, *, patience: timedelta = timedelta(0)) -> Steps[list[Due]]:
    """Let children and successors know of what has left the table just now; returns what became pending by it.

    Children of what has succeeded, or was ignored, wait for one parent fewer; of what failed, each does what its edge
    says, and those that fail by it are the next parents.
    """
    due = yield from take_over([task.succession for task in ended if task.succession is not None])
    parents = [task for task in ended if task.has_children]
    wait = str(round(patience.total_seconds() * 1000)) if patience else None
    while parents:
        failed = [task for task in parents if task.state in _FAILED]
        fallen: list[Ended] = (yield fail(failed, runner_id, wait)) if failed else []
        done = [task.id for task in parents if task.state not in _FAILED]
        due += yield Op(sql.UNBLOCK, {"done": done, "failed": [task.id for task in failed], "patience": wait}, dues)
        parents = [task for task in fallen if task.has_children]
    return due


def fail(failed: Sequence[Ended], runner_id: UUID = NOBODY, patience: str | None = None) -> Op[list[Ended]]:
    """End the blocked children that fail with these parents; returns them, who may have children of their own."""
    params = {
        "failed": [task.id for task in failed],
        "types": [task.type for task in failed],
        "states": [task.state for task in failed],
        "runner_id": runner_id,
        "patience": patience,
        "bounds": BOUNDS,
    }
    return Op(sql.FAIL, params, _ended)


def _ended(rows: Sequence[Row]) -> list[Ended]:
    return [Ended(*row) for row in rows]


def _params(runner_id: UUID, endings: Sequence[Ending], *, crash: bool) -> dict[str, Any]:
    return {
        "runner_id": runner_id,
        "crash": crash,
        "ids": [ending.id for ending in endings],
        "claim_nos": [ending.claim_no for ending in endings],
        "states": [ending.state for ending in endings],
        "details": [ending.detail for ending in endings],
        "run_seconds": [ending.run_seconds for ending in endings],
        "ages": [ending.age for ending in endings],
        "bounds": BOUNDS,
    }
