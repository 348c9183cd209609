"""What a door's caller wants to see, as the filter of a list."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from taskrunner import search
from taskrunner.errors import InvalidArgument
from taskrunner.reads import TaskFilter
from taskrunner.registry import Registry


def wanted(registry: Registry, type_: Any, **filters: Any) -> TaskFilter:
    """Return the filter; a type is given by its class or its name. Raises: `InvalidArgument`, `UnknownType`."""
    name = type_ if type_ is None or isinstance(type_, str) else registry.of(type_).name
    return _filter(type=name, **filters)


def searched(text: str, now: datetime, **filters: Any) -> TaskFilter:
    """Return the filter that a search text and other filters make together; None and empty ones say nothing.

    Raises: `InvalidArgument` for what cannot be read, and for what is asked for twice.
    """
    given = {name: value for name, value in filters.items() if value not in (None, ())}
    found = search.parse(text, now)
    for name in ("where", "ids"):
        if name in given and name in found:
            found[name] = (*given.pop(name), *found[name])
    for name in found.keys() & given.keys():
        raise InvalidArgument(f"{name} is given twice, in the search {text!r} and beside it: give one of them")
    return _filter(**given, **found)


def _filter(**fields: Any) -> TaskFilter:
    try:
        return TaskFilter(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from error
