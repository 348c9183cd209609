"""`taskrunner schedules`: what ticks when; add, change, pause, resume, run and remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskrunner.cli.options import AsJson, Limit, duration, instant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from taskrunner.actions import Action
    from taskrunner.reads import Schedule as View
    from taskrunner.schedules import Planner
    from taskrunner.store.schedule import Schedule
    from taskrunner.wishes import Changes

app = typer.Typer(
    help="List, preview, add, change, steer and remove schedules.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Tenant = Annotated[str, typer.Option(help="Whose schedule it is.")]
What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PAYLOAD|FREQUENCY",
        help="A JSON object, or when: 30, 5m, a crontab. Of several, whenever one of them is due.",
    ),
]
Frequencies = Annotated[
    list[str], typer.Argument(metavar="FREQUENCY", help="Seconds, a duration as in 5m, or a crontab.")
]
Every = Annotated[list[str] | None, typer.Option(metavar="DURATION", help="So often: 30, 5m, 2h. May be repeated.")]
Cron = Annotated[list[str] | None, typer.Option(metavar="CRONTAB", help='As in "0 3 * * *". May be repeated.')]
Zone = Annotated[str | None, typer.Option(help="The zone that a crontab is read in.", show_default="UTC")]
Key = Annotated[str | None, typer.Option(help="At most one live task of the type has this key.")]
Start = Annotated[str | None, typer.Option(help="Not before this ISO time.")]
End = Annotated[str | None, typer.Option(help="Not after this ISO time.")]
CatchUp = Annotated[
    str | None, typer.Option(help="What becomes of missed ticks: latest, all or skip.", show_default="latest")
]
Jitter = Annotated[str | None, typer.Option(help="Let each task mature up to this later: 30, 5m.")]
Queue = Annotated[str | None, typer.Option(help="Another queue than the type's.")]
Priority = Annotated[int | None, typer.Option(help="Larger is more urgent.", show_default="the type's")]


@app.command("list", epilog="Example: taskrunner schedules list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Go on after this place, which the page before has told.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List schedules, the next to tick first.

    Where there are more than the limit, the pages go by tenant and name.
    """
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session, talk

    with session() as opened:
        page = opened.run(reads.schedule_page(tenant, after=after, limit=limit))
        now, there = opened.run(reads.now()), opened.run(reads.runners())
    emit(page.items, as_json, lambda: console.show_schedules(page.items, now, there))
    if page.next is not None:
        talk(f"there are more: --after {page.next}")


@app.command(epilog="Example: taskrunner schedules show DailyReport --json")
def show(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Show one schedule with all that is set of it."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session

    with session(tenant=tenant) as opened:
        found, now = opened.run(_planner().get(name, tenant).make()), opened.run(reads.now())
    emit(found, as_json, lambda: console.show_schedule(found, now))


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
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant) as opened:
        opened.act(actions.pause_schedule(_planner(), name, tenant))
    tell({"name": name, "paused": True}, as_json, f"schedule {name} is paused")


@app.command(epilog="Example: taskrunner schedules resume DailyReport")
def resume(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Let a paused schedule go on.

    It goes on with its first due time after now: what it would have made meanwhile is not made up for.
    """
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant) as opened:
        due = opened.act(actions.resume_schedule(_planner(), name, tenant)).next_tick_at
    words = "has ended" if due is None else f"goes on at {due:%Y-%m-%d %H:%M:%S} UTC"
    tell({"name": name, "paused": False, "next_tick_at": due}, as_json, f"schedule {name} {words}")


@app.command(epilog="Example: taskrunner schedules run DailyReport")
def run(name: Name, tenant: Tenant = "default", as_json: AsJson = False) -> None:
    """Add a task as the schedule would, now.

    Its ticks stay as they are. The task's id is printed.
    """
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    running = actions.run_schedule(_planner(discovered=True), name, tenant)
    with session(tenant=tenant) as opened:
        added = opened.act(running)
    text = str(added.id) if added.created else f"{added.id} is live already and has the same key"
    tell({"id": added.id, "created": added.created}, as_json, text)


@app.command(epilog="""Example: taskrunner schedules preview "30 2 * * *" --timezone Europe/Warsaw --count 5""")
def preview(
    frequencies: Frequencies,
    timezone: Zone = None,
    start: Start = None,
    end: End = None,
    after: Annotated[str | None, typer.Option("--from", help="As if added at this ISO time; unset: now.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Print the due times of a schedule that is not stored.

    They are in its time zone and in UTC. No database is asked: now is this machine's.
    """
    from datetime import UTC, datetime

    from taskrunner import console
    from taskrunner.cli.session import emit
    from taskrunner.store import timetable
    from taskrunner.wishes import Rule, ruled

    rule = Rule(timezone=timezone or "UTC", start_at=instant(start, "--start"), end_at=instant(end, "--end"))
    new = ruled([_frequency(word) for word in frequencies], rule)
    due = timetable.forecast(new, instant(after, "--from") or datetime.now(UTC), count)
    emit(due, as_json, lambda: console.show_instants(due, new.trigger.timezone))


@app.command(epilog="""Example: taskrunner schedules add nightly DailyReport "0 3 * * *" --timezone Europe/Warsaw""")
def add(
    name: Name,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The task type's name.")],
    what: What = None,
    payload: Annotated[str | None, typer.Option(help="The tasks' fields as a JSON object.")] = None,
    every: Every = None,
    cron: Cron = None,
    timezone: Zone = None,
    tenant: Tenant = "default",
    key: Key = None,
    start: Start = None,
    end: End = None,
    catch_up: CatchUp = None,
    jitter: Jitter = None,
    queue: Queue = None,
    priority: Priority = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make one of that name like this one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a schedule at run time.

    It ticks while a scheduler runs that knows the task type.
    """
    from taskrunner import actions
    from taskrunner.errors import InvalidArgument

    wishes = _wishes(
        what, payload, every, cron, task=type_, timezone=timezone, key=key, start_at=start, end_at=end,
        catch_up=catch_up, jitter=jitter, queue=queue, priority=priority,
    )  # fmt: skip
    if "frequency" not in wishes:
        raise InvalidArgument('when? give --every 5m, --cron "0 3 * * *", or several of them')
    made = _do(actions.add_schedule(_planner(discovered=True), name, wishes, tenant, overwrite=replace))
    _tell(
        made, as_json, f"schedule {name} ticks first at" if made.last_tick_at is None else f"schedule {name} goes on at"
    )


@app.command(epilog="""Example: taskrunner schedules change nightly --cron "0 4 * * *" --jitter 5m""")
def change(
    name: Name,
    what: What = None,
    type_: Annotated[str | None, typer.Option("--type", help="Another task type.")] = None,
    payload: Annotated[str | None, typer.Option(help="The tasks' fields as a JSON object.")] = None,
    every: Every = None,
    cron: Cron = None,
    timezone: Annotated[str | None, typer.Option(help="The zone that a crontab is read in.")] = None,
    tenant: Tenant = "default",
    key: Key = None,
    start: Start = None,
    end: End = None,
    catch_up: Annotated[str | None, typer.Option(help="What becomes of missed ticks: latest, all or skip.")] = None,
    jitter: Jitter = None,
    queue: Queue = None,
    priority: Annotated[int | None, typer.Option(help="Larger is more urgent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a schedule that was added at run time.

    An empty text takes a value away: --end "". Where rule and start stay, so do the coming ticks.
    """
    from taskrunner import actions

    wishes = _wishes(
        what, payload, every, cron, task=type_, timezone=timezone, key=key, start_at=start, end_at=end,
        catch_up=catch_up, jitter=jitter, queue=queue, priority=priority,
    )  # fmt: skip
    made = _do(actions.change_schedule(_planner(discovered=True), name, wishes, tenant))
    _tell(made, as_json, f"schedule {name} goes on at")


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
    from taskrunner import actions
    from taskrunner.cli.session import confirm, session, tell

    confirm(f"Remove the schedule {name}?", yes=yes)
    with session(tenant=tenant) as opened:
        opened.act(actions.remove_schedule(_planner(), name, tenant))
    tell({"name": name, "outcome": "removed"}, as_json, f"schedule {name} removed")


def _planner(*, discovered: bool = False) -> Planner:
    """Return what makes work of a command; `discovered`: it needs the project's task types."""
    from taskrunner.registry import Registry, discover
    from taskrunner.schedules import Planner
    from taskrunner.settings import load

    settings = load()
    return Planner(discover(settings.project, settings.tasks) if discovered else Registry())


def _do(action: Action[View]) -> View:
    from taskrunner.cli.session import session

    with session() as opened:
        return opened.act(action)


def _tell(made: View, as_json: bool, words: str) -> None:
    from taskrunner.cli.session import talk, tell

    if made.orphaned:
        talk(f"no live process knows {made.type}: it ticks once a scheduler runs that does")
    due = made.next_tick_at
    text = f"schedule {made.name} has ended" if due is None else f"{words} {due:%Y-%m-%d %H:%M:%S} UTC"
    tell({"name": made.name, "next_tick_at": due}, as_json, f"{text} (paused)" if made.paused else text)


def _wishes(
    what: Sequence[str] | None, payload: str | None, every: list[str] | None, cron: list[str] | None, **rest: Any
) -> Changes:
    """Return what was asked for; an empty text takes a value away."""
    from taskrunner.errors import InvalidArgument

    words, payloads = _sorted(what or ())
    payloads += [] if payload is None else [payload]
    if len(payloads) > 1:
        raise InvalidArgument("give one payload, not several")
    wishes: Any = {name: _value(name, value) for name, value in rest.items() if value is not None}
    if payloads:
        wishes["payload"] = payloads[0] or None
    if frequencies := [*words, *(duration(each, "--every") for each in every or ()), *(cron or ())]:
        wishes["frequency"] = frequencies
    return wishes  # type: ignore[no-any-return]  # the options are named as the wishes are


def _sorted(words: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return the frequencies and the payloads among the words; only JSON begins with a brace."""
    payloads = [word for word in words if word.lstrip().startswith("{")]
    return [_frequency(word) for word in words if word not in payloads], payloads


def _frequency(word: str) -> timedelta | str:
    """Read a duration; what is none is taken for a crontab."""
    from taskrunner.settings import parse_duration

    try:
        return parse_duration(word)
    except ValueError:
        return word


def _value(name: str, value: Any) -> Any:
    if value == "":
        return None
    if name in ("start_at", "end_at"):
        return instant(value, f"--{name.removesuffix('_at')}")
    return duration(value, "--jitter") if name == "jitter" else value
