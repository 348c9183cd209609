"""Tasks that wait for tasks: added one by one or as a whole flow, cancelled, retried, and inherited when requeued."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from taskrunner.buckets import BOUNDS
from taskrunner.db import Op, Row, Steps, column, nothing
from taskrunner.errors import Conflict, InvalidArgument, NotFound
from taskrunner.flow import Edge
from taskrunner.idtime import ended_since
from taskrunner.statements import flow as sql
from taskrunner.statements import steering
from taskrunner.store import enqueue
from taskrunner.store.ending import NOBODY, Ended, fail, leave
from taskrunner.store.enqueue import Enqueued, NewTask, Stored
from taskrunner.store.fresh import Batch
from taskrunner.store.task import Due, announce, dues
from taskrunner.task import Parent


@dataclass(frozen=True, slots=True)
class After:
    """The tasks that a new one comes after, and what their failure means for it: `fail`, `run` or `wait`."""

    parents: tuple[UUID, ...]
    on_failure: str = "fail"


class _Parent(NamedTuple):
    id: UUID
    tenant: str
    type: str
    state: str  # live, or how it has ended
    requeued_as: UUID | None


# ── adding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def placed(storing: Steps[Stored], task: NewTask, after: After) -> Steps[Stored]:
    """Store a task and let it wait for its parents; one that has failed already has the effect it would have later.

    Where another task answers, nothing waits for anything. Raises: `NotFound` naming a parent that nobody knows.
    """
    stored = yield from storing
    if stored.answers[0].created and (yield from _attach(task, after)):
        return Stored(stored.answers, [due for due in stored.due if due.id != task.id])
    return stored


def _attach(task: NewTask, after: After) -> Steps[bool]:
    """Return whether the task has to wait, or has failed with a parent."""
    parents = yield from _latest(after.parents, task.tenant)
    yield _link([(parent.id, task.id, after.on_failure) for parent in parents], task.tenant)
    failed = [parent for parent in parents if _fails(parent.state, after.on_failure)]
    waits = sum(_waits(parent.state, after.on_failure) for parent in parents)
    if not failed and not waits:
        return False
    yield _block({task.id: max(waits, 1)})
    if failed:
        yield fail([Ended(parent.id, parent.type, parent.state, True) for parent in failed], NOBODY)
    return True


def _fails(state: str, mode: str) -> bool:
    return (state == "dead" and mode == "fail") or (state == "cancelled" and mode != "run")


def _waits(state: str, mode: str) -> bool:
    return state == "live" or (state == "dead" and mode == "wait")


def _latest(ids: Collection[UUID], tenant: str) -> Steps[list[_Parent]]:
    """Return the parents as they are now, the live ones locked; of one that was requeued, what was made of it."""
    found: dict[UUID, _Parent] = {}
    wanted = set(ids)
    while wanted:
        rows: list[_Parent] = yield Op(sql.MARK_PARENTS, {"ids": sorted(wanted)}, _parents)
        rest = list(wanted - {row.id for row in rows})
        if rest:
            rows += yield Op(sql.ENDED_PARENTS, {"ids": rest, "since": ended_since(rest)}, _parents)
        known = {row.id for row in rows if row.tenant == tenant}
        if wanted - known:
            unknown = next(iter(wanted - known))
            raise NotFound(
                f"after= names {unknown}, and tenant {tenant!r} has no such task: it was never stored, or retention "
                "has removed it"
            )
        found |= {row.id: row for row in rows}
        wanted = {row.requeued_as for row in rows if row.requeued_as is not None} - found.keys()
    return [parent for parent in found.values() if parent.requeued_as is None]


def add_flow(
    batch: Batch, edges: Sequence[Edge], *, aliases: Mapping[str, Sequence[str]], fresh: bool
) -> Steps[Stored]:
    """Store the tasks of a flow, or none; with `fresh`, their ids were made for this very call.

    Raises: `Conflict` where the key of one is taken; `InvalidArgument` where a part of the flow has been added before.
    """
    if not fresh and (known := (yield _known(batch.ids))):
        _refuse_partly_known(batch.ids, known)
        return Stored([Enqueued(id_, created=False) for id_ in batch.ids], [])
    shape = _shape(batch.ids, edges)
    if batch.keys or batch.metas:
        due = yield from _store_with_keys(batch, aliases)
        yield Op(sql.SHAPE, shape, column)
    else:
        yield Op(sql.ADD_FLOW, {**shape, **_columns(batch)}, nothing)
        due = batch.dues_of([number for number, waits in enumerate(shape["waits"]) if waits is None])
    yield _link([(batch.ids[edge.parent], batch.ids[edge.child], edge.on_failure) for edge in edges], batch.tenant)
    roots = {id_ for id_, waits in zip(batch.ids, shape["waits"], strict=True) if waits is None}
    return Stored([Enqueued(id_, created=True) for id_ in batch.ids], [task for task in due if task.id in roots])


def _store_with_keys(batch: Batch, aliases: Mapping[str, Sequence[str]]) -> Steps[list[Due]]:
    rows = batch.rows()
    stored = yield from enqueue.store(rows, aliases=aliases, fresh=True)
    for row, answer in zip(rows, stored.answers, strict=True):
        if not answer.created:
            raise Conflict(f"a {row.type} of the flow cannot be added: task {answer.id} has its key")
    return stored.due


def _refuse_partly_known(ids: Sequence[UUID], known: Collection[UUID]) -> None:
    if len(known) < len(ids):
        raise InvalidArgument(
            f"task {next(iter(known))} of the flow has been added before: make a new task, or let a flow's first tasks "
            "come after it by add(after=…)"
        )


def _shape(ids: Sequence[UUID], edges: Iterable[Edge]) -> dict[str, Any]:
    waits: list[int | None] = [None] * len(ids)
    parents = [False] * len(ids)
    for edge in edges:
        waits[edge.child] = (waits[edge.child] or 0) + 1
        parents[edge.parent] = True
    return {"ids": ids, "waits": waits, "parents": parents}


def _columns(batch: Batch) -> dict[str, Any]:
    return {
        "tenant": batch.tenant,
        "queues": [kind.queue for kind in batch.kinds],
        "types": [kind.type for kind in batch.kinds],
        "priorities": [kind.priority for kind in batch.kinds],
        "max_retries": [kind.max_retries for kind in batch.kinds],
        "payloads": batch.payloads,
        "places": batch.places,
    }


# ── whole flows ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cancel_flow(id_: UUID, *, repeated: bool = False) -> Steps[dict[UUID, str]]:
    """Cancel all that is connected with a task and has not ended; of what runs, its runner is asked to stop it.

    Returns: of each task `cancelled` or `requested`. Raises: `NotFound`, `Conflict` when all of it has ended, unless
    the call is `repeated`: its own work may be done then.
    """
    ids = yield _flow(id_)
    outcomes: dict[UUID, str] = {}
    for last in (False, True):  # a task that its runner hands back meanwhile is met by the second round
        params = {"ids": ids, "runner_id": NOBODY, "bounds": BOUNDS}
        gone: list[Ended] = yield Op(sql.CANCEL_ALL, params, lambda rows: [Ended(*row) for row in rows])
        outcomes |= {task.id: "cancelled" for task in gone}
        due = yield from leave(gone)
        if due:
            yield announce(due)
        if not last:
            outcomes |= dict.fromkeys((yield Op(sql.REQUEST_CANCEL_ALL, {"ids": ids}, column)), "requested")
    if not outcomes and not repeated:
        yield from _refuse(id_, ids, "cancelled: all of it has ended")
    return outcomes


def retry_flow(id_: UUID, *, repeated: bool = False) -> Steps[dict[UUID, UUID]]:
    """Requeue all that is dead in a task's flow; each waits for those of its parents that are live again.

    Returns: the new ids by the old ones. Raises: `NotFound`; `Conflict` when nothing of the flow is dead, or a key is
    taken again. A call that is `repeated` may find its own work done, and returns that.
    """
    ids = yield _flow(id_)
    dead = yield Op(sql.DEAD, {"ids": ids}, column)
    if not dead and repeated:
        return dict((yield Op(sql.REQUEUED, {"ids": ids}, list)))
    if not dead:
        yield from _refuse(id_, ids, "retried: nothing of it is dead")
    new = {old: uuid7() for old in dead}
    due: list[Due] = []
    for old, new_id in new.items():
        fresh = yield Op(steering.REQUEUE, {"id": old, "new_id": new_id}, dues)
        if not fresh:
            raise Conflict(f"the flow cannot be retried: the key of its task {old} is taken by a live one")
        due += fresh
    blocked = yield from inherit(new)
    if ready := [task for task in due if task.id not in blocked]:
        yield announce(ready)
    return new


def _refuse(id_: UUID, ids: Sequence[UUID], why: str) -> Steps[None]:
    if len(ids) == 1 and not (yield _known(ids)):
        raise NotFound(f"no task {id_}: it was never stored, or retention has removed it")
    raise Conflict(f"the flow of task {id_} cannot be {why}")


def inherit(new: Mapping[UUID, UUID]) -> Steps[set[UUID]]:
    """Give requeued tasks the parents and the waiting children of the old ones; returns those that have to wait.

    They wait for live parents only: whoever requeues a child of a dead parent wants it to run.
    """
    pairs = {"old_ids": list(new), "new_ids": list(new.values())}
    parents = yield Op(sql.INHERIT_PARENTS, pairs, column)
    adopted = yield Op(sql.INHERIT_CHILDREN, pairs, column)
    if not parents and not adopted:
        return set()
    yield Op(sql.MARK_PARENTS, {"ids": sorted({*parents, *adopted})}, nothing)
    waits = dict((yield Op(sql.LIVE_PARENTS, {"ids": pairs["new_ids"]}, list)))
    if waits:
        yield _block(waits)
    return set(waits)


def parents(id_: UUID) -> Steps[dict[UUID, Parent]]:
    """Return what the tasks came to that this one was added after, by their ids."""
    ids = yield Op(sql.PARENT_IDS, {"id": id_}, column)
    if not ids:
        return {}
    ends = yield Op(sql.PARENTS, {"ids": ids, "since": ended_since(ids)}, list)
    return {parent: Parent(state, result) for parent, state, result in ends}


# ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _flow(id_: UUID) -> Op[list[UUID]]:
    return Op(sql.FLOW, {"id": id_, "most": None}, column)


def _known(ids: Sequence[UUID]) -> Op[list[UUID]]:
    return Op(sql.KNOWN, {"ids": ids, "since": ended_since(ids)}, column)


def _link(edges: Sequence[tuple[UUID, UUID, str]], tenant: str) -> Op[None]:
    params = {
        "parents": [parent for parent, _, _ in edges],
        "children": [child for _, child, _ in edges],
        "modes": [mode for _, _, mode in edges],
        "tenant": tenant,
    }
    return Op(sql.LINK, params, nothing)


def _block(waits: Mapping[UUID, int]) -> Op[list[UUID]]:
    return Op(sql.BLOCK, {"ids": list(waits), "waits": list(waits.values())}, column)


def _parents(rows: Sequence[Row]) -> list[_Parent]:
    return [_Parent(*row) for row in rows]
