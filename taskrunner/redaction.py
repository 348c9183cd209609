"""What people do not get to see: values under keys that are named like secrets, and fields that are typed as such.

The database holds payloads whole, for `run()` gets them whole. Where the secret fields of one are is noted in its
task's `meta` under `MARKS`, so that who shows it need not know the class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

MASK = "**********"
"""What stands in a secret's place, whatever its length: as pydantic writes a `SecretStr`."""

MARKS = "$secrets"
"""The key of `meta` that holds the paths of a payload's secrets; people never see it, and cannot give it."""

ANY = "*"
"""A step of a path: every item of a list, every value of a mapping."""

NAMES = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "private_key",
    "access_key",
    "authorization",
    "cookie",
    "credentials",
)
"""Keys whose values are covered unless the setting `redact` says otherwise."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_DEEPEST = 200
_names = frozenset(NAMES)
_known: dict[str, bool] = {}  # what has been asked: payloads have few different keys


def use(names: Collection[str]) -> None:
    """Cover, from now on in this process, what is under keys of these names."""
    global _names
    _names = frozenset(_spelled(name) for name in names)
    _known.clear()


def secret_name(name: object) -> bool:
    """Whether a key is named like a secret: its last words are one of the names, however they are written.

    So `token` covers `access_token`, `accessToken` and `X-Token`, and neither `tokens` nor `token_count`.
    """
    if not isinstance(name, str):
        return False
    found = _known.get(name)
    if found is None:
        spelled = _spelled(name)
        found = any(spelled == secret or spelled.endswith("_" + secret) for secret in _names)
        if len(_known) < 10_000:
            _known[name] = found
    return found


def _spelled(name: str) -> str:
    return "_".join(word.lower() for word in _WORDS.split(name) if word)


def by_name(value: Any, depth: int = 0) -> Any:
    """Return a JSON value with all that is under keys named like secrets covered; nothing is changed in place."""
    if depth > _DEEPEST:
        return MASK
    if isinstance(value, Mapping):
        return {
            key: MASK if item is not None and secret_name(key) else by_name(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [by_name(item, depth + 1) for item in value]
    return value


def covered_key(value: Any, path: str = "") -> str:
    """Return the path of a key that is named like a secret and holds what it is shown as; empty: there is none."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        step = f"{path}.{key}".lstrip(".")
        if item == MASK and secret_name(key):
            return step
        if found := covered_key(item, step):
            return found
    return ""


def by_path(value: Any, paths: Collection[Sequence[str]]) -> Any:
    """Return a JSON value with what is at the paths covered, whatever it is; nothing is changed in place."""
    if not paths:
        return value
    if any(not path for path in paths):
        return value if value is None else MASK
    if isinstance(value, Mapping):
        return {key: by_path(item, _beneath(paths, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [by_path(item, _beneath(paths, ANY)) for item in value]
    return value


def _beneath(paths: Collection[Sequence[str]], step: str) -> list[Sequence[str]]:
    return [path[1:] for path in paths if path[0] in (step, ANY)]


def marks_of(meta: object) -> list[list[str]]:
    """Return the paths that `meta` notes; what some other hand has written there is none."""
    found = meta.get(MARKS) if isinstance(meta, Mapping) else None
    if not isinstance(found, list):
        return []
    return [path for path in found if isinstance(path, list) and all(isinstance(step, str) for step in path)]


def marked(meta: Mapping[str, Any], paths: Collection[Sequence[str]]) -> dict[str, Any]:
    """Return `meta` with the paths noted."""
    return {**meta, MARKS: [list(path) for path in paths]}


def unmarked(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta` as its task's author gave it."""
    return {key: value for key, value in meta.items() if key != MARKS}


def covered(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task as people see them: payload, meta, result, progress and errors without secrets."""
    seen = dict(row)
    meta = seen.get("meta")
    if "payload" in seen:
        seen["payload"] = by_name(by_path(seen["payload"], marks_of(meta)))
    if isinstance(meta, Mapping):
        seen["meta"] = by_name(unmarked(meta))
    for name in ("result", "progress", "errors"):
        if name in seen:
            seen[name] = by_name(seen[name])
    return seen


def pattern(payload: Mapping[str, Any], paths: Collection[Sequence[str]], fields: Collection[str]) -> dict[str, Any]:
    """Return the payload of a schedule with the paths noted in it: schedules have no `meta`.

    What is under another name than one of the task's `fields`, an alias, may be a secret one: it is covered as well.
    """
    aliases = [] if not paths else [[key] for key in payload if key not in fields]
    return {**payload, MARKS: [*map(list, paths), *aliases]} if paths else dict(payload)


def covered_pattern(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a schedule as people see them."""
    payload = row["payload"]
    if not isinstance(payload, Mapping):
        return dict(row)
    return {**row, "payload": by_name(by_path(unmarked(payload), marks_of(payload)))}


def texts_at(value: Any, paths: Collection[Sequence[str]]) -> Iterator[str]:
    """Yield the texts, and the numbers as texts, that are at the paths and beneath them."""
    if not paths:
        return
    if any(not path for path in paths):
        yield from texts_of(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_at(item, _beneath(paths, key))
    elif isinstance(value, list):
        for item in value:
            yield from texts_at(item, _beneath(paths, ANY))


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts and numbers of a JSON value."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
