"""`taskrunner schedules`: what ticks when; pause, resume, run, add and remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from taskrunner.cli.options import AsJson

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from taskrunner.settings import Settings
    from taskrunner.store.schedule import Known, Schedule
    from taskrunner.triggers import Trigger

app = typer.Typer(help="List, steer, add and remove schedules.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Tenant = Annotated[str, typer.Option(help="Whose schedule it is.")]


@app.command("list", epilog="Example: taskrunner schedules list")
def list_(as_json: AsJson = False) -> None:
    """List schedules, the next to tick first."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session

    with session() as opened:
        found, now, there = opened.run(reads.schedules()), opened.run(reads.now()), opened.run(reads.runners())
    emit(found, as_json, lambda: console.show_schedules(found, now, there))


@app.command("next", epilog="Example: taskrunner schedules next DailyReport --count 5")
def next_(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The schedule's name; without it, all.")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many of each; unset: 5 of one schedule, 1 of all.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose; unset: default's for a NAME, else everybody's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the next due times.

    They are in the schedule's own time zone and in UTC; of a paused one, those after a resume now. Without NAME, of all
    schedules that are not paused, the first one first.
    """
    from taskrunner import console
    from taskrunner.cli.session import emit, session
    from taskrunner.store import timetable

    with session() as opened:
        if name is None:
            _next_of_all(opened.run(timetable.listing(tenant)), count or 1, as_json)
            return
        found = opened.run(timetable.get(name, tenant or "default"))
    due = timetable.ahead(found, count or 5)
    emit(due, as_json, lambda: console.show_instants(due, found.timezone))


def _next_of_all(found: list[Schedule], count: int, as_json: bool) -> None:
    from taskrunner import console
    from taskrunner.cli.session import emit, talk
    from taskrunner.errors import TriggerInvalid
    from taskrunner.store import timetable

    ticks: list[tuple[datetime, Schedule]] = []
    for each in found:
        try:
            ticks += [] if each.paused else [(due, each) for due in timetable.ahead(each, count)]
        except TriggerInvalid as error:  # a newer release's: the others are shown all the same
            talk(f"{each.name}: {error}")
    ticks.sort(key=lambda tick: (tick[0], tick[1].name))
    rows = [{"name": one.name, "tenant": one.tenant, "timezone": one.timezone, "due_at": due} for due, one in ticks]
    emit(rows, as_json, lambda: console.show_upcoming([(one.name, one.timezone, due) for due, one in ticks]))


@app.command(epilog="Example: taskrunner schedules pause DailyReport")
def pause(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Let a schedule make no tasks."""
    from taskrunner.cli.session import session, tell
    from taskrunner.store import timetable

    with session() as opened:
        opened.run(timetable.pause(name, tenant))
    tell({"name": name, "paused": True}, as_json, f"schedule {name} is paused")


@app.command(epilog="Example: taskrunner schedules resume DailyReport")
def resume(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Let a paused schedule go on.

    It goes on with its first due time after now: what it would have made meanwhile is not made up for.
    """
    from taskrunner.cli.session import session, tell
    from taskrunner.store import timetable

    with session() as opened:
        due = opened.run(timetable.resume(name, tenant))
    words = "has ended" if due is None else f"goes on at {due:%Y-%m-%d %H:%M:%S} UTC"
    tell({"name": name, "paused": False, "next_tick_at": due}, as_json, f"schedule {name} {words}")


@app.command(epilog="Example: taskrunner schedules run DailyReport")
def run(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Add a task as the schedule would, now.

    Its ticks stay as they are. The task's id is printed.
    """
    from taskrunner.cli.session import session, tell
    from taskrunner.settings import load
    from taskrunner.store import timetable

    known = _known(load())
    with session() as opened:
        added = opened.run(timetable.run_now(name, known, tenant))
    text = str(added.id) if added.created else f"{added.id} is live already and has the same key"
    tell({"id": added.id, "created": added.created}, as_json, text)


@app.command(epilog="""Example: taskrunner schedules add nightly DailyReport "0 3 * * *" --timezone Europe/Warsaw""")
def add(
    name: Name,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The task type's name.")],
    frequency: Annotated[str, typer.Argument(help="Seconds, a duration as in 5m, or a crontab.")],
    payload: Annotated[str, typer.Option(help="The tasks' fields as a JSON object.")] = "{}",
    timezone: Annotated[str, typer.Option(help="The zone that a crontab is read in.")] = "UTC",
    tenant: Tenant = "default",
    key: Annotated[str | None, typer.Option(help="At most one live task of the type has this key.")] = None,
    start: Annotated[str | None, typer.Option(help="Not before this ISO time.")] = None,
    end: Annotated[str | None, typer.Option(help="Not after this ISO time.")] = None,
    catch_up: Annotated[str, typer.Option(help="What becomes of missed ticks: latest, all or skip.")] = "latest",
    jitter: Annotated[str | None, typer.Option(help="Delay each tick by up to this: 30, 5m.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a schedule at run time.

    It ticks while a scheduler runs that knows the task type.
    """
    from taskrunner.cli.options import duration, instant
    from taskrunner.cli.session import session, tell
    from taskrunner.errors import InvalidArgument
    from taskrunner.settings import load
    from taskrunner.store import timetable

    if catch_up not in ("latest", "all", "skip"):
        raise InvalidArgument(f"--catch-up must be latest, all or skip, not {catch_up!r}")
    known = _known(load())
    new = timetable.NewSchedule(
        name,
        type_,
        _trigger(frequency, timezone),
        payload,
        tenant,
        key,
        start_at=instant(start, "--start"),
        end_at=instant(end, "--end"),
        catch_up=catch_up,
        jitter=duration(jitter, "--jitter"),
    )
    with session() as opened:
        made = opened.run(timetable.add(new, known))
    values = {"name": made.name, "next_tick_at": made.next_tick_at}
    tell(values, as_json, f"schedule {name} ticks first at {made.next_tick_at:%Y-%m-%d %H:%M:%S} UTC")


@app.command(epilog="Example: taskrunner schedules remove nightly --yes")
def remove(
    name: Name,
    tenant: Tenant = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a schedule.

    It must have been added at run time, or its code be gone. Tasks that it has made stay.
    """
    from taskrunner.cli.session import confirm, session, tell
    from taskrunner.store import timetable

    confirm(f"Remove the schedule {name}?", yes=yes)
    with session() as opened:
        opened.run(timetable.remove(name, tenant))
    tell({"name": name, "outcome": "removed"}, as_json, f"schedule {name} removed")


def _known(settings: Settings) -> Known:
    from taskrunner.declared import known
    from taskrunner.registry import discover

    return known(discover(settings.project, settings.tasks))


def _trigger(frequency: str, timezone: str) -> Trigger:
    """Read a crontab, or a duration as an interval. Raises: `InvalidArgument`, since here it comes from a person."""
    from taskrunner.errors import InvalidArgument, TriggerInvalid
    from taskrunner.settings import parse_duration
    from taskrunner.triggers import parse

    rule: str | timedelta
    try:
        rule = parse_duration(frequency)
    except ValueError:
        rule = frequency
    try:
        return parse(rule, timezone=timezone)
    except TriggerInvalid as error:
        raise InvalidArgument(str(error)) from None
