"""`/ui/audit`: who did what to which thing."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from taskrunner import reads
from taskrunner.api.door import door_of
from taskrunner.api.ui.frame import page
from taskrunner.errors import InvalidArgument
from taskrunner.reads import AuditEntry, AuditFilter

FILTERS = ("actor", "action", "target", "tenant")


async def audit(request: Request) -> Response:
    """Return the page."""
    door = door_of(request)
    given = {name: value for name, value in request.query_params.items() if name in (*FILTERS, "after") and value}
    try:
        wanted = AuditFilter.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidArgument(f"{problem['loc'][0]}: {problem['msg']}") from None
    found = await door.run(lambda: reads.audit_trail(wanted))
    first = {name: value for name, value in given.items() if name != "after"}
    return page(
        request, "audit.html", title="Audit", now=await door.run(reads.now), entries=found.items, given=given,
        filters=FILTERS, link=link, first=f"/ui/audit?{urlencode(first)}" if "after" in given else "",
        next=f"/ui/audit?{urlencode({**first, 'after': found.next})}" if found.next is not None else "",
    )  # fmt: skip


def link(entry: AuditEntry) -> str:
    """Return where the thing is shown that something was done to; an empty text when it has no page."""
    kind = entry.action.partition(".")[0]
    query: dict[str, Any] = {"name": entry.target, "tenant": entry.tenant}
    if kind in ("task", "flow", "dead"):
        return f"/ui/tasks/{entry.target}" if _is_id(entry.target) else ""
    return {"schedule": f"/ui/schedules/show?{urlencode(query)}", "queue": "/ui/queues"}.get(kind, "")


def _is_id(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


ROUTES = (("/ui/audit", audit),)
