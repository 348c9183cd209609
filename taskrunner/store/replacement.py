"""New work under a key that may be taken: it takes the place of what waits, and follows what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.idtime import ended_since
from taskrunner.statements import successor as sql
from taskrunner.store.enqueue import (
    Enqueued,
    Idempotency,
    NewTask,
    Replaced,
    Stored,
    give_up_key,
    keep_key,
    store,
)
from taskrunner.store.task import Due


class Place(NamedTuple):
    """A unique key of a type, which may have older names, in a tenant."""

    tenant: str
    types: Sequence[str]
    unique_key: str


class _Holder(NamedTuple):
    id: UUID
    state: str
    successor_id: UUID | None


def live_of(place: Place) -> Op[UUID | None]:
    """Return the live task of a key."""
    return Op(sql.KEYED, _params(place), scalar)


def replace(
    task: NewTask,
    *,
    aliases: Mapping[str, Sequence[str]] | None = None,
    idempotency: Idempotency | None = None,
    fresh: bool = False,
) -> Steps[Stored]:
    """Insert `task`, or let it replace what its unique key's live task is to do; repeating it changes nothing.

    A task that waits is given the new work and keeps its id. One that runs gets a successor, whose id answers.
    """
    known = dict(aliases or {})
    if idempotency is not None:
        earlier = yield from keep_key(task, idempotency, known.get(task.type, ()))
        if earlier is not None:
            return Stored([Enqueued(earlier, created=False)], [])
    stored = yield from _replace(task, known, fresh=fresh)
    answer = stored.answers[0]
    if idempotency is not None and not answer.created:
        yield from give_up_key(task, idempotency, answer.id)
    return stored


def _replace(task: NewTask, aliases: Mapping[str, Sequence[str]], *, fresh: bool) -> Steps[Stored]:
    """Try the two ways in turn until one goes: the key's holder may end, or come, between the statements."""
    assert task.unique_key is not None  # noqa: S101 - the door has refused a task without
    place = Place(task.tenant, [task.type, *aliases.get(task.type, ())], task.unique_key)
    refused: UUID | None = None
    while True:
        holder = yield Op(sql.HOLDER, _params(place), _holder)
        if not fresh and (earlier := (yield from _earlier(task))) is not None:
            return Stored([earlier], [])  # a repeat: the first reply was lost
        if holder is not None:
            return (yield from _take_place(task, holder))
        stored = yield from store([task], aliases=aliases, fresh=fresh)
        (answer,) = stored.answers
        if answer.created or answer.id in (task.id, refused):
            return stored  # not created: it has run before, or, twice refused, another one within `unique_for`
        refused = answer.id


def _take_place(task: NewTask, holder: _Holder) -> Steps[Stored]:
    """Write the work into its row, which is locked: nobody else can change it before this is committed."""
    if holder.state == "running":
        answer = holder.successor_id or task.id
        yield Op(sql.SUCCEED, _work(task, holder.id, answer), list)
        return _replaced(answer)
    done = yield Op(sql.REPLACE, _work(task, holder.id, holder.id), list)
    return _replaced(holder.id, [Due(*row[:5]) for row in done if row[5] != "blocked"])


def _earlier(task: NewTask) -> Steps[Enqueued | None]:
    params = {"tenant": task.tenant, "type": task.type, "id": task.id, "since": ended_since([task.id])}
    found = yield Op(sql.REPLACED, params, list)
    if not found:
        return None
    id_, replaced = found[0]
    return Replaced(id_, created=False) if replaced else Enqueued(id_, created=False)


def _replaced(id_: UUID, due: list[Due] | None = None) -> Stored:
    return Stored([Replaced(id_, created=False)], due or [])


def _holder(rows: Sequence[Row]) -> _Holder | None:
    return _Holder(*rows[0]) if rows else None


def _params(place: Place) -> dict[str, Any]:
    return {**place._asdict(), "types": list(place.types)}


def _work(task: NewTask, holder: UUID, answer: UUID) -> dict[str, Any]:
    return {
        "id": task.id,
        "tenant": task.tenant,
        "type": task.type,
        "holder": holder,
        "answer": answer,
        "queue": task.queue,
        "priority": task.priority,
        "payload": task.payload,
        "max_retries": task.max_retries,
        "meta": task.meta,
        "at": task.at,
        "delay": task.delay.total_seconds(),
    }
