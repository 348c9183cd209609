"""Fields typed as secret (`SecretStr`, `SecretBytes`, `Secret[…]`): where they are in a task, and what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from taskrunner.redaction import ANY, MASK, texts_of

Path = tuple[str, ...]

SECRETS = (SecretStr, SecretBytes, Secret)

_DEEPEST = 100


def is_secret(value: object) -> bool:
    """Whether a value is covered when it is shown."""
    return isinstance(value, SECRETS)


def clear(value: Any) -> Any:
    """Return what is in a secret, as JSON."""
    return to_jsonable_python(value.get_secret_value(), bytes_mode="base64")


def reveal(value: Any, tree: Any, found: set[Path], path: Path = ()) -> Any:
    """Return the JSON that pydantic made of a value, with its secrets as they are; their paths are added to `found`."""
    if isinstance(value, SECRETS):
        found.add(path)
        return clear(value) if tree in (MASK, "") else tree  # else a serializer of the user's has written it
    if isinstance(value, RootModel):
        return reveal(value.root, tree, found, path)
    if isinstance(tree, dict):
        if (named := _named(value)) is not None:
            return {
                key: reveal(named[key], item, found, (*path, key)) if key in named else item
                for key, item in tree.items()
            }
        if isinstance(value, Mapping) and len(value) == len(tree):
            pairs = zip(value.values(), tree.items(), strict=True)
            return {key: reveal(item, shown, found, (*path, ANY)) for item, (key, shown) in pairs}
    elif isinstance(tree, list) and isinstance(value, Collection) and len(value) == len(tree):
        return [reveal(item, shown, found, (*path, ANY)) for item, shown in zip(value, tree, strict=True)]
    return tree


def secrets_in(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts of all secrets in a value."""
    if depth > _DEEPEST:
        return
    if isinstance(value, SECRETS):
        yield from texts_of(clear(value))
        if isinstance(inner := value.get_secret_value(), bytes):
            yield inner.decode(errors="replace")
        return
    if (named := _named(value)) is not None:
        value = named
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Collection) and not isinstance(value, str | bytes | bytearray | memoryview):
        for item in value:
            yield from secrets_in(item, depth + 1)


def _named(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a model or a dataclass by their names."""
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    return None


@lru_cache(maxsize=1024)
def may_hold(cls: type[BaseModel]) -> bool:
    """Whether a field of the class is declared as secret, at any depth."""
    return _declares(cls, set())


def declared_secret(annotation: Any) -> bool:
    """Whether a value of this type may hold a secret."""
    return _declares(annotation, set())


def _declares(kind: Any, seen: set[int]) -> bool:
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    if isinstance(kind, type) and issubclass(kind, SECRETS):
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if any(_declares(field.annotation, seen) for field in kind.model_fields.values()):
            return True
    elif isinstance(kind, type) and is_dataclass(kind) and any(_declares(field.type, seen) for field in fields(kind)):
        return True
    parts = (*get_args(kind), getattr(kind, "__origin__", None), getattr(kind, "__value__", None))
    return any(_declares(part, seen) for part in parts if part is not None)
