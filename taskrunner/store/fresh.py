"""Tasks whose ids were made just now: a plain insert, since nobody can have sent them before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row, Steps, nothing, scalar
from taskrunner.statements import enqueue as sql
from taskrunner.store.enqueue import Enqueued, NewTask, Stored
from taskrunner.store.task import Due


class Kind(NamedTuple):
    """What its type decides of a task in a batch; `first` is where the first one stands."""

    type: str
    queue: str
    priority: int
    max_retries: int
    reserved_for: timedelta | None
    first: int


@dataclass(slots=True)
class Batch:
    """Tasks of one tenant, in columns: `places` says of each which of `kinds` it is, counted from 1.

    `keys` has the unique keys by the tasks' numbers, `metas` what is to be their `meta`; `fresh` is whether every id
    was made for this batch.
    """

    tenant: str
    spacing: timedelta = timedelta(0)
    kinds: list[Kind] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    ids: list[UUID] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    metas: dict[int, str] = field(default_factory=dict)
    fresh: bool = True

    def rows(self) -> list[NewTask]:
        """Return the tasks one by one."""
        columns = zip(self.ids, self.places, self.payloads, strict=True)
        return [self._row(number, *row) for number, row in enumerate(columns)]

    def _row(self, number: int, id_: UUID, place: int, payload: str) -> NewTask:
        kind = self.kinds[place - 1]
        key = self.keys.get(number)
        return NewTask(
            id_,
            kind.type,
            payload,
            kind.queue,
            self.tenant,
            kind.priority,
            kind.max_retries,
            unique_key=key,
            meta=self.metas.get(number, "{}"),
            delay=self.spacing * number,
            reserved_for=None if key is None else kind.reserved_for,
        )

    def dues(self) -> list[Due]:
        """Return the first task of each kind."""
        return [self._due(kind, kind.first) for kind in self.kinds]

    def dues_of(self, numbers: Iterable[int]) -> list[Due]:
        """Return the first task of each kind among these."""
        first: dict[int, int] = {}
        for number in numbers:
            first.setdefault(self.places[number], number)
        return [self._due(self.kinds[place - 1], number) for place, number in first.items()]

    def _due(self, kind: Kind, number: int) -> Due:
        return Due(self.ids[number], kind.queue, kind.priority, (self.spacing * number).total_seconds(), kind.type)


def insert(task: NewTask) -> Op[Stored]:
    """Insert a task without a unique key; safe as a transaction of its own."""
    params = {
        "id": task.id,
        "tenant": task.tenant,
        "queue": task.queue,
        "type": task.type,
        "priority": task.priority,
        "payload": task.payload,
        "max_retries": task.max_retries,
        "meta": task.meta,
        "at": task.at,
        "delay": task.delay.total_seconds(),
    }

    def stored(rows: Sequence[Row]) -> Stored:
        due = Due(task.id, task.queue, task.priority, scalar(rows), task.type)
        return Stored([Enqueued(task.id, created=True)], [due])

    return Op(sql.ADD_ONE, params, stored)


def insert_all(batch: Batch) -> Steps[Stored]:
    """Insert the tasks of a batch without unique keys."""
    yield Op(sql.ADD_MANY, _params(batch), nothing)
    return Stored([Enqueued(id_, True) for id_ in batch.ids], batch.dues())


def note_repeats(tasks: Sequence[NewTask]) -> Op[None]:
    """Say that these tasks have been sent before: an `insert` of theirs that is still on its way will do nothing."""
    params = {
        "ids": [task.id for task in tasks],
        "tenants": [task.tenant for task in tasks],
        "types": [task.type for task in tasks],
    }
    return Op(sql.NOTE_REPEATS, params, nothing)


def _params(batch: Batch) -> Mapping[str, Any]:
    return {
        "tenant": batch.tenant,
        "queues": [kind.queue for kind in batch.kinds],
        "types": [kind.type for kind in batch.kinds],
        "priorities": [kind.priority for kind in batch.kinds],
        "max_retries": [kind.max_retries for kind in batch.kinds],
        "spacing": batch.spacing.total_seconds(),
        "ids": batch.ids,
        "payloads": batch.payloads,
        "places": batch.places if len(batch.kinds) > 1 else [],
    }
