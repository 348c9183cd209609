"""Work that waits for the end of a running task of the same key: it comes when that ends, whatever the end."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.statements import successor as sql
from taskrunner.store.task import Due, dues


def withdraw(id_: UUID) -> Op[list[Row]]:
    """Take a successor back before it has come; returns its id, tenant, queue and type if there is such a one."""
    return Op(sql.WITHDRAW, {"id": id_}, list)


def taken_over_by(id_: UUID) -> Op[UUID | None]:
    """Return the task behind which a successor of this id has waited; None if there was none."""
    return Op(sql.FOLLOW, {"id": id_}, scalar)


def take_over(successions: Sequence[str]) -> Steps[list[Due]]:
    """Insert the successors of tasks that have just left the table; each text is the whole row that left, as JSON.

    Returns what is pending by it. A part of the transaction that ended the tasks: the unique key is free here.
    """
    if not successions:
        return []
    come: list[Due] = yield Op(sql.COME, {"rows": list(successions)}, dues)
    return come
