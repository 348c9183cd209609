"""Fair queues: whose tasks come in turn, tenant by tenant, however many one of them has waiting.

`set_fair(url, "mail")` makes a queue fair, `set_weight(url, "mail", "acme", 3)` gives a tenant three tasks a round.
"""

from __future__ import annotations

import time
from functools import partial
from math import inf
from typing import Any
from uuid import UUID

import psycopg

from taskrunner.db import Work, connect, run
from taskrunner.errors import InvalidArgument, RegistrationError
from taskrunner.pieces import Pieces, drive
from taskrunner.registry.checks import check_queue
from taskrunner.store import fair as store

HEAVIEST = 1000
"""The greatest weight of a tenant."""

PATIENCE = 10.0
"""Seconds to wait for transactions that may have written tasks before the queue was fair."""

PAUSE = 0.05
"""Seconds until it is looked again whether such transactions are open."""

_ROOM = 5000  # rows in one transaction: their locks are held for a moment


def set_fair(url: str, queue: str, *, fair: bool = True, patience: float = PATIENCE) -> bool:
    """Make a queue fair, with the tasks that wait in it, or ordinary; whoever adds and runs tasks may go on meanwhile.

    Returns: False when transactions were still open that may have written tasks without knowing; such tasks come when
    nothing else is due, or once this is called again.
    Raises: `InvalidArgument` for what cannot be a queue's name, `DatabaseUnreachable`, `SchemaBehind`.
    """
    with connect(url, name="taskrunner fairness") as connection:
        return set_fair_by(connection, queue, fair=fair, patience=patience)


def set_fair_by(
    connection: psycopg.Connection[Any],
    queue: str,
    *,
    fair: bool,
    patience: float = PATIENCE,
    first: Work[int] | None = None,
) -> bool:
    """Do what `set_fair` does by a connection that is open, and in no transaction; `first` marks the queue."""
    check_name(queue)
    number = run(connection, store.set_fair(queue, fair=fair) if first is None else first)
    if not fair:
        return True
    deadline = time.monotonic() + patience
    while True:
        settled, _ = drive(lambda make: run(connection, make()), telling(queue, number))
        if settled or time.monotonic() >= deadline:
            return settled
        time.sleep(PAUSE)


def telling(queue: str, number: int, until: float = inf) -> Pieces[tuple[bool, bool]]:
    """Tell the tasks of a queue that it is fair since the write `number`, a part at a time.

    Returns: whether no transaction is open any more that may not know, and whether all were told before the monotonic
    time `until`. Unless both hold, it is to be done again after a pause.
    """
    settled = yield lambda: store.settled(number)  # first: so what was written before it was settled is found
    after: UUID | None = UUID(int=0)
    while after is not None and time.monotonic() < until:
        after = (yield partial(store.move, queue, after, _ROOM)).last
    return settled, after is None


def set_weight(url: str, queue: str, tenant: str, weight: int) -> None:
    """Give a tenant so many tasks in each round of a fair queue: 1 is what everybody has. Raises as `set_fair`."""
    with connect(url, name="taskrunner fairness") as connection:
        set_weight_by(connection, queue, tenant, weight)


def set_weight_by(connection: psycopg.Connection[Any], queue: str, tenant: str, weight: int) -> None:
    """Do what `set_weight` does by a connection that is open."""
    check_weight(queue, tenant, weight)
    run(connection, store.weigh(queue, tenant, weight))


def check_weight(queue: str, tenant: str, weight: int) -> None:
    """Raise `InvalidArgument` for what can be no tenant's weight in a queue."""
    check_name(queue)
    if not tenant:
        raise InvalidArgument("a tenant's name is not empty")
    if not 1 <= weight <= HEAVIEST:
        raise InvalidArgument(f"a weight is from 1 to {HEAVIEST}, not {weight}")


def check_name(queue: str) -> None:
    """Raise `InvalidArgument` for what cannot be a queue's name: nothing would ever be taken from it."""
    try:
        check_queue(queue)
    except RegistrationError as error:
        raise InvalidArgument(str(error)) from None
