"""Names and their classes: declared by `@register_task`, found by importing the project's tasks folder."""

from __future__ import annotations

from taskrunner.registry.declaration import register_task
from taskrunner.registry.discovery import discover
from taskrunner.registry.types import CatchUp, Executor, Registry, TaskType, isolated, registry
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
