"""Assertions on what waits: which tasks are live, and with what in their fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import UUID

from psycopg import Connection

from taskrunner.db import run
from taskrunner.errors import InvalidArgument, suggest
from taskrunner.jsonvalue import dump_json
from taskrunner.payload import load_payload
from taskrunner.reads import TaskFilter, TaskView, list_tasks
from taskrunner.registry import Registry, TaskType
from taskrunner.secretfields import may_hold
from taskrunner.states import LIVE
from taskrunner.task import Task

_MOST = 1000  # tasks of one state that are looked at
_SHOWN = 10


def assert_enqueued(
    connection: Connection[Any], registry: Registry, wanted: type[Task] | str, /, **fields: Any
) -> TaskView:
    """Return the newest live task of the type whose fields have these values; AssertionError lists what there is."""
    kind = _kind(registry, wanted, fields)
    live = _live(connection, kind)
    for task in live:
        if _fits(kind, task, fields):
            return task
    raise AssertionError(f"no {_described(kind, fields)} is enqueued; {_listed(kind, live)}")


def refute_enqueued(
    connection: Connection[Any], registry: Registry, wanted: type[Task] | str, /, **fields: Any
) -> None:
    """Raise AssertionError, listing them, if live tasks of the type have these values in their fields."""
    kind = _kind(registry, wanted, fields)
    found = [task for task in _live(connection, kind) if _fits(kind, task, fields)]
    if found:
        raise AssertionError(f"{_described(kind, fields)} should not be enqueued; {_listed(kind, found)}")


def _kind(registry: Registry, wanted: type[Task] | str, fields: dict[str, Any]) -> TaskType:
    kind = registry.get(wanted) if isinstance(wanted, str) else registry.of(wanted)
    known = kind.cls.__pydantic_fields__
    for name in fields:
        if name not in known:
            raise InvalidArgument(f"{kind.name} has no field {name!r}{suggest(name, known)}")
    return kind


def _live(connection: Connection[Any], kind: TaskType) -> list[TaskView]:
    names = (kind.name, *kind.aliases)
    lists = [_listing(connection, TaskFilter(type=name, state=state)) for name in names for state in LIVE]
    return sorted((task for tasks in lists for task in islice(tasks, _MOST)), key=lambda task: task.id, reverse=True)


def _listing(connection: Connection[Any], wanted: TaskFilter) -> Iterator[TaskView]:
    """Yield what is wanted, page after page."""
    after: UUID | None = None
    while True:
        page = run(connection, list_tasks(wanted.model_copy(update={"after": after, "limit": _MOST}), whole=True))
        yield from page.items
        if (after := page.next) is None:
            return


def _fits(kind: TaskType, task: TaskView, fields: dict[str, Any]) -> bool:
    """Compare as the task would see its fields: a datetime with a datetime, not with its text."""
    loaded = load_payload(kind.cls, dump_json(task.payload, "payload"))
    return all(getattr(loaded, name) == value for name, value in fields.items())


def _fields(kind: TaskType, task: TaskView) -> object:
    """Return what is shown of the payload: of a type with secrets the task itself, which covers them."""
    return load_payload(kind.cls, dump_json(task.payload, "payload")) if may_hold(kind.cls) else task.payload


def _described(kind: TaskType, fields: dict[str, Any]) -> str:
    return f"{kind.name}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


def _listed(kind: TaskType, tasks: list[TaskView]) -> str:
    if not tasks:
        return f"there is no live {kind.name} at all"
    lines = [f"  {task.id} {task.state} {_fields(kind, task)}" for task in tasks[:_SHOWN]]
    more = [f"  … and {len(tasks) - _SHOWN} more"] if len(tasks) > _SHOWN else []
    return "\n".join([f"live {kind.name}:", *lines, *more])
