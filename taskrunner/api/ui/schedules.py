"""`/ui/schedules`: what ticks when, and one schedule with its coming ticks; pause, resume, run now, remove."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import actions, reads
from taskrunner.api.door import Door, door_of
from taskrunner.api.ui.frame import page
from taskrunner.api.ui.questions import Question, named, settle
from taskrunner.api.ui.ticks import Tick, local, ticks
from taskrunner.db import Steps
from taskrunner.errors import NotFound, TriggerInvalid
from taskrunner.reads import AuditEntry, Schedule
from taskrunner.schedules import Planner
from taskrunner.store import timetable

AHEAD = 10
LATE = timedelta(seconds=30)
"""How late a tick is at least before it counts as missing: a scheduler looks every second or two."""


def planner_of(request: Request) -> Planner:
    """Return what makes work of wishes, with the types that this process knows."""
    planner: Planner = request.app.state.planner
    return planner


async def schedules(request: Request) -> Response:
    """Return the page."""
    door = door_of(request)
    tenant, after = (request.query_params.get(name) or None for name in ("tenant", "after"))
    found = await door.run(lambda: reads.schedule_page(tenant, after=after))
    now = await door.run(reads.now)
    return page(
        request, "schedules.html", title="Schedules", now=now, schedules=found.items, local=local, state=state,
        link=link, first=_list(tenant) if after else "", next=_list(tenant, found.next) if found.next else "",
    )  # fmt: skip


def _list(tenant: str | None, after: str | None = None) -> str:
    given = {name: value for name, value in (("tenant", tenant), ("after", after)) if value}
    return "/ui/schedules" + (f"?{urlencode(given)}" if given else "")


async def show(request: Request) -> Response:
    """Return the page of one schedule."""
    door, (name, tenant) = door_of(request), which(request)
    schedule = await one(door, name, tenant)
    now = await door.run(reads.now)
    coming, trouble = await _coming(door, schedule)
    entries: list[AuditEntry] = await door.run(lambda: reads.audit_of(name))
    return page(
        request, "schedule.html", title=name, now=now, schedule=schedule, ticks=coming, trouble=trouble, local=local,
        state=state, link=link, entries=[entry for entry in entries if entry.action.startswith("schedule.")],
    )  # fmt: skip


async def one(door: Door, name: str, tenant: str) -> Schedule:
    """Return a schedule. Raises: `NotFound`."""
    schedule = await door.run(lambda: reads.schedule_named(name, tenant))
    if schedule is None:
        raise NotFound(f"no schedule {name!r} of tenant {tenant!r}")
    return schedule


async def _coming(door: Door, schedule: Schedule) -> tuple[list[Tick], str]:
    """Return the coming ticks, or why they cannot be said."""

    def look() -> Steps[list[datetime]]:
        return timetable.ahead((yield from timetable.get(schedule.name, schedule.tenant)), AHEAD)

    try:
        return ticks(await door.run(look), schedule.timezone, schedule.last_tick_at), ""
    except TriggerInvalid as error:  # a newer release's
        return [], str(error)


async def pause(request: Request) -> Response:
    """Ask, and pause a schedule."""
    name, tenant = which(request)
    return await settle(request, Question(
        actions.pause_schedule(planner_of(request), name, tenant), f"Pause the schedule {name}?",
        "It makes no tasks until it is resumed. What it would have made meanwhile is not made up for.",
        "Pause", lambda _: f"Schedule {name} is paused.",
    ))  # fmt: skip


async def resume(request: Request) -> Response:
    """Ask, and resume a schedule."""
    name, tenant = which(request)
    return await settle(request, Question(
        actions.resume_schedule(planner_of(request), name, tenant), f"Resume the schedule {name}?",
        "It goes on with its first due time after now.", "Resume", lambda _: f"Schedule {name} goes on.",
    ))  # fmt: skip


async def run(request: Request) -> Response:
    """Ask, and add a task as the schedule would."""
    name, tenant = which(request)
    return await settle(request, Question(
        actions.run_schedule(planner_of(request), name, tenant), f"Run {name} now?",
        "One task is added as the schedule would, beside its ticks, which stay as they are.", "Run now",
        lambda added: f"Task {added.id} is {'added' if added.created else 'live, and has the same key'}.",
    ))  # fmt: skip


async def remove(request: Request) -> Response:
    """Ask, and remove a schedule."""
    name, tenant = which(request)
    return await settle(request, Question(
        actions.remove_schedule(planner_of(request), name, tenant), f"Remove the schedule {name}?",
        "It ticks no more. Tasks that it has made stay.", "Remove", lambda _: f"Schedule {name} is removed.",
        danger=True, back="/ui/schedules",
    ))  # fmt: skip


def which(request: Request) -> tuple[str, str]:
    """Return the name and the tenant that the address says."""
    return named(request, "name"), named(request, "tenant", "default")


def link(what: str, schedule: Schedule) -> str:
    """Return an address of a schedule: what to do with it, or `show`."""
    return f"/ui/schedules/{what}?{urlencode({'name': schedule.name, 'tenant': schedule.tenant})}"


def state(schedule: Schedule, now: datetime) -> tuple[str, str, str]:
    """Return a badge's kind, its word, and what it means."""
    due = schedule.next_tick_at
    if schedule.paused:
        return "paused", "paused", "It makes no tasks until it is resumed."
    if schedule.ended or due is None:
        return "", "ended", "It has no tick to come."
    if schedule.orphaned:
        return "error", "orphaned", f"No live process knows {schedule.type}: it does not tick."
    if schedule.last_error:
        return "error", "failing", schedule.last_error
    if due < now - LATE:
        return "warning", "late", "A tick is due and no scheduler has taken it."
    return "ok", "on time", ""


ROUTES = (("/ui/schedules", schedules), ("/ui/schedules/show", show))
FORMS = (
    ("/ui/schedules/pause", pause),
    ("/ui/schedules/resume", resume),
    ("/ui/schedules/run", run),
    ("/ui/schedules/remove", remove),
)
