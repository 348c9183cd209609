"""`/ui/system`: what the doctor finds, the versions, the tables, and the settings with where each comes from."""

from __future__ import annotations

import platform

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import reads, schema
from taskrunner.api.consultation import Consultation
from taskrunner.api.door import door_of
from taskrunner.api.kept import kept
from taskrunner.api.ui.frame import page
from taskrunner.settings import explain

UNITS = ("B", "kB", "MB", "GB", "TB")


async def system(request: Request) -> Response:
    """Return the page; `?fresh=1` has it examined anew."""
    door = door_of(request)
    doctor: Consultation = request.app.state.doctor
    report = await doctor.report(fresh="fresh" in request.query_params)
    return page(
        request, "system.html", title="System", now=await door.run(reads.now), report=report, size=size,
        server=await kept(request, "server", lambda: door.run(reads.server)),
        tables=await kept(request, "tables", lambda: door.run(reads.table_sizes)),
        revision=await door.run(lambda: schema.CURRENT), head=schema.head(), python=platform.python_version(),
        settings=explain(request.app.state.settings),
    )  # fmt: skip


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in UNITS[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {UNITS[-1]}"


ROUTES = (("/ui/system", system),)
