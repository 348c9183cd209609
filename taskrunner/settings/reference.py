"""The reference page of the settings and the example `.env`, both made from the model.

`python -m taskrunner.settings.reference` writes them anew in a checkout.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from taskrunner.settings import Settings, bounds, default_text
from taskrunner.settings.sources import FLAGS, variable

ROOT = Path(__file__).parents[2]
PAGE = Path("docs/reference/settings.md")
EXAMPLE = Path(".env.example")

GROUPS: dict[str, tuple[str, ...]] = {
    "Project": ("project", "tasks"),
    "Database": ("database_url", "pg_bin", "listen", "prepare"),
    "Runners": (
        *("queues", "concurrency", "processes", "process_slots", "session_connections"),
        *("grace", "poll", "uvloop"),
    ),
    "Leases and limits": ("heartbeat", "lease", "crash_limit", "stray_limit", "catch_up_limit"),
    "Retention": (
        "history_retention",
        "history_keep",
        "history_partition",
        "partitions_ahead",
        "archive_dir",
        "stats_retention",
        "audit_retention",
        "idempotency_retention",
    ),
    "API": ("api_host", "api_port", "api_token", "api_tokens"),
    "Logs, traces, metrics": (
        "metrics_port",
        "metrics_host",
        "traces",
        "log_level",
        "log_format",
        "task_log",
        "task_log_lines",
        "redact",
    ),
}

KINDS = {
    "database_url": "PostgreSQL URL",
    "project": "folder",
    "pg_bin": "folder",
    "queues": "names with weights",
    "history_keep": "queues and states with durations",
    "archive_dir": "folder",
    "api_token": "text, secret",
    "redact": "names of keys",
    "metrics_port": "whole number, 0 to 65535",
    "api_tokens": "names with scopes and secrets",
}

INTRODUCTION = """\
# Settings

A setting's value comes from the first of these that has it:

1. a flag of the command, where it has one: `--concurrency 5` for `concurrency` ({flags});
2. the environment: the variable in the tables below; an empty one counts as unset;
3. `taskrunner.toml` in the project folder: `concurrency = 5`;
4. `pyproject.toml` in the project folder: the same line in the table `[tool.taskrunner]`;
5. the default.

`taskrunner config show` prints every setting with its value and where that came from. A bad value, an unknown
name in a file or a misspelt `TASKRUNNER_` variable stops the start with exit code 3; all of them are listed at once.

A **duration** is a number of seconds (`15`, `0.5`) or a number with `ms`, `s`, `m`, `h` or `d` (`15s`, `5m`, `30d`),
in flags, variables and files alike. A folder in a file is relative to that file. A `.env` file is not read by
taskrunner itself: Docker Compose does so, and `set -a; . ./.env` does it in a shell.
"""


def reference() -> str:
    """Return the reference page in Markdown, from the model's fields; the same on every machine."""
    renamed = ", ".join(f"`{name}` is `{flag}`" for name, flag in FLAGS.items())
    tables = [_table(title, names) for title, names in GROUPS.items()]
    return "\n".join([INTRODUCTION.format(flags=renamed), *tables])


def _table(title: str, names: tuple[str, ...]) -> str:
    head = f"## {title}\n\n| setting | variable | value | default | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(_row(name, Settings.model_fields[name]) for name in names)


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | `{variable(name)}` | {kind(name)} | {default_text(name)} | {field.description} |\n"


def example() -> str:
    """Return an example `.env`: every variable with its meaning, commented out at its default."""
    blocks = [_block(title, names) for title, names in GROUPS.items()]
    head = "# Settings of taskrunner, for Docker Compose and other tools that read .env; each line shows the default.\n"
    return "\n".join([head, *blocks])


def _block(title: str, names: tuple[str, ...]) -> str:
    lines = [f"# --- {title}\n"]
    for name in names:
        field = Settings.model_fields[name]
        default = "" if field.default_factory or field.default in (None, ()) else default_text(name)
        lines.append(f"# {field.description}\n#{variable(name)}={default}\n")
    return "".join(lines)


def kind(name: str) -> str:
    """Name the values a setting takes, with its bounds, for people."""
    if name in KINDS:
        return KINDS[name]
    annotation: object = Settings.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    words: dict[object, str] = {bool: "true or false", timedelta: "duration", int: "whole number", str: "text"}
    return ", ".join(filter(None, (words[annotation], bounds(name))))


def main() -> None:
    """Write both files into the checkout that this module belongs to."""
    (ROOT / PAGE).write_text(reference(), "utf-8")
    (ROOT / EXAMPLE).write_text(example(), "utf-8")


if __name__ == "__main__":
    main()
