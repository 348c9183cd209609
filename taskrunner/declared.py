"""What the registry says of schedules: which are declared, since when, and how their tasks are made."""

from __future__ import annotations

from pathlib import Path

from taskrunner.intake import Options, compose
from taskrunner.payload import parse_payload
from taskrunner.registry import Registry, TaskType
from taskrunner.store.declaration import Declaration
from taskrunner.store.enqueue import NewTask
from taskrunner.store.schedule import Known, Template


def known(registry: Registry) -> Known:
    """Return what ticks need of the registry; payloads are checked against the class each time."""

    def make(template: Template) -> NewTask:
        task = parse_payload(registry.get(template.type).cls, template.payload)
        options = Options(key=template.key, queue=template.queue, priority=template.priority)
        return compose(registry, task, options, template.tenant)

    aliases = {kind.name: kind.aliases for kind in registry.all() if kind.aliases}
    return Known(registry.names_and_aliases(), make, aliases)


def declarations(registry: Registry) -> list[Declaration]:
    """Return the schedules that the registered types declare."""
    return [
        Declaration(kind.name, kind.frequency, version(kind), kind.catch_up, kind.jitter, kind.aliases)
        for kind in registry.all()
        if kind.frequency is not None
    ]


def ended(registry: Registry) -> dict[str, int]:
    """Return the names, older ones too, of the types that declare no schedule, each with its code's version."""
    return {
        name: version(kind) for kind in registry.all() if kind.frequency is None for name in (kind.name, *kind.aliases)
    }


def version(kind: TaskType) -> int:
    """Return when the type's file was last written, in milliseconds since 1970; 0 where there is no file."""
    try:
        return Path(kind.file).stat().st_mtime_ns // 10**6 if kind.file else 0
    except OSError:
        return 0
