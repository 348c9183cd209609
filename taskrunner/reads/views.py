"""What the reads return, and the filter they take: values that cost no ORM to import."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from taskrunner import search
from taskrunner.jsonvalue import storable
from taskrunner.states import State

T = TypeVar("T", bound="TaskView")

MOST_IDS = 1000
"""Tasks that a filter may name."""


def _text(value: str) -> str:
    if not storable(value):
        raise ValueError("holds a character that no task can have")
    return value


def _field(term: str) -> str:
    search.read_where(term)
    return term


Text = Annotated[str, Field(pattern=r"^[^\x00]*$"), AfterValidator(_text)]  # PostgreSQL holds no NUL
Term = Annotated[
    str, Field(pattern=r"^(payload|meta)(\.[^.:\x00]+)+:[^\x00]*$", max_length=1000), AfterValidator(_field)
]


class TaskView(BaseModel):
    """A task as people see it, whatever its state; the fields are the keys of `tasks show --json`."""

    id: UUID
    type: str
    queue: str
    tenant: str
    state: State
    priority: int
    payload: dict[str, Any]
    tries: int
    crashes: int
    maturity_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    runner_id: UUID | None
    errors: list[dict[str, Any]]
    result: Any
    progress: Any
    meta: dict[str, Any]


class DeadView(TaskView):
    """A dead letter; `requeued_as` is the task that a person made of it."""

    requeued_as: UUID | None


class TaskFilter(BaseModel):
    """Which tasks to list: what is None or empty does not matter; `after` is the last id of the page before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State | None = None
    type: Text | None = Field(None, description="Only tasks of this type; `Mail*` is all that begin with `Mail`.")
    queue: Text | None = None
    tenant: Text | None = None
    key: Text | None = Field(None, description="Only tasks with this key, as it was given at the enqueue.")
    since: AwareDatetime | None = Field(None, description="Only tasks created at this instant or later.")
    until: AwareDatetime | None = Field(None, description="Only tasks created before this instant.")
    error: Text | None = Field(
        None, max_length=1000, description="Only tasks whose last error has this text in its message or traceback."
    )
    runner_id: UUID | None = Field(None, description="Only tasks that this runner runs, or has ended.")
    where: tuple[Term, ...] = Field(
        (),
        max_length=10,
        description='Only tasks with these fields: `payload.user.id:42` finds 42 and "42", and lists that hold one.',
        examples=[["payload.user.id:42"]],
    )
    ids: tuple[UUID, ...] = Field((), max_length=MOST_IDS, description="Only these tasks.")
    limit: int = Field(50, ge=1, le=1000)
    after: UUID | None = Field(None, description="The last id of the page before.")


class Page(BaseModel, Generic[T]):
    """Some tasks, the newest first; `next` is the `after` of the next page, and None on the last.

    A page may be short, or empty, with more behind it: go on while `next` is not None.
    """

    items: list[T]
    next: UUID | None = None


class Runner(BaseModel):
    """A process that runs tasks or schedules; it is alive while its lease lasts."""

    id: UUID
    kind: str
    host: str
    pid: int
    slots: int
    running: int
    strays: int
    queues: list[str]
    types: list[str]
    version: str
    started_at: datetime
    lease_until: datetime
    lease_seconds: float
    """Seconds until the lease ends; negative when it has."""
    alive: bool


class AtWork(BaseModel):
    """A task that a runner holds; without `started_at` it waits there for a slot."""

    id: UUID
    type: str
    queue: str
    started_at: datetime | None
    progress: Any


class Queue(BaseModel):
    """A queue that has tasks, settings, or a live runner taking from it."""

    name: str
    paused: bool = False
    paused_at: datetime | None = None
    fair: bool = False
    weights: dict[str, int] = {}
    """Of a fair queue's tenants, those that are not 1."""
    pending: int = 0
    due: int = 0
    running: int = 0
    runners: int = 0
    oldest_due_seconds: float | None = None


class Schedule(BaseModel):
    """A stored rule; `orphaned` when no live process knows its task type, `ended` when it has no tick to come."""

    name: str
    type: str
    tenant: str
    trigger: str
    timezone: str
    description: str
    payload: dict[str, Any]
    paused: bool
    orphaned: bool
    next_tick_at: datetime | None
    last_tick_at: datetime | None
    last_task_id: UUID | None
    last_error: str | None
    ticks: int
    skipped: int
    catch_up: str
    declared_in: str
    ended: bool
    start_at: datetime | None
    end_at: datetime | None
    jitter: timedelta | None
    key: str | None
    queue: str | None
    """None, as for `priority`: what the task type says."""
    priority: int | None
    created_at: datetime


class Counts(BaseModel):
    """Tasks by state: `pending` includes `due` and `retrying`; what ended counts for 24 hours, dead for good."""

    pending: int = 0
    due: int = 0
    running: int = 0
    blocked: int = 0
    retrying: int = 0
    succeeded: int = 0
    ignored: int = 0
    cancelled: int = 0
    dead: int = 0


class TypeCounts(Counts):
    """The same by task type; `unregistered` when it has live tasks and no live process knows it."""

    type: str
    oldest_due_seconds: float | None = None
    next_tick_at: datetime | None = None
    unregistered: bool = False


class Recent(NamedTuple):
    """What has happened in the last minute or two: tasks that ended, tries that failed, and means in seconds."""

    ended: int
    failed: int
    seconds: float
    wait_seconds: float | None
    run_seconds: float | None

    @property
    def rate(self) -> float:
        """Tasks that ended, a second."""
        return self.ended / max(self.seconds, 1.0)


class Status(BaseModel):
    """All of it on one page."""

    tasks: Counts
    types: list[TypeCounts]
    queues: list[Queue]
    runners: list[Runner]
    schedules: list[Schedule]
