"""`/schedules`: list, show, preview, add, change, pause, resume, run, remove.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from typing import Annotated, Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from taskrunner import actions, reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.models import Added
from taskrunner.api.routes.describe import refusals
from taskrunner.api.routes.listing import link_next
from taskrunner.api.routes.tasks import JSON_ONLY
from taskrunner.api.security import Actor
from taskrunner.api.steering import (
    EXAMPLE_SCHEDULE,
    AddSchedule,
    ChangeSchedule,
    Preview,
    ScheduleList,
    ScheduleQuery,
    Ticks,
    frequency,
)
from taskrunner.reads import Schedule
from taskrunner.reads.views import Text
from taskrunner.schedules import Planner
from taskrunner.store import timetable
from taskrunner.wishes import Rule, ruled

router = APIRouter(prefix="/schedules", tags=["schedules"], responses=refusals(422, 503))
preview_router = APIRouter(tags=["schedules"], responses=refusals(422, 503))

Name = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00/]*$", examples=["nightly"])]
Tenant = Annotated[Text, Query(min_length=1, max_length=200, description="Whose schedule it is.")]
EXAMPLE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": EXAMPLE_SCHEDULE}}}}
EXAMPLES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": {"schedules": [EXAMPLE_SCHEDULE], "next": None}}}}
}


def planner_of(request: Request) -> Planner:
    """Return what makes work of wishes, with the types that this process knows."""
    planner: Planner = request.app.state.planner
    return planner


Plans = Annotated[Planner, Depends(planner_of)]


@router.get("", operation_id="list_schedules", responses=EXAMPLES)
async def list_(
    wanted: Annotated[ScheduleQuery, Query()], door: OpenDoor, request: Request, response: Response
) -> ScheduleList:
    """List schedules, a page at a time, the next to tick first on each.

    The pages go by tenant and name, so that they do not shift while schedules tick.
    """
    page = await door.run(lambda: reads.schedule_page(wanted.tenant, after=wanted.after, limit=wanted.limit))
    link_next(request, response, page.next)
    return ScheduleList(schedules=page.items, next=page.next)


@preview_router.get("/schedule-preview", operation_id="preview_schedule")
async def preview(wanted: Annotated[Preview, Query()], door: OpenDoor) -> Ticks:
    """Show the first ticks of a schedule that is not stored."""
    rule = Rule(timezone=wanted.timezone, start_at=wanted.start_at, end_at=wanted.end_at)
    new = ruled([frequency(word) for word in wanted.frequency], rule)
    begin = wanted.since
    if begin is None:
        begin = await door.run(reads.now)
    return _ticks(timetable.forecast(new, begin, wanted.count), new.trigger.timezone)


@router.post(
    "",
    status_code=201,
    operation_id="add_schedule",
    dependencies=[JSON_ONLY],
    responses={201: EXAMPLE[200], **refusals(400, 403, 409, 413, 415)},
)
async def add(
    order: AddSchedule, door: OpenDoor, plans: Plans, actor: Actor, response: Response, tenant: Tenant = "default"
) -> Schedule:
    """Add a schedule, which ticks while a scheduler runs that knows its task type; its first tick may be at once."""
    made = await door.act(actions.add_schedule(plans, order.name, order.wishes, tenant, overwrite=order.replace), actor)
    whose = "" if tenant == "default" else "?" + urlencode({"tenant": tenant})
    response.headers["Location"] = f"/schedules/{quote(made.name, safe='')}{whose}"
    return made


@router.get("/{name}", operation_id="show_schedule", responses={**EXAMPLE, **refusals(404)})
async def show(name: Name, door: OpenDoor, plans: Plans, tenant: Tenant = "default") -> Schedule:
    """Show one schedule."""
    return await door.run(plans.get(name, tenant).make)


@router.get("/{name}/next", operation_id="next_ticks", responses=refusals(404))
async def next_(
    name: Name, door: OpenDoor, tenant: Tenant = "default", count: Annotated[int, Query(ge=1, le=1000)] = 5
) -> Ticks:
    """Show its next ticks; of a paused one, those after a resume now."""
    found = await door.run(lambda: timetable.get(name, tenant))
    return _ticks(timetable.ahead(found, count), found.timezone)


@router.patch(
    "/{name}",
    operation_id="change_schedule",
    dependencies=[JSON_ONLY],
    responses={**EXAMPLE, **refusals(400, 403, 404, 409, 413, 415)},
)
async def change(
    name: Name, wanted: ChangeSchedule, door: OpenDoor, plans: Plans, actor: Actor, tenant: Tenant = "default"
) -> Schedule:
    """Change what is given of a schedule that was added at run time; where rule and start stay, so do its ticks."""
    return await door.act(actions.change_schedule(plans, name, wanted.wishes, tenant), actor)


@router.delete("/{name}", status_code=204, operation_id="remove_schedule", responses=refusals(403, 404, 409))
async def remove(name: Name, door: OpenDoor, plans: Plans, actor: Actor, tenant: Tenant = "default") -> None:
    """Remove a schedule that was added at run time, or whose code is gone; tasks that it has made stay."""
    await door.act(actions.remove_schedule(plans, name, tenant), actor)


@router.post("/{name}/pause", operation_id="pause_schedule", responses={**EXAMPLE, **refusals(403, 404)})
async def pause(name: Name, door: OpenDoor, plans: Plans, actor: Actor, tenant: Tenant = "default") -> Schedule:
    """Let it make no tasks until it is resumed."""
    return await door.act(actions.pause_schedule(plans, name, tenant), actor)


@router.post("/{name}/resume", operation_id="resume_schedule", responses={**EXAMPLE, **refusals(403, 404)})
async def resume(name: Name, door: OpenDoor, plans: Plans, actor: Actor, tenant: Tenant = "default") -> Schedule:
    """Let it go on with its first tick after now; what it missed is not made up for."""
    return await door.act(actions.resume_schedule(plans, name, tenant), actor)


@router.post("/{name}/run", status_code=201, operation_id="run_schedule", responses=refusals(403, 404, 409))
async def run(
    name: Name, door: OpenDoor, plans: Plans, actor: Actor, response: Response, tenant: Tenant = "default"
) -> Added:
    """Add one task as it would, beside its ticks; a live task of the same key answers instead."""
    added = await door.act(actions.run_schedule(plans, name, tenant), actor)
    response.headers["Location"] = f"/tasks/{added.id}"
    return Added(id=added.id, created=added.created)


def _ticks(due: list[Any], timezone: str) -> Ticks:
    zone = ZoneInfo(timezone)
    return Ticks(ticks=due, local=[each.astimezone(zone).isoformat() for each in due])
