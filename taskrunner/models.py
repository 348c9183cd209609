"""The tables as SQLModel classes: the shape that migrations must produce (a test proves the two equal).

Rows are read through these models; a task's *state* is changed by `taskrunner.statements` alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from taskrunner.states import HISTORY, LIVE

SCHEMA = "taskrunner"
metadata = MetaData(schema=SCHEMA)


class Table(SQLModel):
    """Base of all tables: their own metadata, so that a user's SQLModel tables never mix with ours."""

    metadata: ClassVar[MetaData] = metadata


def _column(kind: Any, *, null: bool = False, default: str | None = None, primary: bool = False) -> Any:
    server_default = None if default is None else text(default)
    return Field(sa_column=Column(kind, nullable=null, server_default=server_default, primary_key=primary))


def _instant(*, null: bool = True, default: str | None = None) -> Any:
    return _column(DateTime(timezone=True), null=null, default=default)


def _text(*, null: bool = False, default: str | None = None, primary: bool = False) -> Any:
    return _column(Text(), null=null, default=default, primary=primary)


def _json(*, null: bool = False, default: str | None = None) -> Any:
    return _column(JSONB(none_as_null=True), null=null, default=default)


def _check_states(states: tuple[str, ...]) -> str:
    return "state IN (" + ", ".join(f"'{state}'" for state in states) + ")"


# What the statements that read it rely on: a tenant's login could write anything, and would fail the whole batch.
_SUCCESSOR = """(successor ->> 'id')::uuid IS NOT NULL AND successor ->> 'queue' IS NOT NULL
    AND (successor ->> 'priority')::int IS NOT NULL AND (successor ->> 'max_retries')::int IS NOT NULL
    AND successor -> 'payload' IS NOT NULL AND successor -> 'meta' IS NOT NULL
    AND isfinite((successor ->> 'created_at')::timestamptz) IS TRUE
    AND isfinite((successor ->> 'maturity_at')::timestamptz) IS TRUE"""


class TaskRow(Table, table=True):
    """A live task: pending, running or blocked. Small and hot; a task that ends leaves it."""

    __tablename__ = "task"
    __table_args__ = (
        CheckConstraint(_check_states(LIVE), name="task_state_check"),
        CheckConstraint("tenant <> ''", name="task_tenant_check"),
        CheckConstraint(f"successor IS NULL OR ({_SUCCESSOR})", name="task_successor_check"),
        # The claim's index: equality on the first three, then exactly its ORDER BY.
        Index(
            "task_claim", "queue", "type", "priority", "maturity_at", "id", postgresql_where=text("state = 'pending'")
        ),
        # The fair claim's index: no row of an ordinary queue is in it. The collation is that of the skip scan.
        Index(
            "task_fair",
            "queue",
            "type",
            "fair_tenant",
            "priority",
            "maturity_at",
            "id",
            postgresql_where=text("state = 'pending' AND fair_tenant IS NOT NULL"),
        ),
        Index("task_running", "runner_id", postgresql_where=text("state = 'running'")),
        Index(
            "task_unique",
            "tenant",
            "type",
            "unique_key",
            unique=True,
            postgresql_where=text("unique_key IS NOT NULL"),
        ),
        Index("task_tick", "schedule_id", "tick_at", unique=True, postgresql_where=text("schedule_id IS NOT NULL")),
    )

    id: UUID = _column(Uuid(), primary=True)
    maturity_at: datetime = _instant(null=False)
    created_at: datetime = _instant(null=False)
    claim_no: int = _column(BigInteger(), default="0")
    priority: int = _column(Integer(), default="100")
    tries: int = _column(Integer(), default="0")
    crashes: int = _column(Integer(), default="0")
    max_retries: int = _column(Integer(), default="3")
    has_children: bool = _column(Boolean(), default="false")
    awaited: bool = _column(Boolean(), default="false")
    tenant: str = _text(default="'default'")
    queue: str = _text(default="'default'")
    type: str = _text()
    state: str = _text(default="'pending'")
    runner_id: UUID | None = _column(Uuid(), null=True)
    claimed_at: datetime | None = _instant()
    started_at: datetime | None = _instant()
    deadline_at: datetime | None = _instant()
    cancel_requested_at: datetime | None = _instant()
    unique_key: str | None = _text(null=True)
    requeued_from: UUID | None = _column(Uuid(), null=True)
    schedule_id: UUID | None = _column(Uuid(), null=True)
    tick_at: datetime | None = _instant()
    payload: dict[str, Any] = _json(default="'{}'")
    meta: dict[str, Any] = _json(default="'{}'")
    errors: list[dict[str, Any]] = _json(default="'[]'")
    progress: dict[str, Any] | None = _json(null=True)
    successor: dict[str, Any] | None = _json(null=True)
    fair_tenant: str | None = _column(Text(collation="C"), null=True)
    waits_for: int | None = _column(Integer(), null=True)


class HistoryRow(Table, table=True):
    """A task that succeeded, was ignored or was cancelled; partitioned by the instant it ended."""

    __tablename__ = "task_history"
    __table_args__ = (
        PrimaryKeyConstraint("id", "finished_at", name="task_history_pkey"),
        CheckConstraint(_check_states(HISTORY), name="task_history_state_check"),
        Index("task_history_rare", "state", "id", postgresql_where=text("state <> 'succeeded'")),
        {"postgresql_partition_by": "RANGE (finished_at)"},
    )

    id: UUID = _column(Uuid(), primary=True)
    finished_at: datetime = _column(DateTime(timezone=True), primary=True)
    started_at: datetime | None = _instant()
    maturity_at: datetime = _instant(null=False)
    created_at: datetime = _instant(null=False)
    claim_no: int = _column(BigInteger())
    run_seconds: float | None = _column(Double(), null=True)
    priority: int = _column(Integer())
    tries: int = _column(Integer())
    crashes: int = _column(Integer())
    max_retries: int = _column(Integer())
    tenant: str = _text()
    queue: str = _text()
    type: str = _text()
    state: str = _text()
    runner_id: UUID | None = _column(Uuid(), null=True)
    unique_key: str | None = _text(null=True)
    requeued_from: UUID | None = _column(Uuid(), null=True)
    schedule_id: UUID | None = _column(Uuid(), null=True)
    tick_at: datetime | None = _instant()
    payload: dict[str, Any] = _json()
    meta: dict[str, Any] = _json()
    errors: list[dict[str, Any]] = _json()
    progress: dict[str, Any] | None = _json(null=True)
    result: Any = _json(null=True)


class DeadLetter(Table, table=True):
    """A task out of retries, whole, until a person requeues or deletes it; a requeued one points to its new task."""

    __tablename__ = "dead_letter"
    __table_args__ = (
        Index("dead_letter_open", "type", "id", postgresql_where=text("requeued_as IS NULL")),
        Index("dead_letter_finished", "finished_at"),
    )

    id: UUID = _column(Uuid(), primary=True)
    finished_at: datetime = _instant(null=False)
    started_at: datetime | None = _instant()
    maturity_at: datetime = _instant(null=False)
    created_at: datetime = _instant(null=False)
    claim_no: int = _column(BigInteger())
    run_seconds: float | None = _column(Double(), null=True)
    priority: int = _column(Integer())
    tries: int = _column(Integer())
    crashes: int = _column(Integer())
    max_retries: int = _column(Integer())
    tenant: str = _text()
    queue: str = _text()
    type: str = _text()
    runner_id: UUID | None = _column(Uuid(), null=True)
    unique_key: str | None = _text(null=True)
    requeued_from: UUID | None = _column(Uuid(), null=True)
    requeued_as: UUID | None = _column(Uuid(), null=True)
    schedule_id: UUID | None = _column(Uuid(), null=True)
    tick_at: datetime | None = _instant()
    payload: dict[str, Any] = _json()
    meta: dict[str, Any] = _json()
    errors: list[dict[str, Any]] = _json()
    progress: dict[str, Any] | None = _json(null=True)


class RunnerRow(Table, table=True):
    """A process that claims (`runner`) or ticks (`scheduler`), alive while its lease lasts."""

    __tablename__ = "runner"
    __table_args__ = (Index("runner_lease", "lease_until"),)

    id: UUID = _column(Uuid(), primary=True)
    kind: str = _text(default="'runner'")
    host: str = _text()
    pid: int = _column(Integer())
    queues: list[str] = _column(ARRAY(Text()), default="'{}'")
    types: list[str] = _column(ARRAY(Text()), default="'{}'")
    slots: int = _column(Integer(), default="0")
    running: int = _column(Integer(), default="0")
    strays: int = _column(Integer(), default="0")
    version: str = _text()
    started_at: datetime = _instant(null=False)
    lease_until: datetime = _instant(null=False)


class ScheduleRow(Table, table=True):
    """A stored rule that yields due times; `next_tick_at` is the truth."""

    __tablename__ = "schedule"
    __table_args__ = (
        UniqueConstraint("tenant", "name", name="schedule_name"),
        Index("schedule_due", "next_tick_at", postgresql_where=text("NOT paused")),
        CheckConstraint("catch_up IN ('latest', 'all', 'skip')", name="schedule_catch_up_check"),
        CheckConstraint("declared_in IN ('code', 'runtime')", name="schedule_declared_in_check"),
    )

    id: UUID = _column(Uuid(), primary=True)
    tenant: str = _text(default="'default'")
    name: str = _text()
    type: str = _text()
    trigger: str = _text()
    timezone: str = _text(default="'UTC'")
    start_at: datetime | None = _instant()
    end_at: datetime | None = _instant()
    jitter: timedelta | None = _column(Interval(), null=True)
    key: str | None = _text(null=True)
    queue: str | None = _text(null=True)
    priority: int | None = _column(Integer(), null=True)
    next_tick_at: datetime | None = _instant()
    last_tick_at: datetime | None = _instant()
    last_task_id: UUID | None = _column(Uuid(), null=True)
    last_error: str | None = _text(null=True)
    ticks: int = _column(BigInteger(), default="0")
    skipped: int = _column(BigInteger(), default="0")
    paused: bool = _column(Boolean(), default="false")
    catch_up: str = _text(default="'latest'")
    payload: dict[str, Any] = _json(default="'{}'")
    declared_in: str = _text(default="'code'")
    declared_version: int = _column(BigInteger(), default="0")
    created_at: datetime = _instant(null=False)


class Dependency(Table, table=True):
    """`child` runs after `parent` has succeeded; kept after both have ended, so that a flow can be shown whole."""

    __tablename__ = "dependency"
    __table_args__ = (
        PrimaryKeyConstraint("parent_id", "child_id", name="dependency_pkey"),
        CheckConstraint("on_failure IN ('fail', 'run', 'wait')", name="dependency_on_failure_check"),
        Index("dependency_child", "child_id"),
    )

    parent_id: UUID = _column(Uuid(), primary=True)
    child_id: UUID = _column(Uuid(), primary=True)
    tenant: str = _text(default="'default'")
    on_failure: str = _text(default="'fail'")


class Effect(Table, table=True):
    """The kept value of one `run_once` key of a task."""

    __tablename__ = "effect"
    __table_args__ = (
        # With the claim: a run that is frozen inside its session holds up nobody who has the task after it.
        PrimaryKeyConstraint("task_id", "key", "claim_no", name="effect_pkey"),
        Index("effect_done", "done_at"),
    )

    task_id: UUID = _column(Uuid(), primary=True)
    key: str = _text(primary=True)
    tenant: str = _text(default="'default'")
    value: Any = _json(null=True)
    claim_no: int = _column(BigInteger(), primary=True)
    done_at: datetime = _instant(null=False)


class IdempotencyKey(Table, table=True):
    """A caller's key for one enqueue; it outlives the task, until it expires."""

    __tablename__ = "idempotency_key"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "type", "key", name="idempotency_key_pkey"),
        Index("idempotency_key_expiry", "expires_at"),
        Index("idempotency_key_successor", "key", postgresql_where=text("starts_with(key, 'successor ')")),
    )

    tenant: str = _text(primary=True)
    type: str = _text(primary=True)
    key: str = _text(primary=True)
    task_id: UUID = _column(Uuid())
    expires_at: datetime = _instant(null=False)


class QueueSettings(Table, table=True):
    """What people set for a queue; a queue without a row has the defaults."""

    __tablename__ = "queue_settings"

    queue: str = _text(primary=True)
    paused: bool = _column(Boolean(), default="false")
    paused_at: datetime | None = _instant()
    fair: bool = _column(Boolean(), default="false")
    weights: dict[str, Any] = _json(default="'{}'")
    limits: dict[str, Any] = _json(default="'{}'")


class TenantRole(Table, table=True):
    """The tenant a database login belongs to."""

    __tablename__ = "tenant_role"

    role: str = _text(primary=True)
    tenant: str = _text()


class TaskLog(Table, table=True):
    """A log line that a task wrote while it ran."""

    __tablename__ = "task_log"
    __table_args__ = (
        Index("task_log_task", "task_id", "id"),
        Index("task_log_logged", "logged_at", postgresql_using="brin"),  # lines come in this order: it costs nothing
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger(), Identity(always=True), primary_key=True))
    task_id: UUID = _column(Uuid())
    tenant: str = _text(default="'default'")
    claim_no: int = _column(BigInteger())
    logged_at: datetime = _instant(null=False)
    level: str = _text()
    message: str = _text()


class Audit(Table, table=True):
    """Who did what to which thing."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_acted", "acted_at"), Index("audit_target", "target", "id"))

    id: int | None = Field(default=None, sa_column=Column(BigInteger(), Identity(always=True), primary_key=True))
    acted_at: datetime = _instant(null=False)
    tenant: str = _text(default="'default'")
    actor: str = _text()
    action: str = _text()
    target: str = _text()
    details: dict[str, Any] = _json(default="'{}'")


class TaskStats(Table, table=True):
    """What ended in a minute (long ago: five, or an hour), by runner, type and outcome; written with the end itself."""

    __tablename__ = "task_stats"
    __table_args__ = (
        PrimaryKeyConstraint("minute", "runner_id", "tenant", "queue", "type", "outcome", name="task_stats_pkey"),
    )

    minute: datetime = _column(DateTime(timezone=True), primary=True)
    runner_id: UUID = _column(Uuid(), primary=True)
    tenant: str = _text(primary=True)
    queue: str = _text(primary=True)
    type: str = _text(primary=True)
    outcome: str = _text(primary=True)
    count: int = _column(BigInteger())
    run_seconds: float = _column(Double())
    wait_seconds: float = _column(Double())
    run_histogram: list[int] = _column(ARRAY(BigInteger()))
    wait_histogram: list[int] = _column(ARRAY(BigInteger()))
