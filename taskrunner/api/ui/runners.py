"""`/ui/runners`: every process with its load, its lease, and what it runs now."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import reads
from taskrunner.api.door import door_of
from taskrunner.api.ui.frame import page

EACH = 10
"""Tasks that are named of each runner."""


async def runners(request: Request) -> Response:
    """Return the page."""
    door = door_of(request)
    found = await door.run(reads.runners)
    return page(
        request, "runners.html", title="Runners", now=await door.run(reads.now), runners=found, each=EACH,
        at_work=await door.run(lambda: reads.at_work(EACH)),
    )  # fmt: skip


ROUTES = (("/ui/runners", runners),)
