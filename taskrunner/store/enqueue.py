"""The birth of a task: an insert that may be repeated, and keys that make one task of many enqueues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, Steps, column, scalar
from taskrunner.errors import Conflict
from taskrunner.idtime import ended_since
from taskrunner.statements import enqueue as sql
from taskrunner.store.task import Due, announce, dues


class Enqueued(NamedTuple):
    """What became of an enqueue: `created` is False when `id` names a task that was there already."""

    id: UUID
    created: bool

    @property
    def replaced(self) -> bool:
        """Whether the work was kept all the same: by the task that was there, or for when that has ended."""
        return False


class Replaced(Enqueued):
    """What became of an enqueue whose work a task has that was there already, or its successor."""

    __slots__ = ()

    @property
    def replaced(self) -> bool:
        return True


class Stored(NamedTuple):
    """The answers to an enqueue, and what runners are to be told: the new tasks, or of many alike the first."""

    answers: list[Enqueued]
    due: list[Due]


@dataclass(slots=True)  # a frozen one takes four times as long to make
class NewTask:
    """A task to be inserted; `at` decides over `delay`. `payload` and `meta` are JSON texts that were checked.

    Its unique key stays taken for `reserved_for` after the enqueue, also when the task ends before that. `fresh` is
    whether the id was made with this row, so that nobody can have sent it before.
    """

    id: UUID
    type: str
    payload: str
    queue: str
    tenant: str = "default"
    priority: int = 100
    max_retries: int = 3
    unique_key: str | None = None
    meta: str = "{}"
    requeued_from: UUID | None = None
    schedule_id: UUID | None = None
    tick_at: datetime | None = None
    at: datetime | None = None
    delay: timedelta = timedelta(0)
    reserved_for: timedelta | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key that outlives its task, and for how long; one that is not `lasting` is a unique type's own."""

    key: str
    retention: timedelta
    lasting: bool = True


_ROUNDS = 20
"""How often an insert is tried again because what stood in its way was gone when looked at: each takes a race."""


def add(
    tasks: Sequence[NewTask],
    *,
    aliases: Mapping[str, Sequence[str]] | None = None,
    idempotency: Idempotency | None = None,
    notify: bool = True,
) -> Steps[list[Enqueued]]:
    """Insert `tasks` as `store` does, and tell the runners when the transaction is committed."""
    stored = yield from store(tasks, aliases=aliases, idempotency=idempotency)
    if notify and stored.due:
        yield announce(stored.due)
    return stored.answers


def store(
    tasks: Sequence[NewTask],
    *,
    aliases: Mapping[str, Sequence[str]] | None = None,
    idempotency: Idempotency | None = None,
    fresh: bool = False,
) -> Steps[Stored]:
    """Insert `tasks` in one transaction, all or nothing; repeating it with the same ids changes nothing.

    With `fresh`, the ids were made for this very call: no task with such an id can have ended.

    Of tasks with a unique key, the one that is live already answers; of those with `reserved_for`, one that was
    enqueued so recently. `idempotency` goes with a single task. `aliases` maps a type to the older names under
    which its tasks may be queued.
    """
    keys = _reservations(tasks) + ([(tasks[0], idempotency)] if idempotency is not None else [])
    answers: dict[UUID, Enqueued] = {}
    known = {name: list(old) for name, old in (aliases or {}).items()}
    for task, key in keys:
        if (
            task.id not in answers
            and (earlier := (yield from keep_key(task, key, known.get(task.type, ())))) is not None
        ):
            answers[task.id] = Enqueued(earlier, created=False)
    waiting = {task.id: task for task in tasks if task.id not in answers}
    inserted = yield from _insert(waiting, answers, known, fresh=fresh)
    for task, key in keys:
        if not answers[task.id].created:
            yield from give_up_key(task, key, answers[task.id].id)
    seen: set[UUID] = set()
    return Stored([_answer(answers, task.id, seen) for task in tasks], inserted)


def _answer(answers: Mapping[UUID, Enqueued], asked: UUID, seen: set[UUID]) -> Enqueued:
    """One task given twice in a batch was created once; one of the batch may stand for another, itself answered for."""
    answer = answers[asked]
    repeated = asked in seen
    seen.add(asked)
    there = answers.get(answer.id, answer)
    return Enqueued(there.id, created=answer.created and not repeated)


def _reservations(tasks: Sequence[NewTask]) -> list[tuple[NewTask, Idempotency]]:
    """Return the keys of unique types that stay taken for a time; in one order, lest two batches deadlock."""
    wanted = [
        (task, Idempotency(f"unique {task.unique_key}", task.reserved_for, lasting=False))
        for task in tasks
        if task.reserved_for is not None
    ]
    return sorted(wanted, key=lambda pair: (pair[0].tenant, pair[0].type, pair[1].key))


def keep_key(task: NewTask, idempotency: Idempotency, old_names: Sequence[str] = ()) -> Steps[UUID | None]:
    """Keep a key for the task, unless it is another one's, whose id is returned then."""
    if old_names:
        before: UUID | None = yield _key_op(sql.IDEMPOTENT_BEFORE, task, idempotency, types=list(old_names))
        if before is not None and before != task.id:
            return before
    kept = yield _key_op(sql.KEEP_IDEMPOTENCY_KEY, task, idempotency, retention=idempotency.retention)
    if kept is not None:
        return None
    earlier: UUID | None = yield _key_op(sql.IDEMPOTENT_TASK, task, idempotency)
    return earlier


def give_up_key(task: NewTask, idempotency: Idempotency, there: UUID) -> Steps[None]:
    """A task that was there answered: a caller's key stands for it from now on, a reservation is not renewed by it."""
    if task.id == there:
        return  # a repeat of the enqueue that took the key
    if idempotency.lasting:
        yield _key_op(sql.MOVE_IDEMPOTENCY_KEY, task, idempotency, to_id=there)
    else:
        yield _key_op(sql.FREE_IDEMPOTENCY_KEY, task, idempotency)


def _key_op(text: str, task: NewTask, idempotency: Idempotency, **more: Any) -> Op[Any]:
    names = {"tenant": task.tenant, "type": task.type, "key": idempotency.key, "task_id": task.id}
    return Op(text, {**names, **more}, scalar)


def _insert(
    waiting: dict[UUID, NewTask], answers: dict[UUID, Enqueued], aliases: Mapping[str, Sequence[str]], *, fresh: bool
) -> Steps[list[Due]]:
    """Insert what is waiting, note the answers, and return what is new."""
    inserted: list[Due] = []
    rounds = 0
    while waiting:
        rounds += 1
        if rounds > _ROUNDS:
            stuck = next(iter(waiting.values()))
            raise Conflict(f"{stuck.type} {stuck.id} cannot be added: another tenant's task has its id; make a new one")
        rows = yield Op(sql.ADD, _add_params(list(waiting.values()), aliases), dues)
        new = {row.id for row in rows}
        ended = set() if fresh else (yield from _take_back_ended(list(new)))
        inserted += [row for row in rows if row.id not in ended]
        answers |= {id_: Enqueued(id_, created=id_ not in ended) for id_ in new}
        waiting = {id_: task for id_, task in waiting.items() if id_ not in new}
        if waiting:
            incumbents = yield Op(sql.INCUMBENT, _incumbent_params(list(waiting.values()), aliases), dict)
            answers |= {id_: Enqueued(there, created=False) for id_, there in incumbents.items() if there}
            # Whoever stood in the way has ended meanwhile: its key is free, insert again.
            waiting = {id_: task for id_, task in waiting.items() if incumbents.get(id_) is None}
    return inserted


def _take_back_ended(ids: list[UUID]) -> Steps[set[UUID]]:
    if not ids:
        return set()
    ended = set((yield Op(sql.ALREADY_ENDED, {"ids": ids, "since": ended_since(ids)}, column)))
    if ended:
        yield Op(sql.TAKE_BACK, {"ids": list(ended)}, column)
    return ended


def _add_params(tasks: Sequence[NewTask], aliases: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "ids": [task.id for task in tasks],
        "tenants": [task.tenant for task in tasks],
        "queues": [task.queue for task in tasks],
        "types": [task.type for task in tasks],
        "priorities": [task.priority for task in tasks],
        "payloads": [task.payload for task in tasks],
        "max_retries": [task.max_retries for task in tasks],
        "unique_keys": [task.unique_key for task in tasks],
        "metas": [task.meta for task in tasks],
        "requeued_froms": [task.requeued_from for task in tasks],
        "schedule_ids": [task.schedule_id for task in tasks],
        "tick_ats": [task.tick_at for task in tasks],
        "ats": [task.at for task in tasks],
        "delays": [task.delay.total_seconds() for task in tasks],
        "aliases": json.dumps(aliases),
    }


def _incumbent_params(tasks: Sequence[NewTask], aliases: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    ids = [task.id for task in tasks]
    return {
        "ids": ids,
        "tenants": [task.tenant for task in tasks],
        "types": [task.type for task in tasks],
        "unique_keys": [task.unique_key for task in tasks],
        "schedule_ids": [task.schedule_id for task in tasks],
        "tick_ats": [task.tick_at for task in tasks],
        "aliases": json.dumps(aliases),
        "since": ended_since(ids),
    }
