"""A task's fields as the JSON text of its row: equal when read back, or refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from taskrunner.errors import PayloadInvalid
from taskrunner.errortext import clean_text, error_entry
from taskrunner.jsonvalue import (
    BIG,
    EXACT_FLOAT,
    EXACT_INTEGER,
    FOREIGN,
    SECRET,
    RefusedError,
    check_json,
    dump_json,
    exact,
    limited,
    readable,
    refuse_depth,
    scan,
    storable,
)
from taskrunner.redaction import MASK, covered_key
from taskrunner.secretfields import Path, clear, is_secret, reveal

__all__ = [
    "check_json",
    "clean_text",
    "dump",
    "dump_json",
    "dump_marked",
    "error_entry",
    "load_payload",
    "parse_payload",
]

Model = TypeVar("Model", bound=BaseModel)

_NO_OBJECT = ("json_invalid", "model_type")  # pydantic's names
_SHOWN_ERRORS = 5


def dump(task: BaseModel) -> str:
    """Return the fields as JSON text that gives back an equal task, also after a stay in jsonb.

    Raises PayloadInvalid with the field's path: NaN, infinity, NUL, lone surrogates, depth over 100, more than 64 MB,
    values that no longer fit their field, and those that JSON would change (a datetime or a SecretStr in an `Any`).
    """
    return dump_marked(task)[0]


def dump_marked(task: BaseModel) -> tuple[str, Collection[Path]]:
    """Return the same text, with what secrets hold in it, and the paths to them; raises what `dump` raises."""
    cls = type(task)
    if _is_plain(task, cls):
        return limited(cls.__pydantic_serializer__.to_json(task, by_alias=False, round_trip=True), cls.__name__), ()
    flags, foreign = _survey(task, cls)
    secret: set[Path] = set()
    text = _written(task, cls, flags, secret)
    if foreign:
        _check_return(task, text, foreign)
    return limited(text, cls.__name__), sorted(secret)


def load_payload(cls: type[Model], text: str | bytes) -> Model:
    """Build the task that `dump` wrote; raises PayloadInvalid with the paths of the fields that do not fit."""
    return _read(cls, text, by_alias=False)


def parse_payload(cls: type[Model], payload: str | bytes | Mapping[str, object]) -> Model:
    """Build a task from JSON that people wrote, under the fields' names or aliases; raises PayloadInvalid."""
    text = dump_json(dict(payload), "payload") if isinstance(payload, Mapping) else payload
    read = _read(cls, text, by_alias=True)
    if path := _covered(text):
        raise PayloadInvalid(f"{cls.__name__}.{path}: this is how a secret is shown, and not the secret: give that")
    return read


def _covered(text: str | bytes) -> str:
    """Return the path of a value that was copied from where secrets are covered; empty: there is none."""
    written = text.decode() if isinstance(text, bytes) else text
    return covered_key(from_json(written)) if MASK in written else ""


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    str: storable,
    int: lambda value: -EXACT_INTEGER < value < EXACT_INTEGER,
    float: lambda value: -EXACT_FLOAT < value < EXACT_FLOAT,
    bool: lambda _: True,
}
"""Types whose values are written as they are, and which values of theirs need no second look."""


@lru_cache(maxsize=1024)
def _plain_fields(cls: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """Return the fields with their types if all are plain and nothing of the class's own takes part in writing them."""
    own, config = cls.__pydantic_decorators__, cls.model_config
    if own.field_serializers or own.model_serializers or config.get("json_encoders") or config.get("extra") == "allow":
        return ()
    if cls.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__:  # type: ignore[attr-defined]  # class methods
        return ()
    fields = cls.__pydantic_fields__
    kinds = [field.annotation for field in fields.values()]
    if not all(isinstance(kind, type) and kind in _PLAIN for kind in kinds):  # what is no type may have no hash
        return ()
    if any(field.metadata or field.exclude for field in fields.values()):
        return ()
    return tuple((name, field.annotation) for name, field in fields.items())


def _is_plain(task: BaseModel, cls: type[BaseModel]) -> bool:
    """Whether there is nothing to look for: then pydantic need not be asked for warnings, which cost the most."""
    fields, values = _plain_fields(cls), task.__dict__
    if not fields or len(fields) != len(values):
        return False
    for name, kind in fields:
        value = values.get(name)
        if value.__class__ is not kind or not _PLAIN[kind](value):
            return False
    return True


def _survey(task: BaseModel, cls: type[BaseModel]) -> tuple[int, list[str]]:
    """Return whether there are big floats and secrets, and the names of the fields whose return must be checked."""
    decorators = cls.__pydantic_decorators__
    flags = FOREIGN if decorators.field_serializers or decorators.model_serializers else 0
    values, special, foreign = task.__dict__, 0, []
    name = ""
    try:
        for name in cls.__pydantic_fields__:
            found = flags | scan(values[name], 0, _foreign)
            if found:
                special |= found & (BIG | SECRET)
                if found & FOREIGN:
                    foreign.append(name)
        if task.__pydantic_extra__:
            name = "extra"
            special |= scan(task.__pydantic_extra__, 0, _foreign) & (BIG | SECRET)
    except RefusedError as refused:
        raise refused.to_error(f"{cls.__name__}.{name}") from None
    except KeyError:
        raise PayloadInvalid(f"{cls.__name__}.{name}: the field has no value") from None
    return special, foreign


def _foreign(value: object, depth: int) -> int:
    """Look into what has no JSON type of its own: decimals, sets, nested models, dataclasses."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise RefusedError(f"Decimal {value} is no JSON number")
    elif is_secret(value):
        if (inside := clear(value)) == MASK:
            raise RefusedError("this is how a secret is shown, and not the secret: give that")
        return FOREIGN | SECRET | scan(inside, depth, _foreign)
    elif isinstance(value, BaseModel):
        return FOREIGN | scan({**value.__dict__, **(value.__pydantic_extra__ or {})}, depth, _foreign)
    elif is_dataclass(value):
        return FOREIGN | scan(
            {field.name: getattr(value, field.name, None) for field in fields(value)}, depth, _foreign
        )
    elif isinstance(value, Mapping):
        return FOREIGN | scan(dict(value), depth, _foreign)
    elif isinstance(value, Collection) and not isinstance(value, bytes | bytearray | memoryview):
        refuse_depth(depth + 1)
        return FOREIGN | scan(list(value), depth, _foreign)
    return FOREIGN


def _written(task: BaseModel, cls: type[BaseModel], flags: int, secret: set[Path]) -> bytes:
    serializer = cls.__pydantic_serializer__
    try:
        if flags:
            tree = serializer.to_python(task, mode="json", by_alias=False, round_trip=True, warnings="error")
            if flags & SECRET:
                tree = reveal(task, tree, secret)
            return to_json(exact(tree))
        return serializer.to_json(task, by_alias=False, round_trip=True, warnings="error")
    except Exception as error:  # a field's own serializer may raise anything
        raise PayloadInvalid(f"{cls.__name__} cannot be written as JSON: {clean_text(str(error), 500)}") from error


def _read(cls: type[Model], text: str | bytes, *, by_alias: bool) -> Model:
    try:
        return cls.__pydantic_validator__.validate_json(text, by_alias=by_alias, by_name=True)  # type: ignore[no-any-return]  # typed Any
    except ValidationError as error:
        raise PayloadInvalid(f"{cls.__name__}: {_explained(error)}{_remedy(cls, error)}") from error
    except Exception as error:  # a field's own validator may raise anything
        reason = clean_text(f"{type(error).__name__}: {error}", 500)
        raise PayloadInvalid(f"{cls.__name__} cannot be built from its payload: {reason}") from error


def _explained(error: ValidationError) -> str:
    """Return what is wrong, field by field, without the values: they may be long, or secret."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    listed = [f"{_path(detail['loc'])}: {detail['msg']}" if detail["loc"] else detail["msg"] for detail in details]
    more = len(listed) - _SHOWN_ERRORS
    return clean_text("; ".join(listed[:_SHOWN_ERRORS]) + (f"; and {more} more" if more > 0 else ""), 2000)


def _remedy(cls: type[BaseModel], error: ValidationError) -> str:
    """What to write instead of a text that is no JSON, or JSON but no object."""
    if error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] not in _NO_OBJECT:
        return ""
    field = next(iter(cls.model_fields), None)
    example = "{}" if field is None else f'{{"{field}": …}}'
    return f": the payload is a JSON object, as in '{example}'"


def _path(steps: tuple[int | str, ...]) -> str:
    return readable("".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip("."))


def _check_return(task: BaseModel, text: bytes, names: list[str]) -> None:
    """Read the text back and compare: JSON has no word for many types, and pydantic changes some without one."""
    cls = type(task)
    try:
        again = load_payload(cls, text)
    except PayloadInvalid as error:
        raise PayloadInvalid(f"what would be stored could not be read back: {error}") from error
    for name in names:
        value = task.__dict__[name]
        if not _same(value, again.__dict__[name]):
            raise PayloadInvalid(
                f"{cls.__name__}.{name}: this {type(value).__name__} does not come back from JSON as it was: "
                "give the field a type that pydantic restores exactly (not Any)"
            )


def _same(old: Any, new: Any) -> bool:
    """Compare as users do: a tuple equals its list, an instant equals itself in any time zone."""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(item, new[key]) for key, item in old.items())
    if isinstance(old, BaseModel) and type(old) is type(new):
        return _same(old.__dict__, new.__dict__)
    if isinstance(old, datetime) and isinstance(new, datetime) and old.tzinfo and new.tzinfo:
        # PEP 495: == is False for any instant in an hour that the clocks repeat
        return old.astimezone(UTC) == new.astimezone(UTC)
    return bool(old == new)
