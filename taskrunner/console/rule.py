"""One schedule with everything that is set of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic_core import to_json
from rich.console import RenderableType
from rich.text import Text

from taskrunner.console.terminal import cell, table
from taskrunner.console.words import span, stamp, until
from taskrunner.reads import Schedule


def show_schedule(schedule: Schedule, now: datetime) -> RenderableType:
    """Return a schedule's fields, one a line, without those that are not set."""
    facts = table("name", "value", whole=("name",))
    facts.show_header = False
    facts.columns[0].style = "bold"
    for name, value in _facts(schedule, now):
        facts.add_row(name, value)
    return facts


def _facts(one: Schedule, now: datetime) -> Iterator[tuple[str, Text]]:
    yield "schedule", _cell(f"{one.name}, tenant {one.tenant}")
    yield "type", _cell(f"{one.type}{', which no live process knows' if one.orphaned else ''}")
    yield "rule", _cell(one.description or "none: its code has given it up")
    yield "next tick", _cell(_next(one, now), "yellow" if one.paused or one.ended else "")
    for name in ("last_tick_at", "start_at", "end_at"):
        if (instant := getattr(one, name)) is not None:
            yield name.removesuffix("_at").replace("_", " "), _cell(stamp(instant))
    yield "ticks", _cell(f"{one.ticks}, and {one.skipped} that met a live task of the same key")
    yield "missed ticks", _cell(one.catch_up)
    if one.jitter is not None:
        yield "jitter", _cell(span(one.jitter.total_seconds()))
    for name in ("key", "queue", "priority", "last_task_id"):
        if (value := getattr(one, name)) is not None:
            yield name.removesuffix("_id").replace("_", " "), _cell(value)
    yield "payload", _cell(to_json(one.payload).decode())
    yield "declared in", _cell("code" if one.declared_in == "code" else "the database, at run time")
    if one.last_error is not None:
        yield "failed", _cell(one.last_error, "bold red")


def _next(one: Schedule, now: datetime) -> str:
    if one.next_tick_at is None:
        return "none: it has ended"
    due = f"{stamp(one.next_tick_at)} (in {until(one.next_tick_at, now)})"
    return f"paused; else {due}" if one.paused else due


def _cell(value: object, style: str = "") -> Text:
    return cell(value, style, fold=True)
