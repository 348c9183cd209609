"""`/ui/dead`: dead letters by what they died of, and those of one such group."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskrunner import reads
from taskrunner.api.door import door_of
from taskrunner.api.ui.act import ask_about, asked_about
from taskrunner.api.ui.frame import local, page
from taskrunner.reads import DeadGroup, DeadGroups, TaskFilter
from taskrunner.reads.views import MOST_IDS

ROWS = 100
"""Dead letters of a group that are on the page."""


def install(app: FastAPI) -> None:
    """Serve the page."""
    app.add_route("/ui/dead", dead, include_in_schema=False)
    app.add_route("/ui/dead/{verb}", ask_group, include_in_schema=False)


async def dead(request: Request) -> Response:
    """Show the groups, or with `type` and `error` the dead letters of one."""
    type_, error = request.query_params.get("type"), request.query_params.get("error")
    door = door_of(request)
    found: DeadGroups = await door.run(lambda: reads.dead_groups(type_))
    now = await door.run(reads.now)
    chosen = None if error is None else next((one for one in found.groups if one.error == error), None)
    letters = []
    if chosen is not None:
        wanted = TaskFilter(ids=tuple(chosen.ids[:ROWS]), limit=ROWS)
        letters = (await door.run(lambda: reads.dead_letters(wanted, brief=True))).items
    return page(
        request,
        "dead.html",
        title="Dead letters",
        now=now,
        found=found,
        type=type_,
        error=error,
        chosen=chosen,
        letters=letters,
        rows=ROWS,
        most=MOST_IDS,
        group_url=group_url,
        act_url=act_url,
    )


async def ask_group(request: Request) -> Response:
    """Ask before something is done with all dead letters of a group."""
    type_, error = request.query_params.get("type"), request.query_params.get("error")
    found: DeadGroups = await door_of(request).run(lambda: reads.dead_groups(type_))
    chosen = next((one for one in found.groups if one.type == type_ and one.error == error), None)
    if chosen is None:
        raise HTTPException(404, "no dead letter has this error any more")
    back = local(request.query_params.get("back"))
    return await ask_about(request, asked_about(request.path_params["verb"], chosen.ids[:MOST_IDS], back))


def group_url(group: DeadGroup) -> str:
    """Return the address of a group."""
    return "/ui/dead?" + urlencode({"type": group.type, "error": group.error})


def act_url(verb: str, group: DeadGroup, back: str) -> str:
    """Return the address that asks before something is done to a group."""
    return f"/ui/dead/{verb}?" + urlencode({"type": group.type, "error": group.error, "back": back})
