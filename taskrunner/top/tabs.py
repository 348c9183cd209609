"""What each tab shows, a row a thing: its key, its cells, and the thing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.text import Text

from taskrunner.console.follow import progress_words
from taskrunner.console.terminal import cell
from taskrunner.console.words import figure, since, span, until
from taskrunner.reads import Queue, Runner, Schedule, TaskView
from taskrunner.top.desk import Sight


class Row(NamedTuple):
    """One line of a tab."""

    key: str
    cells: tuple[Text, ...]
    thing: Any


class Tab(NamedTuple):
    """A tab: its columns (those in `right` hold figures), its rows, the keys that it has of its own, and their help."""

    name: str
    columns: tuple[str, ...]
    right: frozenset[str]
    rows: Callable[[Sight], Iterator[Row]]
    keys: dict[str, str]


def _number(count: int, style: str = "") -> Text:
    return Text(figure(count), style if count else "dim", justify="right")


def _time(text: str) -> Text:
    return Text(text, justify="right")


def _id(task: TaskView) -> Text:
    """The end of an id: those of one moment begin alike."""
    return Text("…" + str(task.id)[-6:])


def _queues(sight: Sight) -> Iterator[Row]:
    for one in sight.status.queues:
        words = [word for word, true in (("paused", one.paused), ("fair", one.fair)) if true]
        words += ["nobody serves it"] if one.due and not one.runners else []
        yield Row(one.name, _queue(one, " ".join(words)), one)


def _queue(one: Queue, words: str) -> tuple[Text, ...]:
    counts = (_number(one.pending), _number(one.due), _number(one.running), _number(one.runners))
    return (cell(one.name), *counts, _time(span(one.oldest_due_seconds)), cell(words, "yellow"))


def _running(sight: Sight) -> Iterator[Row]:
    places = {one.id: f"{one.host}:{one.pid}" for one in sight.status.runners}
    for task in sight.tasks:
        progress = progress_words(task.progress) if task.progress is not None else ""
        place = places.get(task.runner_id, "gone") if task.runner_id else ""
        told = (_time(since(task.started_at, sight.now)), Text(str(task.tries + 1), justify="right"))
        yield Row(
            str(task.id), (_id(task), cell(task.type), cell(task.queue), *told, cell(place), cell(progress)), task
        )


def _retrying(sight: Sight) -> Iterator[Row]:
    for task in sight.tasks:
        told = (Text(str(task.tries), justify="right"), _time(until(task.maturity_at, sight.now)))
        yield Row(str(task.id), (_id(task), cell(task.type), cell(task.queue), *told, cell(_error(task), "red")), task)


def _dead(sight: Sight) -> Iterator[Row]:
    for task in sight.tasks:
        told = (Text(str(task.tries), justify="right"), _time(since(task.finished_at, sight.now)))
        yield Row(str(task.id), (_id(task), cell(task.type), cell(task.queue), *told, cell(_error(task), "red")), task)


def _error(task: TaskView) -> str:
    return str(task.errors[-1].get("message", "")) if task.errors else ""


def _runners(sight: Sight) -> Iterator[Row]:
    for one in sight.status.runners:
        yield Row(str(one.id), _runner(one, sight), one)


def _runner(one: Runner, sight: Sight) -> tuple[Text, ...]:
    lease = Text(span(one.lease_seconds), justify="right") if one.alive else Text("dead", "bold red", justify="right")
    load = Text(f"{one.running}/{one.slots}" if one.slots else "", justify="right")
    up = _time(since(one.started_at, sight.now))
    return (
        cell(one.kind),
        cell(f"{one.host}:{one.pid}"),
        load,
        lease,
        up,
        cell(one.version),
        cell(",".join(one.queues)),
    )


def _schedules(sight: Sight) -> Iterator[Row]:
    for one in sight.status.schedules:
        yield Row(f"{one.tenant}/{one.name}", _schedule(one, sight), one)


def _schedule(one: Schedule, sight: Sight) -> tuple[Text, ...]:
    words = [word for word, true in (("paused", one.paused), ("orphaned", one.orphaned), ("ended", one.ended)) if true]
    words += [f"failed: {one.last_error}"] if one.last_error else []
    ticks = ("" if one.paused else until(one.next_tick_at, sight.now), since(one.last_tick_at, sight.now))
    return (cell(one.name), cell(one.type), cell(one.description), *map(_time, ticks), cell(" ".join(words), "yellow"))


_TASK = ("id", "type", "queue", "tries")
_OF_TASK = {"enter": "open", "w": "why"}

TABS = (
    Tab(
        "queues",
        ("queue", "pending", "due", "running", "runners", "oldest", ""),
        frozenset({"pending", "due", "running", "runners", "oldest"}),
        _queues,
        {"p": "pause, resume"},
    ),
    Tab(
        "running",
        ("id", "type", "queue", "since", "try", "runner", "progress"),
        frozenset({"since", "try"}),
        _running,
        {"c": "cancel", **_OF_TASK},
    ),
    Tab(
        "retrying",
        (*_TASK, "in", "last error"),
        frozenset({"tries", "in"}),
        _retrying,
        {"r": "try now", "c": "cancel", **_OF_TASK},
    ),
    Tab(
        "dead",
        (*_TASK, "died", "last error"),
        frozenset({"tries", "died"}),
        _dead,
        {"r": "requeue", "R": "requeue ALL", "D": "DELETE", **_OF_TASK},
    ),
    Tab(
        "runners",
        ("kind", "process", "running", "lease", "up", "version", "queues"),
        frozenset({"running", "lease", "up"}),
        _runners,
        {},
    ),
    Tab(
        "schedules",
        ("schedule", "type", "rule", "next", "last", ""),
        frozenset({"next", "last"}),
        _schedules,
        {"p": "pause, resume", "r": "run now"},
    ),
)

KEYS = {
    "h l": "tab before, next (also ← →, 1-6)",
    "j k": "row down, up (also ↓ ↑; g first, G last)",
    "/": "filter the rows; Esc ends it",
    "space": "hold the screen still",
    "?": "these keys",
    "q": "quit",
}
"""Keys that every tab has."""
