"""Every setting with its default, its bounds and its meaning: what can be set, not where it comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from taskrunner.redaction import NAMES
from taskrunner.settings.sources import variable
from taskrunner.settings.tokens import Token, read_tokens, sendable
from taskrunner.settings.values import (
    format_duration,
    is_loopback,
    normalise_url,
    parse_duration,
    read_keep,
    read_names,
    read_queues,
)

# Two heartbeats may be lost or late, and a little of the third, before a live runner's lease ends.
LEASE_PER_HEARTBEAT = 2.5


def _count(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not true or false")
    return value


def _folder(value: Path) -> Path:
    folder = value.expanduser().resolve()
    if not folder.is_dir():
        raise ValueError("is no folder")
    return folder


def _anywhere(value: Path) -> Path:
    """A folder of another machine's, perhaps: whoever writes to it says so when it is missing."""
    folder = value.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError("is no folder")
    return folder


def _server_folder(value: Path) -> Path:
    folder = _folder(value)
    if not (folder / "postgres").is_file():
        raise ValueError("holds no program `postgres`; `pg_config --bindir` prints the folder that does")
    return folder


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _cpus() -> int:
    allowed = getattr(os, "sched_getaffinity", None)  # Linux: what a container may use, not what the machine has
    return len(allowed(0)) if allowed else os.cpu_count() or 1


Count = Annotated[int, BeforeValidator(_count)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Unit = Annotated[Literal["day", "week", "month"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
TaskLogLevel = Annotated[Literal["off", "debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)]


class Settings(BaseModel):
    """All settings, checked and unchangeable; made directly, it takes only what it is given and reads nothing."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # or a bad DATABASE_URL would print its password
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL to use (postgresql://user:password@host:5432/name); unset: a private server."
    )
    pg_bin: Annotated[Path, AfterValidator(_server_folder)] | None = Field(
        None, description="Folder with the programs of the PostgreSQL that a private server is started from."
    )
    listen: bool = Field(
        True,
        description="Wake on NOTIFY; off behind a transaction pooler, where looks find work and the ends of tasks.",
    )
    prepare: bool = Field(True, description="Use prepared statements; off behind a pooler that does not support them.")
    project: Annotated[Path, AfterValidator(_folder)] = Field(
        default_factory=Path.cwd,
        description="Project folder, put on sys.path; unset: the nearest one upwards with taskrunner.toml, "
        "[tool.taskrunner] in pyproject.toml or the tasks folder, else the current one.",
    )
    tasks: str = Field(
        "tasks", description="Package with the task classes, inside the project, as in tasks or shop.tasks."
    )

    queues: dict[str, int] = Field(
        default_factory=dict,
        description="Queues to take from, with weights, as in mail:2,default; unset: every queue of the task types.",
    )
    concurrency: Count = Field(100, ge=1, le=10_000, description="Tasks that one runner process runs at once.")
    processes: Count = Field(1, ge=1, le=256, description="Runner processes under one supervisor.")
    process_slots: Count = Field(
        default_factory=_cpus, ge=1, le=256, description='Child processes for tasks with executor="process".'
    )
    session_connections: Count = Field(
        10,
        ge=1,
        le=1000,
        description="Connections that context.session() holds at most in one runner process, for async tasks and for "
        "tasks in threads each; who comes later waits. A child process has one of its own.",
    )
    grace: Duration = Field(
        timedelta(seconds=30),
        le=timedelta(days=7),
        description="Time that running tasks get to finish after SIGTERM before they are released.",
    )
    poll: Duration = Field(
        timedelta(seconds=1),
        ge=timedelta(milliseconds=10),
        le=timedelta(hours=1),
        description="Longest wait between two looks for work when no NOTIFY comes.",
    )
    uvloop: bool = Field(True, description="Run the event loop on uvloop where it is installed.")

    heartbeat: Duration = Field(
        timedelta(seconds=5),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
        description="Time between two extensions of a runner's lease.",
    )
    lease: Duration = Field(
        timedelta(seconds=15),
        le=timedelta(days=1),
        description="Time after its last heartbeat at which a runner counts as dead and its tasks are rescued; "
        "at least 2.5 heartbeats.",
    )
    crash_limit: Count = Field(3, ge=1, le=1000, description="Runner deaths after which the task running is dead.")
    stray_limit: Count = Field(
        5, ge=1, le=1000, description="Timed-out threads still running after which a runner drains and restarts."
    )
    catch_up_limit: Count = Field(
        100, ge=1, le=100_000, description='Missed ticks that catch_up="all" makes up for at most.'
    )

    # Both at least a day: the status page counts what ended in the last 24 hours.
    history_retention: Duration = Field(
        timedelta(days=30), ge=timedelta(days=1), le=timedelta(days=3650), description="Time that ended tasks are kept."
    )
    history_keep: dict[str, Duration] = Field(
        default_factory=dict,
        description="Other times for queues and states, as in mail:7d,*/ignored:1d,mail/cancelled:90d.",
    )
    history_partition: Unit = Field(
        "day",
        description="Days that a partition of history holds; kept for long, few months are better than many days.",
    )
    archive_dir: Annotated[Path, AfterValidator(_anywhere)] | None = Field(
        None, description="Folder to which history is archived before it is dropped; unset: it is not."
    )
    stats_retention: Duration = Field(
        timedelta(days=30),
        ge=timedelta(days=1),
        le=timedelta(days=3650),
        description="Time that the figures per minute are kept.",
    )
    audit_retention: Duration = Field(
        timedelta(days=365),
        ge=timedelta(days=1),
        le=timedelta(days=36_500),
        description="Time that it is kept who did what to tasks, queues and schedules.",
    )
    idempotency_retention: Duration = Field(
        timedelta(days=7),
        ge=timedelta(seconds=1),
        le=timedelta(days=3650),
        description="Time in which an idempotency key is remembered.",
    )
    partitions_ahead: Count = Field(30, ge=30, le=366, description="Days for which history partitions are made ahead.")

    api_token: SecretStr | None = Field(None, description="Token that the API asks for.")
    api_tokens: tuple[Token, ...] = Field(
        (),
        description="Tokens by name, each good for read or write, as in grafana:read:SECRET,ada:write:SECRET; the name "
        "is who did it in the audit trail.",
    )
    api_host: str = Field(
        "127.0.0.1", min_length=1, description="Address the API listens on; one that is not loopback needs a token."
    )
    api_port: Count = Field(8000, ge=0, le=65_535, description="Port the API listens on; 0 takes a free one.")
    metrics_port: Count | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port on which a supervisor's first runner tells its own metrics, the next ones on those after it; "
        "0 takes free ones; unset: none.",
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of that port; one that is not loopback needs a token."
    )
    traces: bool = Field(True, description="Make spans where the program has an OpenTelemetry SDK that records them.")
    log_level: LogLevel = Field("info", description="Least severe log lines to write.")
    log_format: LogFormat = Field("auto", description="auto writes text to a terminal and JSON elsewhere.")
    task_log: TaskLogLevel = Field("info", description="Least severe lines that are kept with the task; or off.")
    task_log_lines: Count = Field(
        200, ge=1, le=10_000, description="Lines kept of one run: the first ones and, a quarter of them, the last."
    )
    redact: Annotated[tuple[str, ...], BeforeValidator(read_names)] = Field(
        NAMES, description="Keys whose values are covered wherever a task is shown, as in password,token,api_key."
    )

    @field_validator("database_url", mode="before")
    @classmethod
    def _known_scheme(cls, value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return normalise_url(text) if isinstance(text, str) else text

    @field_validator("tasks")
    @classmethod
    def _package(cls, name: str) -> str:
        if not re.fullmatch(r"\w+([./]\w+)*", name):
            raise ValueError("must be the name of a package inside the project, as in tasks or shop.tasks")
        return name

    @field_validator("queues", mode="before")
    @classmethod
    def _weights(cls, value: object) -> dict[str, int]:
        return read_queues(value)

    @field_validator("history_keep", mode="before")
    @classmethod
    def _by_selector(cls, value: object) -> dict[str, timedelta]:
        return read_keep(value)

    @field_validator("lease")
    @classmethod
    def _outlives_lost_heartbeats(cls, lease: timedelta, info: ValidationInfo) -> timedelta:
        heartbeat = info.data.get("heartbeat")  # absent where it is invalid itself
        if heartbeat is not None and lease < LEASE_PER_HEARTBEAT * heartbeat:
            least = format_duration(LEASE_PER_HEARTBEAT * heartbeat)
            raise ValueError(f"must be at least {least}, 2.5 times the heartbeat of {format_duration(heartbeat)}")
        return lease

    @field_validator("metrics_port")
    @classmethod
    def _one_for_each_runner(cls, port: int | None, info: ValidationInfo) -> int | None:
        highest = 65_536 - info.data.get("processes", 1)  # absent where it is invalid itself
        if port is not None and port > highest:
            raise ValueError(f"must be at most {highest}: each of the {65_536 - highest} runners has the next port")
        return port

    @field_validator("api_token")
    @classmethod
    def _sendable(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token else None
        if text is not None and not sendable(text):
            raise ValueError("must be ASCII without spaces, so that it fits into a header")
        return token

    @field_validator("api_tokens", mode="before")
    @classmethod
    def _by_name(cls, value: object, info: ValidationInfo) -> tuple[Token, ...]:
        tokens, nameless = read_tokens(value), info.data.get("api_token")
        if nameless is not None and any(token.secret == nameless for token in tokens):
            raise ValueError(f"one has the secret of {variable('api_token')}: nobody could tell who asks")
        return tokens

    @field_validator("api_host", "metrics_host")
    @classmethod
    def _open_on_loopback_only(cls, host: str, info: ValidationInfo) -> str:
        # absent where they are invalid themselves
        open_to_all = info.data.get("api_token", "?") is None and info.data.get("api_tokens", "?") == ()
        if open_to_all and not is_loopback(host):
            raise ValueError(f"can be reached from other machines: set {variable('api_token')}, or use 127.0.0.1")
        return host.strip("[]")  # an IPv6 address as in a URL: sockets take it bare

    def remember(self, origins: Mapping[str, str]) -> None:
        """Keep where each value came from, for `origin`; done once, by `load`."""
        self._origins.update(origins)

    def origins(self) -> dict[str, str]:
        """Return where each value came from, to be told to another process."""
        return {name: self.origin(name) for name in type(self).model_fields}

    def origin(self, name: str) -> str:
        """Return where a setting's value came from: a flag, variable or file, `code` or `default`."""
        return self._origins.get(name, "code" if name in self.model_fields_set else "default")
