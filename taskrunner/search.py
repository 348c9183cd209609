"""What people type to find tasks, read into the fields of a filter, and written back: for URLs and for the audit trail.

`type:SendEmail state:dead since:2h payload.user.id:42 error:"timed out" 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60`
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.errors import InvalidArgument, suggest
from taskrunner.jsonvalue import readable, storable
from taskrunner.redaction import MARKS, secret_name
from taskrunner.settings import parse_duration
from taskrunner.states import State

WORDS = {
    "state": "state",
    "type": "type",
    "queue": "queue",
    "tenant": "tenant",
    "key": "key",
    "since": "since",
    "until": "until",
    "error": "error",
    "runner": "runner_id",
}
"""The words of a search that stand once, and the fields of the filter that they fill."""

LONGEST = 4000
"""Characters of a search."""

DEEPEST = 20
"""Steps of a path into a payload."""

_SEVERAL = ("payload", "meta", "id")
_BARE = re.compile(r"[^\s\"'\\]+")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?")
_JSON_NAMES = ("true", "false", "null")


class Where(NamedTuple):
    """A field of a payload, or of `meta`, and what it may equal as JSON text: 42 is looked for as 42 and as "42"."""

    column: str
    path: list[str]
    values: list[str]


def parse(text: str, now: datetime) -> dict[str, Any]:
    """Return the fields of a `TaskFilter` that the search asks for; durations are before `now`.

    Raises: `InvalidArgument` naming the word that cannot be used, and those that are meant perhaps.
    """
    found: dict[str, Any] = {}
    ids: list[UUID] = []
    where: list[str] = []
    for name, value in _terms(text):
        if name == "id":
            ids.append(_id(value, "id"))
        elif name in WORDS:
            if WORDS[name] in found:
                raise InvalidArgument(f"{name}: is given twice, and a task has one")
            found[WORDS[name]] = _value(name, value, now)
        else:
            read_where(f"{name}:{value}")
            where.append(f"{name}:{value}")
    return {**found, **({"ids": tuple(ids)} if ids else {}), **({"where": tuple(where)} if where else {})}


def spell(fields: Mapping[str, Any]) -> str:
    """Return the search that `parse` reads as these fields; fields that a search has no word for are left out."""
    words = [term(word, _text(fields[name])) for word, name in WORDS.items() if fields.get(name) is not None]
    for where in fields.get("where") or ():
        path, _, value = where.partition(":")
        words.append(term(path, value))
    return " ".join([*words, *map(str, fields.get("ids") or ())])


def term(name: str, value: str) -> str:
    """Return one word of a search, with quotes where it needs them."""
    return f"{quoted(name)}:{quoted(value)}"


def quoted(text: str) -> str:
    """Return what is split off as this text, whatever is in it."""
    if _BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def from_shell(argument: str) -> str:
    """Return an argument of a command as a search: the shell has taken the quotes of `error:"timed out"` away."""
    try:
        words = shlex.split(argument)
    except ValueError:
        words = []
    if words and all(":" in word or _is_id(word) for word in words):
        return argument
    name, colon, value = argument.partition(":")
    return name + colon + quoted(value) if colon else argument


def read_where(term: str) -> Where:
    """Read `payload.user.id:42` or `meta.tag:x`. Raises: `InvalidArgument` naming what is wrong with it."""
    dotted, colon, value = term.partition(":")
    column, *path = dotted.split(".")
    shown = repr(readable(term))
    if column not in ("payload", "meta") or not path or not colon:
        raise InvalidArgument(f"{shown} is no field: write payload.user.id:42 or meta.tag:x")
    if not all(path):
        raise InvalidArgument(f"{shown}: a step of the path is empty")
    if len(path) > DEEPEST:
        raise InvalidArgument(f"{shown}: the path has {len(path)} steps, at most {DEEPEST} are looked at")
    if not storable(term):
        raise InvalidArgument(f"{shown} holds a character that no task can have")
    if any(secret_name(step) for step in path) or path[0] == MARKS:
        raise InvalidArgument(f"{readable(dotted)} is named like a secret: secrets are not searched (setting `redact`)")
    return Where(column, path, _candidates(value))


def instant(text: str, now: datetime, name: str) -> datetime:
    """Read an ISO time with its zone, or a duration before `now`. Raises: `InvalidArgument` naming where it stands."""
    if text[:1].isdigit() and "-" not in text:
        try:
            return now - parse_duration(text)
        except (ValueError, OverflowError):
            raise InvalidArgument(f"{name} must be 15m, 2h, 7d ago or an ISO time, not {readable(text)!r}") from None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            f"{name} must be a time as in 2026-01-31T08:00:00Z, or 2h, not {readable(text)!r}"
        ) from None
    if read.tzinfo is None:
        raise InvalidArgument(f"{name} {text} has no time zone: write {text}Z or {text}+02:00")
    return read


def _terms(text: str) -> Iterator[tuple[str, str]]:
    """Split as a shell does, and tell names from values."""
    if len(text) > LONGEST:
        raise InvalidArgument(f"a search has at most {LONGEST:,} characters, not {len(text):,}")
    if not storable(text):
        raise InvalidArgument("a search with a NUL character or half a surrogate finds nothing: leave it out")
    try:
        words = shlex.split(text)
    except ValueError:
        raise InvalidArgument(f'a quote is not closed in {text!r}: write error:"don\'t" in double quotes') from None
    return map(_term, words)


def _term(word: str) -> tuple[str, str]:
    name, colon, value = word.partition(":")
    if not colon:
        return "id", _bare_id(word)
    known = name in WORDS or name == "id" or name.partition(".")[0] in ("payload", "meta")
    if not known:
        close = suggest(name, [*WORDS, *_SEVERAL])
        raise InvalidArgument(f"{readable(name)!r} is nothing that tasks are searched by{close}")
    if not value and "." not in name:
        raise InvalidArgument(f"{name}: has no value; write {name}:something, without a space")
    return name, value


def _bare_id(word: str) -> str:
    if _is_id(word):
        return word
    shown = readable(word)
    raise InvalidArgument(
        f"{shown!r} is no task id: write type:{shown}, key:{shown} or error:{shown}, whichever is meant"
    )


def _is_id(word: str) -> bool:
    try:
        UUID(word)
    except ValueError:
        return False
    return True


def _value(name: str, value: str, now: datetime) -> Any:
    if name == "state":
        if value not in tuple(State):
            close = suggest(value, map(str, State))
            raise InvalidArgument(f"there is no state {readable(value)!r}{close}")
        return State(value)
    if name in ("since", "until"):
        return instant(value, now, f"{name}:")
    return _id(value, name) if name == "runner" else value


def _id(value: str, name: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise InvalidArgument(f"{name}:{readable(value)} is no id: an id is a UUID") from None


def _candidates(value: str) -> list[str]:
    from json import dumps

    as_json = value in _JSON_NAMES or _JSON_NUMBER.fullmatch(value)
    return [*([value] if as_json else []), dumps(value)]


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def empty(fields: Mapping[str, Any]) -> bool:
    """Whether a filter narrows nothing, and so means all there is."""
    return not any(value for name, value in fields.items() if name not in ("limit", "after"))
