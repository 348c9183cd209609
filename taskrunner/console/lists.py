"""Lists: tasks, dead letters, runners, queues, schedules and settings, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import RenderableType
from rich.text import Text

from taskrunner.console.terminal import Name, cell, table
from taskrunner.console.words import figure, since, span, until
from taskrunner.reads import AuditEntry, DeadView, Queue, Runner, Schedule, TaskView
from taskrunner.settings import Setting

STYLES = {"pending": "cyan", "running": "blue", "succeeded": "green", "dead": "bold red", "blocked": "yellow"}


def show_tasks(tasks: Sequence[TaskView], now: datetime) -> RenderableType:
    """Return tasks as a table without empty columns; `age` is since their creation, `due` until their maturity."""
    if not tasks:
        return Text("no tasks")
    failed, ahead = any(task.tries for task in tasks), any(task.state == "pending" for task in tasks)
    tries, due = ["tries"] if failed else [], ["due"] if ahead else []
    columns = ("id", "state", "type", "queue", *tries, "age", *due)
    made = table(*columns, right=("tries", "age", "due"), whole=("id", "state"), gap=1)
    for task in tasks:
        wait = until(task.maturity_at, now) if task.state == "pending" else ""
        made.add_row(
            str(task.id), cell(task.state, STYLES.get(task.state, "")), cell(task.type), cell(task.queue),
            *(str(task.tries) for _ in tries), since(task.created_at, now), *(wait for _ in due),
        )  # fmt: skip
    return made


def show_dead(letters: Sequence[DeadView], now: datetime) -> RenderableType:
    """Return dead letters as a table, each with its last error."""
    if not letters:
        return Text("no dead letters")
    made = table("id", "type", "tries", "died", "last error", right=("tries", "died"), whole=("id",), gap=1)
    for letter in letters:
        error = str(letter.errors[-1].get("message", "")) if letter.errors else ""
        if letter.requeued_as is not None:
            error = f"requeued as {letter.requeued_as}"
        made.add_row(str(letter.id), Name(letter.type), str(letter.tries), since(letter.finished_at, now), cell(error))
    return made


def show_audit(entries: Sequence[AuditEntry], now: datetime) -> RenderableType:
    """Return what people did as a table."""
    if not entries:
        return Text("nobody did anything")
    made = table("when", "who", "did", "to what", right=("when",), whole=("when", "did"), gap=1)
    for one in entries:
        what = " ".join([one.target, *(f"{name}={value}" for name, value in one.details.items())])
        made.add_row(since(one.acted_at, now), Name(one.actor), cell(one.action), cell(what))
    return made


def show_logins(logins: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the logins that are mapped, each with its tenant."""
    if not logins:
        return Text("no login is mapped to a tenant")
    made = table("login", "tenant", "")
    for one in logins:
        made.add_row(Name(one["login"]), Name(one["tenant"]), cell("" if one["able"] else "no such login", "red"))
    return made


def show_runners(runners: Sequence[Runner], *, ids: bool = True) -> RenderableType:
    """Return processes as a table; the ids need a line of some length."""
    if not runners:
        return Text("no runner is registered: start one with `taskrunner start all`")
    columns = ("kind", "host", "pid", "running", "strays", "lease", "queues", "id")
    figures = ("pid", "running", "strays", "lease")
    made = table(*(columns if ids else columns[:-1]), right=figures, whole=("kind", "id"))
    for one in runners:
        lease = cell(span(one.lease_seconds)) if one.alive else cell("dead", "bold red")
        strays = cell(one.strays, "bold red" if one.strays else "")
        shown = (cell(one.kind), Name(one.host), str(one.pid), f"{one.running}/{one.slots}", strays, lease)
        made.add_row(*shown, cell(",".join(one.queues)), *([str(one.id)] if ids else []))
    return made


def show_queues(queues: Sequence[Queue]) -> RenderableType:
    """Return queues as a table."""
    if not queues:
        return Text("no queues: none holds tasks, and no runner takes from one")
    made = table(
        "queue", "pending", "due", "running", "runners", "oldest", "",
        right=("pending", "due", "running", "runners", "oldest"),
    )  # fmt: skip
    for one in queues:
        notes = [note for note, holds in (("paused", one.paused), ("fair", one.fair)) if holds]
        made.add_row(
            Name(one.name), figure(one.pending), figure(one.due), figure(one.running), str(one.runners),
            span(one.oldest_due_seconds), cell(" ".join(notes), "yellow"),
        )  # fmt: skip
    return made


def show_schedules(schedules: Sequence[Schedule], now: datetime, runners: Sequence[Runner]) -> RenderableType:
    """Return schedules as a table; `next` and `last` are times from now, `runners` tells who is there to tick them."""
    if not schedules:
        return Text("no schedules: give a task type a frequency, or `taskrunner schedules add`")
    anybody = any(one.alive for one in runners)
    made = table("schedule", "type", "rule", "next", "last", "", right=("next", "last"))
    for one in schedules:
        due = "" if one.paused else until(one.next_tick_at, now)
        made.add_row(
            Name(one.name), Name(one.type), cell(one.description), due, since(one.last_tick_at, now),
            _flags(one, anybody=anybody),
        )  # fmt: skip
    return made


def show_instants(instants: Sequence[datetime], zone: str) -> RenderableType:
    """Return times as a table, in a zone and in UTC."""
    if not instants:
        return Text("no further tick: the schedule has ended")
    zones = () if zone == "UTC" else (zone,)
    made = table(*zones, "UTC", whole=(*zones, "UTC"))
    for instant in instants:
        made.add_row(*(_local(instant, own) for own in zones), _utc(instant))
    return made


def show_upcoming(ticks: Sequence[tuple[str, str, datetime]]) -> RenderableType:
    """Return the ticks of several schedules as a table: the schedule's name, its zone and the time of each."""
    if not ticks:
        return Text("no schedule has a tick to come: `taskrunner schedules list` shows them all")
    elsewhere = any(zone != "UTC" for _, zone, _ in ticks)
    made = table("schedule", "UTC", *(["in its zone"] if elsewhere else []), whole=("UTC", "in its zone"))
    for name, zone, instant in ticks:
        local = "" if zone == "UTC" else _local(instant, zone)
        made.add_row(Name(name), _utc(instant), *([local] if elsewhere else []))
    return made


def _local(instant: datetime, zone: str) -> str:
    return f"{instant.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M:%S %z}"


def _utc(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%a %Y-%m-%d %H:%M:%S}"


def _flags(schedule: Schedule, *, anybody: bool) -> Text:
    """Where no process lives at all, that none knows the type is no news of the schedule."""
    if schedule.last_error is not None:
        return cell(f"failed: {schedule.last_error}", "bold red")
    if schedule.orphaned and anybody and not schedule.ended:
        return cell("orphaned", "yellow")
    if schedule.ended:
        return cell("ended", "dim")
    if schedule.paused:
        return cell("paused", "yellow")
    return cell("" if anybody else "no scheduler runs", "yellow")


def show_settings(settings: Sequence[Setting]) -> RenderableType:
    """Return settings as a table, each with its value and where that came from."""
    made = table("setting", "value", "from", whole=("setting",))
    for one in settings:
        style = "dim" if one.source == "default" else ""
        made.add_row(cell(one.name, "" if style else "bold"), cell(one.value, style), cell(one.source, style))
    return made
