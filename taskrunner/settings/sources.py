"""Where settings come from: flags, the environment, two TOML files, and the folder the project is found in."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "TASKRUNNER_"
OWN_FILE = "taskrunner.toml"
SHARED_FILE = "pyproject.toml"
SHARED_TABLE = ("tool", "taskrunner")
FLAGS = {"api_host": "--host", "api_port": "--port"}

# Above this likeness an unknown TASKRUNNER_ variable is a misspelt setting, below it the user's own:
# LEESE, CONCURENCY and PROCESS are caught (0.8 and more), POOL, HOME and QUEUE_URL are not (0.75 and less).
LIKENESS = 0.8

# Where the project folder came from when nothing told that it is one.
UNMARKED = "current folder"


@dataclass(frozen=True, slots=True)
class Layer:
    """The values one source has, by setting; `describe` names a value's place, `faults` what could not be read."""

    values: Mapping[str, Any]
    describe: Callable[[str], str]
    faults: tuple[str, ...] = field(default=())


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return "DATABASE_URL" if name == "database_url" else PREFIX + name.upper()


def flag(name: str) -> str:
    """Return the command-line flag of a setting."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def flag_layer(flags: Mapping[str, object]) -> Layer:
    """Return the flags that were given; None means that one was not."""
    given = {name: value for name, value in flags.items() if value is not None}
    return Layer(given, lambda name: f"flag {flag(name)}")


def environment_layer(known: frozenset[str]) -> Layer:
    """Return the environment's values, by their names in any case; an empty one counts as unset.

    Variables that look like misspelt settings are its faults.
    """
    given = {name.upper(): value for name, value in os.environ.items() if value}
    values = {name: given[variable(name)] for name in sorted(known) if variable(name) in given}
    return Layer(values, lambda name: f"environment {variable(name)}", tuple(_misspelt(os.environ, known)))


def _misspelt(environ: Mapping[str, str], known: frozenset[str]) -> Iterator[str]:
    from difflib import get_close_matches  # hardly ever needed

    variables = {variable(name) for name in known}
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name.upper() in variables or not environ[name]:
            continue
        # Compared without the prefix, which would make any two names look alike.
        close = get_close_matches(name[len(PREFIX) :].lower(), known, n=1, cutoff=LIKENESS)
        if close:
            yield f"environment {name} is no setting; did you mean {variable(close[0])}?"


def file_layers(root: Path) -> list[Layer]:
    """Return what the project's own file and its table in the shared one say, in order of precedence."""
    return [
        _file_layer(root / OWN_FILE, (), lambda name: f"{OWN_FILE}: {name}"),
        _file_layer(root / SHARED_FILE, SHARED_TABLE, lambda name: f"{SHARED_FILE}: {'.'.join(SHARED_TABLE)}.{name}"),
    ]


def _file_layer(path: Path, table: tuple[str, ...], describe: Callable[[str], str]) -> Layer:
    try:
        values: Any = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Layer({}, describe)
    except (OSError, ValueError) as error:
        # TOMLDecodeError and UnicodeDecodeError are ValueErrors; the former ends in "(at line 3, column 7)".
        return Layer({}, describe, (f"{path} cannot be read: {error}",))
    for name in table:
        values = values.get(name, {}) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        return Layer({}, describe, (f"{path}: {'.'.join(table)} must be a table",))
    circular = f"{describe('project')} cannot be set in a file that the project is found by: use {variable('project')}"
    return Layer(_anchored(values, path.parent), describe, (circular,) if "project" in values else ())


def _anchored(values: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Paths in a file are relative to it, so that a command means the same from any folder."""
    kept = {name: value for name, value in values.items() if name != "project"}
    for name in ("pg_bin", "archive_dir"):
        if isinstance(kept.get(name), str):
            kept[name] = root / Path(kept[name]).expanduser()
    return kept


def find_project(start: Path, tasks: str) -> tuple[Path, str]:
    """Return the nearest folder, upwards from `start`, that is a project, and what told so; else `start` itself."""
    for folder in (start, *start.parents):
        with suppress(PermissionError):  # a folder above may be closed to this user
            if (mark := _mark(folder, tasks)) is not None:
                return folder, f"found by {mark}"
    return start, UNMARKED


def _mark(folder: Path, tasks: str) -> str | None:
    if (folder / OWN_FILE).is_file():
        return OWN_FILE
    if (folder / SHARED_FILE).is_file() and _declares(folder / SHARED_FILE):
        return SHARED_FILE
    modules = (folder / tasks.replace(".", "/")).glob("*.py")
    return f"the folder {tasks}" if next(modules, None) is not None else None


def _declares(path: Path) -> bool:
    """Whether the shared file has our table; a broken one need only mention it: its fault is then told, not hidden."""
    text = path.read_text("utf-8", errors="replace")
    try:
        tool = tomllib.loads(text).get("tool")
    except tomllib.TOMLDecodeError:
        return ".".join(SHARED_TABLE) in text
    return isinstance(tool, dict) and "taskrunner" in tool
