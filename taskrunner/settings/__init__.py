"""The configuration: `load()` reads it, `explain()` tells every value and where it came from.

Nothing is read at import. `Settings(...)` takes only what it is given; `load()` is the one place that looks at flags,
the environment, `taskrunner.toml` and `pyproject.toml` (in this order of precedence). A `.env` file is not read:
Docker Compose and most process managers put its lines into the environment themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from taskrunner.errors import SettingsInvalid, suggest
from taskrunner.settings.model import Settings
from taskrunner.settings.sources import (
    UNMARKED,
    Layer,
    environment_layer,
    file_layers,
    find_project,
    flag_layer,
    variable,
)
from taskrunner.settings.values import display, parse_duration, parse_queues

__all__ = ["UNMARKED", "Setting", "Settings", "explain", "load", "parse_duration", "parse_queues"]

NAMES = frozenset(Settings.model_fields)

# Where pydantic's own words would be Python's.
KINDS = {
    "int": "must be a whole number",
    "bool": "must be true or false",
    "string": "must be a text, not empty",
    "path": "must be a folder",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as people see it: texts without secrets; `source` says where the value came from."""

    name: str
    variable: str
    value: str
    source: str
    default: str
    description: str


def load(flags: Mapping[str, object] | None = None, *, project: Path | None = None) -> Settings:
    """Read flags, environment, `taskrunner.toml` and `pyproject.toml`; SettingsInvalid names every bad value at once.

    Flags are named like the settings, those that are None were not given. `project` stands for the flag of that name.
    """
    layers = _layers({**(flags or {}), **({"project": project} if project else {})})
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in reversed(layers):
        values.update(layer.values)
        origins.update((name, layer.describe(name)) for name in layer.values)
    faults = [fault for layer in layers for fault in (*layer.faults, *_unknown(layer))]
    known = {name: value for name, value in values.items() if name in NAMES}
    try:
        settings = Settings(**known)
    except ValidationError as error:
        faults = _reasons(error, known, origins) + faults
    if faults:
        raise SettingsInvalid("the settings cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))
    settings.remember(origins)
    return settings


def _layers(flags: Mapping[str, object]) -> list[Layer]:
    given = [flag_layer(flags), environment_layer(NAMES)]
    stated = {**given[1].values, **given[0].values}
    if "project" in stated:
        return given + file_layers(Path(str(stated["project"])).expanduser())
    root, reason = find_project(Path.cwd(), str(stated.get("tasks", "tasks")))
    return [*given, *file_layers(root), Layer({"project": root}, lambda _: reason)]


def _unknown(layer: Layer) -> list[str]:
    names = sorted(layer.values.keys() - NAMES)
    return [f"{layer.describe(name)} is no setting{suggest(name, NAMES)}" for name in names]


def _reasons(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    reasons = []
    for detail in error.errors(include_url=False, include_input=False):
        name = str(detail["loc"][0])
        value = values.get(name, Settings.model_fields[name].default)
        reasons.append(f"{name} = {display(name, value)} ({origins.get(name, 'default')}): {_why(name, detail)}")
    return reasons


def _why(name: str, detail: ErrorDetails) -> str:
    if detail["type"] in ("greater_than_equal", "less_than_equal"):
        return f"must be {bounds(name)}"
    words = KINDS.get(detail["type"].split("_")[0], detail["msg"])
    return words.removeprefix("Value error, ").replace("Input should be", "must be")


def bounds(name: str) -> str:
    """Write the bounds of a setting, as in `1 to 256` or `at most 7d`; empty where it has none."""
    metadata = Settings.model_fields[name].metadata
    low, high = (
        next((display(name, getattr(item, bound)) for item in metadata if hasattr(item, bound)), "")
        for bound in ("ge", "le")
    )
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else ""


def explain(settings: Settings) -> list[Setting]:
    """Return every setting with its value, source, default and description, secrets masked: `config show`."""
    return [
        Setting(
            name=name,
            variable=variable(name),
            value=display(name, getattr(settings, name)),
            source=settings.origin(name),
            default=default_text(name),
            description=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def default_text(name: str) -> str:
    """Write a setting's default; what depends on the machine is described, not computed."""
    computed = {"project": "found upwards from the current folder", "process_slots": "number of CPUs"}
    return computed.get(name) or display(name, Settings.model_fields[name].get_default(call_default_factory=True))
