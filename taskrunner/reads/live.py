"""One look at the live tasks, from which both the types' and the queues' figures are made."""

from __future__ import annotations

from typing import NamedTuple

from taskrunner.db import Op
from taskrunner.statements import reads as sql


class Waiting(NamedTuple):
    """The live tasks of one type in one queue; `pending` includes `due` and `retrying`."""

    type: str
    queue: str
    pending: int
    due: int
    running: int
    blocked: int
    retrying: int
    oldest_due_seconds: float | None


def waiting(tenant: str | None = None) -> Op[list[Waiting]]:
    """Count the live tasks by type and queue; of all tenants, or of one."""
    return Op(sql.WAITING, {"tenant": tenant}, lambda rows: [Waiting(*row) for row in rows])


def longest(first: float | None, second: float | None) -> float | None:
    """Return the longer of two waits, either of which may not be."""
    return max((wait for wait in (first, second) if wait is not None), default=None)
