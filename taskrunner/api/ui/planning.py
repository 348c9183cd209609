"""`/ui/schedules/new` and `/change`: the form of a schedule, with a look at its ticks before it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import actions, reads
from taskrunner.api.door import door_of
from taskrunner.api.ui.frame import check_writes, did, do, form_of, page
from taskrunner.api.ui.questions import address
from taskrunner.api.ui.schedules import AHEAD, link, one, planner_of, which
from taskrunner.api.ui.ticks import Tick, ticks
from taskrunner.api.ui.words import pretty
from taskrunner.errors import Conflict, InvalidArgument, NotFound, UnknownType
from taskrunner.reads import Schedule
from taskrunner.settings import parse_duration
from taskrunner.settings.values import format_duration
from taskrunner.store import timetable
from taskrunner.wishes import Changes, Rule, ruled

CATCH_UP = ("latest", "all", "skip")
_REFUSALS = (InvalidArgument, UnknownType, NotFound, Conflict)

Form = Mapping[str, str]


async def new(request: Request) -> Response:
    """Show the form, look ahead, or add a schedule."""
    check_writes(request)
    if request.method != "POST":
        return await _form(request, "A new schedule", {"timezone": "UTC", "catch_up": "latest"})
    form = await _given(request)
    try:
        wishes = _wishes(form, {})
        name, tenant = form.get("name", ""), form.get("tenant") or "default"
        if "frequency" not in wishes:
            raise InvalidArgument("when? give a duration as in 5m, or a crontab as in 0 3 * * *")
        if "look" in form:
            return await _form(request, "A new schedule", form, coming=await _forecast(request, wishes))
        action = actions.add_schedule(planner_of(request), name, wishes, tenant)
        made = await do(request, action)
    except _REFUSALS as error:
        return await _form(request, "A new schedule", form, trouble=str(error), status=422)
    return await did(request, f"Schedule {name} is added.", command=action.command, back=link("show", made))


async def change(request: Request) -> Response:
    """Show the form as the schedule is, look ahead, or change what differs."""
    check_writes(request)
    name, tenant = which(request)
    schedule = await one(door_of(request), name, tenant)
    before, title = _as_form(schedule), f"Change {name}"
    if request.method != "POST":
        return await _form(request, title, before, schedule=schedule)
    form = await _given(request)
    try:
        wishes = _wishes(form, before)
        if "look" in form:
            return await _form(request, title, form, schedule=schedule, coming=await _forecast(request, wishes))
        action = actions.change_schedule(planner_of(request), name, wishes, tenant)
        await do(request, action)
    except _REFUSALS as error:
        return await _form(request, title, form, schedule=schedule, trouble=str(error), status=422)
    return await did(request, f"Schedule {name} is changed.", command=action.command, back=link("show", schedule))


async def _form(
    request: Request,
    title: str,
    form: Form,
    *,
    schedule: Schedule | None = None,
    coming: list[Tick] | None = None,
    trouble: str = "",
    status: int = 200,
) -> Response:
    door = door_of(request)
    types = sorted({name for runner in await door.run(reads.runners) if runner.alive for name in runner.types})
    return page(
        request, "schedule_form.html", status=status, title=title, form=form, schedule=schedule, ticks=coming,
        trouble=trouble, types=types, catch_up=CATCH_UP, address=address(request), now=await door.run(reads.now),
        back=link("show", schedule) if schedule else "/ui/schedules",
    )  # fmt: skip


async def _given(request: Request) -> dict[str, str]:
    return {name: values[0].replace("\r\n", "\n").strip() for name, values in (await form_of(request)).items()}


async def _forecast(request: Request, wishes: Changes) -> list[Tick]:
    if "frequency" not in wishes:
        raise InvalidArgument("a new rule is needed to look ahead: the page of the schedule shows its own ticks")
    zone = wishes.get("timezone", "UTC")
    rule = Rule(timezone=zone, start_at=wishes.get("start_at"), end_at=wishes.get("end_at"))
    planned, now = ruled(wishes["frequency"], rule), await door_of(request).run(reads.now)
    return ticks(timetable.forecast(planned, now, AHEAD), planned.trigger.timezone, now)


def _wishes(form: Form, before: Form) -> Changes:
    """Return what differs from before; an empty field takes its value away. Raises: `InvalidArgument`."""
    wishes: dict[str, Any] = {}
    if form.get("frequency"):
        wishes["frequency"] = [_frequency(line.strip()) for line in form["frequency"].split("\n") if line.strip()]
    changed = {name: form.get(name, "") for name in _FIELDS if form.get(name, "") != before.get(name, "")}
    for name, text in changed.items():
        wishes[name] = _value(name, text) if text else None
    if "frequency" in wishes and form.get("timezone"):  # a crontab is read in it, changed or not
        wishes["timezone"] = form["timezone"]
    for name in ("task", "timezone", "catch_up"):  # these cannot be taken away
        if name in wishes and wishes[name] is None:
            del wishes[name]
    if not before and not wishes.get("task"):
        raise InvalidArgument("of which task type? give its name")
    return cast("Changes", wishes)


_FIELDS = ("task", "timezone", "key", "catch_up", "queue", "payload", "priority", "jitter", "start_at", "end_at")


def _value(name: str, text: str) -> Any:
    try:
        if name == "priority":
            return int(text)
        if name == "jitter":
            return parse_duration(text)
        if name in ("start_at", "end_at"):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{name.replace('_', ' ')} cannot be read: {text!r}") from None
    return text


def _frequency(word: str) -> Any:
    try:
        return parse_duration(word)
    except ValueError:
        return word


def _as_form(schedule: Schedule) -> dict[str, str]:
    """Return a schedule as its form shows it; the rule stays unless a new one is given."""
    return {
        "task": schedule.type,
        "timezone": schedule.timezone,
        "key": schedule.key or "",
        "catch_up": schedule.catch_up,
        "queue": schedule.queue or "",
        "priority": "" if schedule.priority is None else str(schedule.priority),
        "payload": pretty(schedule.payload) if schedule.payload else "",
        "jitter": format_duration(schedule.jitter) if schedule.jitter else "",
        "start_at": _minute(schedule.start_at),
        "end_at": _minute(schedule.end_at),
    }


def _minute(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M}"


FORMS = (("/ui/schedules/new", new), ("/ui/schedules/change", change))
