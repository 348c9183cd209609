"""The status page: totals, task types, runners, queues and schedules; once, or redrawn each second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from threading import Event
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.text import Text

from taskrunner.console.lists import show_queues, show_runners, show_schedules
from taskrunner.console.terminal import Name, cell, table, until_interrupted
from taskrunner.console.words import figure, rate, span, stamp, until
from taskrunner.errors import DatabaseUnreachable
from taskrunner.reads import Counts, Recent, Runner, Status, TypeCounts
from taskrunner.states import HISTORY

# Full words where there is room for them; at 80 columns the types need it more.
WIDE = 110
LABELS = {"pending": "pend", "running": "run", "retrying": "retry", "succeeded": "succ", "ignored": "ign"}
FIGURES = ("pending", "due", "running", "retrying", "succeeded", "ignored", "dead")
SCHEDULES = 10
SECOND = 1.0


class Sight(NamedTuple):
    """What is to be shown, and when it was."""

    status: Status
    now: datetime
    recent: Recent | None = None


Look = Callable[[], tuple[Any, ...]]
Line = Callable[[Status, datetime], str]


def show_status(
    status: Status, now: datetime, *, width: int, rows: int | None = None, recent: Recent | None = None
) -> RenderableType:
    """Return the page; with `rows`, at most so many task types, the busiest, and the lists cut to a few lines."""
    few = SCHEDULES if rows is None else 3 if rows > 5 else 2
    parts: list[RenderableType] = [_totals(status.tasks), *([_rates(recent)] if recent else []), Text()]
    parts += [_types(status, now, width, rows), *_unregistered(status.types), Text()]
    parts += _dead(status.runners)
    parts += [show_runners(status.runners[:few] if rows else status.runners, ids=False), Text()]
    parts += [show_queues(status.queues[:few] if rows else status.queues)]
    if status.schedules:
        parts += [Text(), show_schedules(status.schedules[:few], now, status.runners)]
        parts += (
            [_more(len(status.schedules) - few, "taskrunner schedules list")] if len(status.schedules) > few else []
        )
    return Group(*parts)


def status_line(status: Status, now: datetime) -> str:
    """Return the totals in one line, for a watch that is no terminal."""
    counts = " ".join(f"{name}={count}" for name, count in status.tasks.model_dump().items())
    live = sum(one.alive for one in status.runners if one.kind == "runner")
    return f"{stamp(now)} {counts} runners={live}"


def watch(console: Console, look: Look, line: Line | None = None) -> None:
    """Redraw the page each second until Ctrl-C; with `line`, or without a terminal, write a line each second."""
    with until_interrupted() as ended, suppress(KeyboardInterrupt):
        if console.is_terminal and line is None:
            _draw(console, look, ended)
            return
        for sight, trouble in _looks(look, ended):
            console.file.write((trouble or (line or status_line)(sight.status, sight.now)) + "\n")
            console.file.flush()


def _draw(console: Console, look: Look, ended: Event) -> None:
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        for sight, trouble in _looks(look, ended):
            rows = max(3, console.height - 24)
            page = show_status(sight.status, sight.now, width=console.width, rows=rows, recent=sight.recent)
            head = cell(trouble, "bold red") if trouble else cell(f"{stamp(sight.now)}   Ctrl-C ends", "dim")
            live.update(Group(head, page), refresh=True)  # what has no room is cut off below


def _looks(look: Look, ended: Event) -> Iterator[tuple[Sight, str]]:
    """Yield a look a second; while the database is away, the last one with the reason. The first must succeed."""
    sight, trouble = Sight(*look()), ""
    while True:
        yield sight, trouble
        if ended.wait(SECOND):
            return
        try:
            sight, trouble = Sight(*look()), ""
        except DatabaseUnreachable as error:
            trouble = str(error)


def _totals(counts: Counts) -> RenderableType:
    live = (
        Text("now ", "bold"),
        Text(f"pending {figure(counts.pending)} ({figure(counts.due)} due, {figure(counts.retrying)} retrying)"),
        Text(f"running {figure(counts.running)}"),
        Text(f"blocked {figure(counts.blocked)}"),
        Text(f"dead {figure(counts.dead)}", "bold red" if counts.dead else ""),
    )
    day = (Text("24 h", "bold"), *(Text(f"{name} {figure(getattr(counts, name))}") for name in HISTORY))
    return Group(Text("  ").join(live), Text("  ").join(day))


def _rates(recent: Recent) -> Text:
    means = ((" waited {}", recent.wait_seconds), (" ran {}", recent.run_seconds))
    mean = " ".join(words.format(span(seconds)) for words, seconds in means if seconds is not None)
    failed = Text(f"failed tries {figure(recent.failed)}", "red" if recent.failed else "")
    parts = [Text("1-2 min", "bold"), Text(f"ended {figure(recent.ended)} ({rate(recent.rate)})"), failed]
    return Text("  ").join([*parts, *([Text(f"mean{mean}")] if mean else [])])


def _dead(runners: Sequence[Runner]) -> list[Text]:
    gone = [one for one in runners if not one.alive]
    if not gone:
        return []
    held = "its tasks are" if len(gone) == 1 else "their tasks are"
    words = f"! {len(gone)} of {len(runners)} processes dead: {held} taken back by the next that is alive"
    return [Text(words, "bold red")]


def _types(status: Status, now: datetime, width: int, rows: int | None) -> RenderableType:
    if not status.types:
        return Text("no tasks yet: `taskrunner enqueue TYPE` adds one")
    labels = {name: name if width >= WIDE else LABELS.get(name, name) for name in FIGURES}
    figures = (*labels.values(), "oldest", "next")
    made = table("type", *figures, right=figures)
    shown = status.types if rows is None else sorted(status.types, key=_activity, reverse=True)[:rows]
    for one in shown:
        made.add_row(*_row(one, now))
    hidden = len(status.types) - len(shown)
    return made if not hidden else Group(made, _more(hidden, "taskrunner status"))


def _row(one: TypeCounts, now: datetime) -> Iterator[RenderableType]:
    yield Name(one.type, "yellow", "! ") if one.unregistered else Name(one.type)
    for name in FIGURES:
        count = getattr(one, name)
        yield Text(figure(count), "dim" if not count else "bold red" if name == "dead" else "")
    yield Text(span(one.oldest_due_seconds))
    yield Text(until(one.next_tick_at, now))


def _activity(one: TypeCounts) -> tuple[int, int, int, int]:
    return one.running, one.due, one.pending, one.succeeded + one.dead


def _unregistered(types: list[TypeCounts]) -> list[Text]:
    names = [one.type for one in types if one.unregistered]
    if not names:
        return []
    return [Text("! no live process knows this type: its tasks wait", "yellow")]


def _more(hidden: int, command: str) -> Text:
    return Text(f"… and {hidden:,} more: `{command}`", "dim")
