"""What an `add` or `add_many` writes: the first time, when it is repeated, and in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from taskrunner.db import Op, Steps
from taskrunner.intake import aliases_of
from taskrunner.registry import Registry
from taskrunner.store.enqueue import Enqueued, Idempotency, NewTask, Stored, store
from taskrunner.store.fresh import Batch, insert, insert_all
from taskrunner.store.task import announce


class Admission(Protocol):
    """Tasks on their way in."""

    def first(self) -> Steps[Stored]:
        """Return what stores them when it has not been tried yet."""

    def again(self) -> Steps[Stored]:
        """Return what stores them unless an earlier try, whose reply was lost, has done so."""


@dataclass(frozen=True, slots=True)
class One(Admission):
    """A task."""

    registry: Registry
    task: NewTask
    idempotency: Idempotency | None = None

    def first(self) -> Steps[Stored]:
        """Return the plain insert, if neither the id nor a key can be there already."""
        if self.task.fresh and self.task.unique_key is None and self.idempotency is None:
            return _transaction(insert(self.task))
        return _careful(self.registry, [self.task], self.idempotency, fresh=self.task.fresh)

    def again(self) -> Steps[Stored]:
        """Return the insert that looks everywhere."""
        return _careful(self.registry, [self.task], self.idempotency)


@dataclass(frozen=True, slots=True)
class Many(Admission):
    """The tasks of a batch."""

    registry: Registry
    batch: Batch

    def first(self) -> Steps[Stored]:
        """Return the plain insert, if no id and no key can be there already."""
        if self.batch.fresh and not self.batch.keys:
            return _transaction(insert_all(self.batch))
        return _careful(self.registry, self.batch.rows(), fresh=self.batch.fresh)

    def again(self) -> Steps[Stored]:
        """Return the insert that looks everywhere."""
        return _careful(self.registry, self.batch.rows())


def within(admission: Admission) -> Steps[list[Enqueued]]:
    """Store the tasks in the caller's transaction, whose commit tells the runners."""
    stored = yield from admission.first()
    if stored.due:
        yield announce(stored.due)
    answers: list[Enqueued] = stored.answers
    return answers


def _transaction(op: Op[Stored]) -> Steps[Stored]:
    """Make a transaction of it, whose commit is sent when the reply has come.

    Sent by itself, an insert whose client has given up may lie in the server's socket, and take effect after the
    client's repeat has been run and forgotten.
    """
    stored: Stored = yield op
    return stored


def _careful(
    registry: Registry, tasks: Sequence[NewTask], idempotency: Idempotency | None = None, *, fresh: bool = False
) -> Steps[Stored]:
    aliases = aliases_of(registry, (task.type for task in tasks if task.unique_key is not None))
    return store(tasks, aliases=aliases, idempotency=idempotency, fresh=fresh)
