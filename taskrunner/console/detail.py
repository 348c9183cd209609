"""One task with everything that is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.text import Text

from taskrunner.console.follow import progress_words
from taskrunner.console.lists import STYLES
from taskrunner.console.terminal import cell, table
from taskrunner.console.words import span, stamp
from taskrunner.reads import DeadView, TaskDetail, TaskView

_SHOWN = 3
"""Errors with their tracebacks, the last ones."""


def show_task(task: TaskView, why: str = "") -> RenderableType:
    """Return a task's fields, one a line, then why it can only wait, and its errors with their tracebacks below."""
    facts = table("name", "value", whole=("name",))
    facts.show_header = False
    facts.columns[0].style = "bold"
    for name, value in _facts(task):
        facts.add_row(name, value)
    notes = [_cell(f"! {why}", "yellow")] if why else []
    earlier = max(0, len(task.errors) - _SHOWN)
    if earlier:
        notes.append(_cell(f"{earlier} earlier errors: --json has them all", "dim"))
    errors = list(enumerate(task.errors, 1))[earlier:]
    return Group(facts, *notes, *(line for number, error in errors for line in _error(number, error)))


def _facts(task: TaskView) -> Iterator[tuple[str, Text]]:
    yield "id", _cell(task.id)
    yield "type", _cell(task.type)
    yield "state", _cell(task.state, STYLES.get(task.state, ""))
    if isinstance(task, DeadView) and task.requeued_as is not None:
        yield "requeued as", _cell(task.requeued_as)
    yield "queue", _cell(f"{task.queue}, priority {task.priority}, tenant {task.tenant}")
    yield "tries", _cell(f"{task.tries} failed, {task.crashes} crashes")
    yield "payload", _cell(_json(task.payload))
    for name in ("created_at", "maturity_at", "started_at", "finished_at"):
        if (instant := getattr(task, name)) is not None:
            yield name.replace("_", " "), _cell(stamp(instant))
    if task.started_at is not None and task.finished_at is not None:
        yield "took", _cell(span((task.finished_at - task.started_at).total_seconds()))
    yield from _family(task)
    if task.runner_id is not None:
        yield "runner", _cell(task.runner_id)
    if task.progress is not None:
        yield "progress", _cell(progress_words(task.progress))
    for name in ("result", "meta"):
        if (value := getattr(task, name)) not in (None, {}):
            yield name, _cell(_json(value))


def _family(task: TaskView) -> Iterator[tuple[str, Text]]:
    if isinstance(task, TaskDetail):
        yield from _some_of("parents", task.parents, task.parents_count)
        yield from _some_of("children", task.children, task.children_count)


def _some_of(name: str, ids: Sequence[UUID], count: int) -> Iterator[tuple[str, Text]]:
    first = ids[:3]
    if first:
        yield (
            name,
            _cell(", ".join(map(str, first)) + (f" and {count - len(first):,} more" if count > len(first) else "")),
        )


def _when(text: object) -> str:
    """An error says when in ISO; what some other hand has written is shown as it is."""
    try:
        return stamp(datetime.fromisoformat(str(text)).astimezone(UTC))
    except ValueError:
        return str(text or "at an unknown time")


def _cell(value: object, style: str = "") -> Text:
    return cell(value, style, fold=True)


def _json(value: Any) -> str:
    return to_json(value).decode()


def _error(number: int, error: dict[str, Any]) -> Iterator[Text]:
    yield Text()
    number = error.get("try") or number
    first, *more = str(error.get("message", "")).splitlines() or [""]
    yield _cell(f"error {number}, {_when(error.get('at'))}: {first}", "bold red")
    for line in more:
        yield _cell(line, "red")
    for line in str(error.get("traceback") or "").splitlines():
        yield _cell(line, "dim")
