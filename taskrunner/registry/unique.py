"""The text that the database's unique index compares, for types and enqueues that ask for it."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from taskrunner.errors import InvalidArgument
from taskrunner.jsonvalue import RefusedError, check_text
from taskrunner.registry.types import TaskType
from taskrunner.secretfields import clear, is_secret
from taskrunner.task import Task

MAX_KEY = 255  # characters
MAX_TEXT = 200  # characters; longer values are kept as their SHA-256, for the index's sake


def unique_key(task_type: TaskType, task: Task | None, key: str | None = None) -> str | None:
    """Return `type:`, `fields:<values>` or `key:<key>`; None for a type that is not unique, or without the `task`.

    Raises InvalidArgument for a key that is empty, longer than 255 characters or no storable text, and for a key on a
    type that is unique by itself.
    """
    if key is not None:
        return _by_key(task_type, key)
    if task_type.unique is True:
        return "type:"
    return _by_fields(task, task_type.unique) if task_type.unique and task is not None else None


def _by_key(task_type: TaskType, key: str) -> str:
    if task_type.unique:
        raise InvalidArgument(f"task type {task_type.name!r} is unique by itself: a key cannot be given besides")
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY:
        raise InvalidArgument(f"a key must be text of 1 to {MAX_KEY} characters")
    try:
        check_text(key)
    except RefusedError as refused:
        raise InvalidArgument(f"the key cannot be used: {refused.reason}") from None
    return f"key:{key}"


def _by_fields(task: Task, names: tuple[str, ...]) -> str:
    values = {name: getattr(task, name) for name in names}
    try:
        text = _canonical(values)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"{type(task).__name__}: {', '.join(names)} cannot be made a unique key: {error}"
        ) from error
    return f"fields:{text if len(text) <= MAX_TEXT else 'sha256:' + sha256(text.encode()).hexdigest()}"


def _canonical(value: object) -> str:
    """Write equal values as equal text: sorted keys and sets, instants in UTC, decimals without trailing zeros."""
    return json.dumps(value, default=_plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if is_secret(value):
        return "sha256:" + sha256(_canonical(clear(value)).encode()).hexdigest()
    if isinstance(value, set | frozenset):
        return sorted(map(_canonical, value))
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        return str(value.normalize())
    if isinstance(value, BaseModel):
        return value.__dict__
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return to_jsonable_python(value)
