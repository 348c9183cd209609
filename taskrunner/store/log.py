"""The log lines of tasks: how they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from taskrunner.db import Op, nothing
from taskrunner.statements import log as sql


class Line(NamedTuple):
    """A line that a task has written, so many seconds ago; its texts are such as PostgreSQL takes."""

    task_id: UUID
    tenant: str
    claim_no: int
    age: float
    level: str
    message: str


def keep(lines: Sequence[Line]) -> Op[None]:
    """Store the lines, in their order."""
    params = {
        "task_ids": [line.task_id for line in lines],
        "tenants": [line.tenant for line in lines],
        "claim_nos": [line.claim_no for line in lines],
        "ages": [line.age for line in lines],
        "levels": [line.level for line in lines],
        "messages": [line.message for line in lines],
    }
    return Op(sql.KEEP, params, nothing)
