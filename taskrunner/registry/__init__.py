"""Names and their classes: declared by `@register_task`, found by importing the project's tasks folder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskrunner.registry.declaration import register_task
from taskrunner.registry.types import CatchUp, Executor, Registry, TaskType, isolated, registry

if TYPE_CHECKING:
    from taskrunner.registry.discovery import discover
    from taskrunner.registry.unique import unique_key

__all__ = [
    "CatchUp",
    "Executor",
    "Registry",
    "TaskType",
    "discover",
    "isolated",
    "register_task",
    "registry",
    "unique_key",
]

# A module that declares tasks needs neither of these.
_LATER = {"discover": "discovery", "unique_key": "unique"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return value
