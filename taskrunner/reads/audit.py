"""The audit trail as people see it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from taskrunner.db import Op, Row
from taskrunner.statements import audit as sql

ROOM = 50_000
"""Rows that a page looks at, at most: see docs/decisions/016."""


class AuditEntry(BaseModel):
    """One thing that somebody did: `action` is as in `task.cancel`, `target` an id or a name."""

    id: int
    acted_at: datetime
    tenant: str
    actor: str
    action: str
    target: str
    details: dict[str, Any]


class AuditFilter(BaseModel):
    """Which entries to list: what is None does not matter; an action `task` is all of them that begin with `task.`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    tenant: str | None = None
    since: AwareDatetime | None = Field(None, description="Only what was done at this instant or later.")
    limit: int = Field(50, ge=1, le=1000)
    after: int | None = Field(None, ge=0, lt=2**63, description="The `next` of the page before.")


class AuditPage(BaseModel):
    """Some entries, the newest first; `next` is the `after` of the next page, and None on the last.

    A page may be short, or empty, with more behind it: go on while `next` is not None.
    """

    items: list[AuditEntry]
    next: int | None = None


def audit_trail(wanted: AuditFilter, room: int = ROOM) -> Op[AuditPage]:
    """Return a page of the trail, the newest first; it looks at `room` entries at most."""
    return Op(sql.LIST, {**dict(wanted), "room": room}, _page)


def audit_of(target: str, limit: int = 20) -> Op[list[AuditEntry]]:
    """Return what was done last to one thing, the newest first."""
    return Op(sql.OF_TARGET, {"target": target, "limit": limit}, _entries)


def _page(rows: Sequence[Row]) -> AuditPage:
    return AuditPage(items=_entries([row[:-1] for row in rows if row[0] is not None]), next=rows[0][-1])


def _entries(rows: Sequence[Row]) -> list[AuditEntry]:
    return [AuditEntry(**dict(zip(AuditEntry.model_fields, row, strict=True))) for row in rows]
