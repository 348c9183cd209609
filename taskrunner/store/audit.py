"""The audit trail: who did what to which thing, stored with what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from taskrunner.db import Op, column, scalar
from taskrunner.statements import audit as sql

LONGEST = 200
"""Characters of an actor's name that are kept."""


def whose(id_: UUID) -> Op[str | None]:
    """Return the tenant of a task that is live or dead; None of any other."""
    return Op(sql.WHOSE, {"id": id_}, scalar)


def record(
    actor: str, action: str, target: str, *, details: Mapping[str, Any], request: UUID, tenant: str | None
) -> Op[list[int]]:
    """Note that `actor` did it; without a tenant, in the name of the one that the transaction is bound to.

    The same `request` is noted once.
    """
    params = {
        "actor": actor.replace("\0", "\N{REPLACEMENT CHARACTER}")[:LONGEST],
        "action": action,
        "target": target,
        "details": json.dumps({**details, "request": str(request)}, default=str),
        "tenant": tenant,
    }
    return Op(sql.RECORD, params, column)
