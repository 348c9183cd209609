"""`/audit`: who did what.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from taskrunner import reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.routes.describe import example, refusals
from taskrunner.api.routes.listing import link_next
from taskrunner.api.steering import AuditList, AuditQuery

router = APIRouter(prefix="/audit", tags=["audit"], responses=refusals(422, 503))

EXAMPLE_ENTRY = {
    "id": 7,
    "acted_at": "2026-03-01T08:12:00Z",
    "tenant": "default",
    "actor": "api:ada",
    "action": "task.cancel",
    "target": "0197c5e0-8a31-7c4e-9f0a-6d1f2b3c4d5e",
    "details": {"outcome": "cancelled"},
}


@router.get("", operation_id="list_audit", responses=example({"entries": [EXAMPLE_ENTRY], "next": None}))
async def list_(
    wanted: Annotated[AuditQuery, Query()], door: OpenDoor, request: Request, response: Response
) -> AuditList:
    """List what people did by the API, the dashboard and the command line, the newest first, a page at a time.

    `action` is one action, or all that begin with `task`, `flow`, `dead`, `queue`, `schedule`, `tenant`.
    """
    page = await door.run(lambda: reads.audit_trail(wanted))
    link_next(request, response, page.next)
    return AuditList(entries=page.items, next=page.next)
