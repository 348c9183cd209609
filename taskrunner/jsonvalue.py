"""What may be written as JSON into PostgreSQL, decided before anything is written.

jsonb has no NaN, no infinity, no NUL and no lone surrogate, and turns every number into `numeric`: a float of 2**53
or more comes back as an integer, which equals the float only if all of its digits were written.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, NoReturn, TypeAlias

from pydantic_core import to_json

from taskrunner.errors import PayloadInvalid

MAX_DEPTH = 100  # lists and objects within each other; pydantic reads 200
MAX_BYTES = 64 * 2**20  # of JSON text; jsonb itself ends at 256 MB
MAX_INTEGER = 10**4300  # Python's own limit on reading digits (sys.get_int_max_str_digits)
EXACT_FLOAT = 2.0**53  # from here on every float is a whole number
EXACT_INTEGER = 2**63  # far below any limit

PLAIN: Final = 0  # flags of a survey: nothing to be done
BIG: Final = 1  # has floats that must be written as integers
FOREIGN: Final = 2  # has values that JSON has no type for
SECRET: Final = 4  # has values that are covered when they are shown

Other: TypeAlias = Callable[[object, int], int]


class RefusedError(Exception):
    """A value that cannot be kept, and on the way out the path to it, innermost first."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[object] = []
        super().__init__(reason)

    def to_error(self, root: str) -> PayloadInvalid:
        """Return the error for the caller, the path written as in Python: `meta.tags[3]`."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.path))
        path = "".join([root, *steps]).lstrip(".")
        return PayloadInvalid(f"{readable(path)}: {self.reason}")


def readable(text: str) -> str:
    """Return text that any terminal, log or database takes, from names that may hold anything."""
    return text[:500].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def check_json(value: object, path: str = "value") -> None:
    """Raise PayloadInvalid, with the path, for what is no JSON value; tuples pass as lists."""
    _survey(value, path)


def dump_json(value: object, path: str = "value") -> str:
    """Write a JSON value so that numbers compare equal when read back from jsonb; raises PayloadInvalid."""
    flags = _survey(value, path)
    return limited(to_json(exact(value) if flags & BIG else value), path)


def limited(text: bytes, path: str) -> str:
    """Return JSON text of at most 64 MB; raises PayloadInvalid."""
    if len(text) > MAX_BYTES:
        raise PayloadInvalid(
            f"{path}: {len(text):,} bytes of JSON are too many, at most {MAX_BYTES:,}: store it elsewhere"
        )
    return text.decode()


def scan(value: object, depth: int, other: Other) -> int:
    """Return what is to be done to write a value (flags); raises RefusedError. `other` judges what is no JSON type."""
    reader = _READERS.get(value.__class__)
    if reader is not None:
        return reader(value, depth, other)
    for kind in (str, int, float, dict, list, tuple):
        if isinstance(value, kind):
            return _READERS[kind](value, depth, other)
    return other(value, depth)


def exact(value: object) -> object:
    """Return a copy of a JSON value with its big floats as the integers they are."""
    if isinstance(value, float):
        return int(value) if abs(value) >= EXACT_FLOAT else value
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    return value


def storable(text: str) -> bool:
    """Whether PostgreSQL can hold the text."""
    try:
        check_text(text)
    except RefusedError:
        return False
    return True


def check_text(text: str) -> None:
    """Raise RefusedError for text that PostgreSQL cannot hold."""
    if "\0" in text:
        raise RefusedError("a NUL character cannot be stored")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RefusedError("a lone surrogate is no character and cannot be stored") from None


def refuse_depth(depth: int) -> None:
    """Raise RefusedError below the last level that is kept."""
    if depth > MAX_DEPTH:
        raise RefusedError(f"nested deeper than {MAX_DEPTH} levels, or within itself")


def _survey(value: object, path: str) -> int:
    try:
        return scan(value, 0, _no_json)
    except RefusedError as refused:
        raise refused.to_error(path) from None


def _no_json(value: object, _depth: int) -> NoReturn:
    raise RefusedError(f"{type(value).__qualname__} is no JSON value")


def _fine(_value: object, _depth: int, _other: Other) -> int:
    return PLAIN


def _text(value: str, _depth: int, _other: Other) -> int:
    check_text(value)
    return PLAIN


def _integer(value: int, _depth: int, _other: Other) -> int:
    if not -MAX_INTEGER < value < MAX_INTEGER:
        raise RefusedError("an integer of more than 4,300 digits cannot be read back")
    return PLAIN


def _float(value: float, _depth: int, _other: Other) -> int:
    if -EXACT_FLOAT < value < EXACT_FLOAT:
        return PLAIN
    if not isfinite(value):
        raise RefusedError(f"{float(value)} is no JSON number")
    return BIG


def _list(value: list[object], depth: int, other: Other) -> int:
    depth += 1
    refuse_depth(depth)
    flags = PLAIN
    index = 0
    try:
        for item in value:
            flags |= scan(item, depth, other)
            index += 1
    except RefusedError as refused:
        refused.path.append(index)
        raise
    return flags


def _tuple(value: tuple[object, ...], depth: int, other: Other) -> int:
    return _list(value, depth, other) | FOREIGN  # type: ignore[arg-type]  # only iterated


def _dict(value: dict[object, object], depth: int, other: Other) -> int:
    depth += 1
    refuse_depth(depth)
    flags = PLAIN
    key: object = None
    try:
        for key, item in value.items():
            flags |= _key(key, depth, other) | scan(item, depth, other)
    except RefusedError as refused:
        refused.path.append(key if isinstance(key, str) else f"<{type(key).__name__}>")
        raise
    return flags


def _key(key: object, depth: int, other: Other) -> int:
    if isinstance(key, str):
        check_text(key)
        return PLAIN
    if other is _no_json:
        raise RefusedError(f"a key must be text, not {type(key).__qualname__}")
    return scan(key, depth, other) | FOREIGN


_READERS: dict[type, Callable[[Any, int, Other], int]] = {
    str: _text,
    int: _integer,
    float: _float,
    bool: _fine,
    type(None): _fine,
    list: _list,
    tuple: _tuple,
    dict: _dict,
}
