"""Work that waits for the end of a running task of the same key: it comes when that ends, whatever the end."""

from __future__ import annotations

from collections.abc import Sequence

from taskrunner.db import Op, Steps
from taskrunner.statements import successor as sql
from taskrunner.store.task import Due, dues


def take_over(successions: Sequence[str]) -> Steps[list[Due]]:
    """Insert the successors of tasks that have just left the table; each text is the whole row that left, as JSON.

    Returns what is pending by it. A part of the transaction that ended the tasks: the unique key is free here.
    """
    if not successions:
        return []
    come: list[Due] = yield Op(sql.COME, {"rows": list(successions)}, dues)
    return come
