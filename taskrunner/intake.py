"""What a caller asks for, checked and made into a row: every refusal happens here, before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from taskrunner.durations import as_delay
from taskrunner.errors import InvalidArgument, NotFound
from taskrunner.flow import check_mode
from taskrunner.jsonvalue import check_text, dump_json
from taskrunner.payload import dump_marked
from taskrunner.redaction import MARKS, marked
from taskrunner.registry import Registry, TaskType, unique_key
from taskrunner.store.enqueue import Enqueued, NewTask
from taskrunner.store.flow import After
from taskrunner.store.fresh import Batch, Kind
from taskrunner.store.replacement import Place
from taskrunner.task import Task, dispatch

OnConflict = Literal["skip", "replace", "error"]
_INT32 = 2**31
_NO_ID = UUID(int=0)


@dataclass(slots=True)
class Options:
    """What `add` takes besides the task; None means what the type was registered with."""

    delay: timedelta | float | None = None
    at: datetime | None = None
    priority: int | None = None
    queue: str | None = None
    key: str | None = None
    tenant: str | None = None
    max_retries: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def compose(registry: Registry, task: Task, options: Options, tenant: str) -> NewTask:
    """Check everything and return the row to insert.

    Raises: `UnknownType`, `PayloadInvalid` with the field's path, `InvalidArgument` naming the argument.
    """
    kind = registry.of(task)
    payload, secrets = dump_marked(task)
    row = NewTask(
        _NO_ID,
        kind.name,
        payload,
        kind.queue,
        tenant,
        kind.priority,
        kind.max_retries,
        unique_key=unique_key(kind, task, options.key) if kind.unique or options.key is not None else None,
        reserved_for=kind.unique_for,
    )
    _apply(options, row)
    if secrets:
        row.meta = dump_json(marked(options.meta, secrets), "meta")
    row.id, row.fresh = dispatch(task, row.tenant)  # last: what is refused has not been sent
    return row


def _apply(options: Options, row: NewTask) -> None:
    """Let what the caller says win over what the type says."""
    if options.queue is not None:
        row.queue = check_name("queue", options.queue)
    if options.tenant is not None:
        row.tenant = check_name("tenant", options.tenant)
    if options.priority is not None:
        row.priority = _integer("priority", options.priority, -_INT32)
    if options.max_retries is not None:
        row.max_retries = _integer("max_retries", options.max_retries, 0)
    if options.delay is not None:
        row.delay = as_delay(options.delay, "delay")
    if options.meta:
        row.meta = _meta(options.meta)
    if options.at is not None:
        row.at = _instant(options)


def compose_many(registry: Registry, tasks: Iterable[Task], spacing: timedelta, tenant: str) -> Batch:
    """Check the tasks and return them as a batch; the maturities are 0, `spacing`, 2 × `spacing` … from now.

    Raises: what `compose` raises.
    """
    batch = Batch(check_name("tenant", tenant), spacing)
    kinds: dict[type[Task], tuple[int, TaskType]] = {}
    given, payloads, places = list(tasks), batch.payloads, batch.places
    for number, task in enumerate(given):
        cls = task.__class__
        if cls not in kinds:
            kinds[cls] = _enter(batch, registry.of(task), number)
        place, kind = kinds[cls]
        payload, secrets = dump_marked(task)
        payloads.append(payload)
        if secrets:
            batch.metas[number] = dump_json(marked({}, secrets))
        places.append(place)
        if kind.unique and (key := unique_key(kind, task)) is not None:
            batch.keys[number] = key
    sent = [dispatch(task, tenant) for task in given]  # last: what is refused has not been sent
    batch.ids = [id_ for id_, _ in sent]
    batch.fresh = all(fresh for _, fresh in sent)
    return batch


def _enter(batch: Batch, kind: TaskType, number: int) -> tuple[int, TaskType]:
    row = Kind(kind.name, kind.queue, kind.priority, kind.max_retries, kind.unique_for, number)
    batch.kinds.append(row)
    return len(batch.kinds), kind


def aliases_of(registry: Registry, types: Iterable[str]) -> dict[str, Sequence[str]]:
    """Return the older names under which live tasks of these types may be queued."""
    kinds: Iterable[TaskType] = (registry.get(name) for name in set(types))
    return {kind.name: kind.aliases for kind in kinds if kind.aliases}


def place_of(registry: Registry, task: Task | type[Task] | str, key: str | None, tenant: str) -> Place:
    """Return where to find a type's live task by its `key`; of a type that is unique by itself, by the type or a task.

    Raises: `UnknownType`, `InvalidArgument`.
    """
    kind = registry.get(task) if isinstance(task, str) else registry.of(task)
    taken = unique_key(kind, task if isinstance(task, Task) else None, key)
    if taken is not None:
        return Place(check_name("tenant", tenant), [kind.name, *kind.aliases], taken)
    if isinstance(kind.unique, tuple):
        example = f"{kind.cls.__name__}({', '.join(f'{name}=…' for name in kind.unique)})"
        raise InvalidArgument(f"{kind.name} is unique by fields: give a task with them, as in {example}")
    raise InvalidArgument(f"{kind.name} is not unique by itself: give a key")


def held(id_: UUID | None, place: Place) -> UUID:
    """Return the live task that was looked for by its key. Raises: `NotFound`."""
    if id_ is None:
        raise NotFound(f"no live {place.types[0]} of tenant {place.tenant!r}{_spelled(place.unique_key)}")
    return id_


def _spelled(unique_key: str) -> str:
    """Say as people know it what nobody has: in the row, `registry.unique` puts the key's kind in front."""
    kind, _, key = unique_key.partition(":")
    return {"type": "", "fields": f" has the fields {key}"}.get(kind, f" has the key {key!r}")


def check_key(name: str, key: str) -> str:
    """Return the key. Raises: `InvalidArgument` unless it has 1 to 255 characters that can be stored."""
    if not isinstance(key, str) or not 1 <= len(key) <= 255:
        raise InvalidArgument(f"{name} must be a text of 1 to 255 characters, not {_shown(key)}")
    return _storable(name, key)


def check_tenant(tenant: str | None) -> str | None:
    """Return the tenant. Raises: `InvalidArgument` for what cannot be one's name."""
    return None if tenant is None else check_name("tenant", tenant)


def as_id(value: UUID | str | Enqueued) -> UUID:
    """Return the task id; what `add` returned will do. Raises: `InvalidArgument` for a text that is no UUID."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, Enqueued):
        return value.id
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgument(f"{_shown(value)} is no task id: an id is a UUID, as `enqueue` prints it") from None


def as_after(after: Any, on_parent_failure: str) -> After | None:
    """Return what a task comes after: ids, answers of `add`, or tasks, one or several; None for none.

    Raises: `InvalidArgument` for what is none of these, and for an unknown `on_parent_failure`.
    """
    mode = check_mode(on_parent_failure)
    if after is None:
        if mode != "fail":
            raise InvalidArgument(f"on_parent_failure={mode!r} is of a task with parents: give them by after=")
        return None
    one = isinstance(after, UUID | str | Enqueued | Task) or not isinstance(after, Iterable)
    parents = tuple(dict.fromkeys(_parent(parent) for parent in ([after] if one else after)))
    return After(parents, mode) if parents else None


def _parent(given: Any) -> UUID:
    return given.id if isinstance(given, Enqueued | Task) else as_id(given)


def _instant(options: Options) -> datetime:
    if options.delay is not None:
        raise InvalidArgument("give delay= or at=, not both")
    if not isinstance(options.at, datetime) or options.at.tzinfo is None:
        raise InvalidArgument(f"at= must be a datetime with a time zone, not {options.at!r}")
    return options.at


def _integer(name: str, value: int, low: int) -> int:
    high = _INT32 - 1
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(f"{name} must be an integer from {low} to {high}, not {_shown(value)}")
    return value


def check_name(name: str, value: str) -> str:
    """Return the value. Raises: `InvalidArgument` unless it has 1 to 200 characters that can be stored."""
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise InvalidArgument(f"{name} must be a text of 1 to 200 characters, not {_shown(value)}")
    return _storable(name, value)


def _storable(name: str, value: str) -> str:
    try:
        check_text(value)
    except Exception as error:
        raise InvalidArgument(f"{name} cannot be stored: {error}") from None
    return value


def _meta(meta: Mapping[str, Any]) -> str:
    if not isinstance(meta, Mapping):
        raise InvalidArgument(f"meta must be a mapping, not {_shown(meta)}")
    if MARKS in meta:
        raise InvalidArgument(f"meta cannot have the key {MARKS!r}: there taskrunner notes which fields are secret")
    return dump_json(dict(meta), "meta")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
