"""What an `add` or `add_many` writes: the first time, when it is repeated, and in a transaction of the caller's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg_pool import PoolTimeout

from taskrunner.db import Op, Steps, Work, nothing
from taskrunner.errors import Conflict, DatabaseUnreachable, InvalidArgument
from taskrunner.flow import Edge
from taskrunner.intake import OnConflict, aliases_of
from taskrunner.registry import Registry
from taskrunner.statements.enqueue import PATIENCE
from taskrunner.store.enqueue import Enqueued, Idempotency, NewTask, Stored, store
from taskrunner.store.flow import After, add_flow, placed
from taskrunner.store.fresh import Batch, insert, insert_all, note_repeats
from taskrunner.store.replacement import replace
from taskrunner.store.task import announce

Entry = Callable[[], Work[Stored]]
CHOICES: tuple[str, ...] = get_args(OnConflict)


class Admission(Protocol):
    """Tasks on their way in."""

    def first(self) -> Work[Stored]:
        """Return what stores them when it has not been tried yet."""

    def again(self) -> Work[Stored]:
        """Return what stores them unless an earlier try, whose reply was lost, has done so."""

    def told(self) -> tuple[str, str, int, UUID | None]:
        """Return the queue, the type (empty: of several), how many there are, and the id of a single one."""

    def carry(self, context: Mapping[str, str]) -> None:
        """Put the context of the sender's trace into the tasks' `meta`."""


@dataclass(slots=True)
class One(Admission):
    """A task."""

    registry: Registry
    task: NewTask
    idempotency: Idempotency | None = None
    after: After | None = None
    on_conflict: OnConflict = "skip"
    patience: float = 0  # seconds to wait for a key that somebody's open transaction holds; 0: as the session does

    def on(self, on_conflict: OnConflict, patience: float) -> None:
        """Say what becomes of it where its key is taken. Raises: `InvalidArgument` for what is no choice for it."""
        if on_conflict not in CHOICES:
            raise InvalidArgument(f"on_conflict must be {' or '.join(map(repr, CHOICES))}, not {on_conflict!r}")
        if on_conflict == "replace" and self.task.unique_key is None:
            raise InvalidArgument("on_conflict='replace' needs key=…, or a type that is unique by itself")
        if on_conflict == "replace" and self.after is not None:
            raise InvalidArgument("on_conflict='replace' cannot go with after=: the task that is there has its own")
        self.on_conflict, self.patience = on_conflict, patience

    def first(self) -> Work[Stored]:
        """Return the plain insert, if neither the id nor a key can be there already."""
        if self.task.fresh and self.task.unique_key is None and self.idempotency is None and self.after is None:
            return insert(self.task)
        return _patiently(self.patience, self._placed(self._keyed(fresh=self.task.fresh)))

    def again(self) -> Work[Stored]:
        """Return the insert that looks everywhere."""
        return _patiently(self.patience, self._placed(self._keyed(fresh=False)))

    def told(self) -> tuple[str, str, int, UUID | None]:
        """Return what a trace says of it."""
        return self.task.queue, self.task.type, 1, self.task.id

    def carry(self, context: Mapping[str, str]) -> None:
        """Put the context into `meta`, beneath what the caller has given."""
        self.task.meta = json.dumps({**context, **json.loads(self.task.meta)})

    def _placed(self, storing: Steps[Stored]) -> Steps[Stored]:
        return storing if self.after is None else placed(storing, self.task, self.after)

    def _keyed(self, *, fresh: bool) -> Steps[Stored]:
        if self.on_conflict != "replace":
            return _looking(self.registry, [self.task], self.idempotency, fresh=fresh)
        aliases = aliases_of(self.registry, [self.task.type])
        return replace(self.task, aliases=aliases, idempotency=self.idempotency, fresh=fresh)

    def answer(self, answers: list[Enqueued]) -> Enqueued:
        """Return the answer. Raises: `Conflict` where another task has the key, if that is to be an error."""
        (answer,) = answers
        if self.on_conflict == "error" and answer.id != self.task.id:  # the same id is this very enqueue, repeated
            raise Conflict(f"a live {self.task.type} has this key: task {answer.id}")
        return answer


@dataclass(slots=True)
class _Several(Admission):
    """Tasks that are composed as one batch."""

    registry: Registry
    batch: Batch

    def told(self) -> tuple[str, str, int, UUID | None]:
        """Return what a trace says of them: the queue of the first, and the type if it is that of all."""
        kinds = self.batch.kinds
        return kinds[0].queue, kinds[0].type if len(kinds) == 1 else "", len(self.batch.ids), None

    def carry(self, context: Mapping[str, str]) -> None:
        """Put the context into each task's `meta`."""
        plain = json.dumps(dict(context))
        noted = {number: json.dumps({**context, **json.loads(meta)}) for number, meta in self.batch.metas.items()}
        self.batch.metas = {**dict.fromkeys(range(len(self.batch.ids)), plain), **noted}


@dataclass(slots=True)
class Many(_Several):
    """The tasks of a batch."""

    patience: float = 0

    def first(self) -> Work[Stored]:
        """Return the plain insert, if no id and no key can be there already, and the tasks are of the plain kind."""
        if self.batch.fresh and not self.batch.keys and not self.batch.metas:
            return insert_all(self.batch)
        return _patiently(self.patience, _looking(self.registry, self.batch.rows(), fresh=self.batch.fresh))

    def again(self) -> Work[Stored]:
        """Return the insert that looks everywhere."""
        return _patiently(self.patience, _looking(self.registry, self.batch.rows()))


@dataclass(slots=True)
class Whole(_Several):
    """The tasks of a flow."""

    edges: Sequence[Edge]

    def first(self) -> Work[Stored]:
        """Return the plain insert, if no id can be there already."""
        return self._adding(fresh=self.batch.fresh)

    def again(self) -> Work[Stored]:
        """Return the insert that looks for the ids."""
        return self._adding(fresh=False)

    def _adding(self, *, fresh: bool) -> Work[Stored]:
        keyed = (self.batch.kinds[self.batch.places[number] - 1].type for number in self.batch.keys)
        return add_flow(self.batch, self.edges, aliases=aliases_of(self.registry, keyed), fresh=fresh)


def within(work: Work[Stored]) -> Steps[Stored]:
    """Do it as a part of the caller's transaction, whose commit tells the runners."""
    stored: Stored = (yield work) if isinstance(work, Op) else (yield from work)
    if stored.due:
        yield announce(stored.due)
    return stored


def refuse_repeat(error: DatabaseUnreachable) -> None:
    """Raise the error again when no connection was to be had in time: another wait would bring nothing."""
    if isinstance(error.__cause__, PoolTimeout):
        raise error


def refuse_other(error: UniqueViolation) -> None:
    """Raise the error again unless it says that somebody has added the same task meanwhile."""
    if error.diag.constraint_name != "task_pkey":
        raise error


def _patiently(seconds: float, steps: Steps[Stored]) -> Steps[Stored]:
    if seconds:
        yield Op(PATIENCE, {"milliseconds": str(round(seconds * 1000))}, nothing)
    return (yield from steps)


def _looking(
    registry: Registry, tasks: Sequence[NewTask], idempotency: Idempotency | None = None, *, fresh: bool = False
) -> Steps[Stored]:
    """Look for the ids and keys that may be there; in a transaction block, whose end is sent after all replies."""
    if not fresh:
        yield note_repeats(tasks)
    keyed = (task.type for task in tasks if task.unique_key is not None or idempotency is not None)
    aliases = aliases_of(registry, keyed)
    return (yield from store(tasks, aliases=aliases, idempotency=idempotency, fresh=fresh))
