"""What a door's caller wants to see, as the filter of a list."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from taskrunner.errors import InvalidArgument
from taskrunner.reads import TaskFilter
from taskrunner.registry import Registry


def wanted(registry: Registry, type_: Any, **filters: Any) -> TaskFilter:
    """Return the filter; a type is given by its class or its name. Raises: `InvalidArgument`, `UnknownType`."""
    name = type_ if type_ is None or isinstance(type_, str) else registry.of(type_).name
    try:
        return TaskFilter(type=name, **filters)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from error
