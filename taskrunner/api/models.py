"""What goes in and out of the API, beside the views and counts that `reads` returns.

Pydantic reads the annotations at run time: no deferred ones here.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from taskrunner import search
from taskrunner.intake import OnConflict
from taskrunner.listing import searched
from taskrunner.reads import TaskFilter, TaskView
from taskrunner.reads.views import Text
from taskrunner.states import State

_INT32 = 2**31
_ID = "0197c5e0-8a31-7c4e-9f0a-6d1f2b3c4d5e"

EXAMPLE_TASK: dict[str, Any] = {
    "id": _ID,
    "type": "SendEmail",
    "queue": "mail",
    "tenant": "default",
    "state": "pending",
    "priority": 100,
    "payload": {"to": "ada@example.org", "subject": "Hello"},
    "tries": 0,
    "crashes": 0,
    "maturity_at": "2026-03-01T08:00:00Z",
    "created_at": "2026-02-28T17:03:11.208Z",
    "started_at": None,
    "finished_at": None,
    "runner_id": None,
    "errors": [],
    "result": None,
    "progress": None,
    "meta": {},
}


def _written(value: object) -> object:
    """A bare number would be read as seconds since 1970, and a task meant for later would start at once."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)):
        return value
    raise ValueError("must be an instant with its zone, as in 2026-03-01T08:00:00Z")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999 in UTC") from None


Instant = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_utc)]


def _one_of(*names: str) -> dict[str, Any]:
    """The rule, for the description, that exactly one of these names is given."""
    return {"oneOf": [{"required": [name], "properties": {name: {"type": "string", "minLength": 1}}} for name in names]}


class Body(BaseModel):
    """A request's body: an unknown field is an error, not a typing mistake that nobody sees."""

    model_config = ConfigDict(extra="forbid")


class Maturity(Body):
    """When the task may start at the earliest; both names mean the same."""

    maturity_at: Instant | None = Field(None, description="The task is not started before; unset: now.")
    scheduled_at: Instant | None = Field(None, description="Another name for `maturity_at`.")

    @model_validator(mode="after")
    def _one_instant(self) -> Self:
        _agree("maturity_at", self.maturity_at, "scheduled_at", self.scheduled_at)
        return self

    @property
    def at(self) -> datetime | None:
        """The instant, by whichever name it was given."""
        return self.maturity_at or self.scheduled_at


class AddTask(Maturity):
    """A task to be stored; what is left out is as its type was registered."""

    model_config = ConfigDict(
        json_schema_extra={
            **_one_of("type", "task_name"),
            "examples": [
                {"type": "SendEmail", "payload": {"to": "ada@example.org"}, "maturity_at": "2026-03-01T08:00:00Z"}
            ],
        }
    )

    type: StrictStr | None = Field(None, description="Name of the task type, or one of its aliases.")
    task_name: StrictStr | None = Field(None, description="Another name for `type`.")
    payload: dict[str, Any] | None = Field(None, description="The task's fields, checked against its class.")
    priority: StrictInt | None = Field(None, ge=-_INT32, lt=_INT32, description="Larger is more urgent.")
    max_retries: StrictInt | None = Field(None, ge=0, lt=_INT32)
    queue: StrictStr | None = Field(None, min_length=1, max_length=200)
    key: StrictStr | None = Field(
        None, min_length=1, max_length=255, description="A live task of the type with this key answers instead."
    )
    on_conflict: OnConflict = Field(
        "skip", description="Where the key is taken: skip, replace (the live task gets the work), or error (409)."
    )
    idempotency_key: StrictStr | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A task once added with it answers, also after it ended. Also as the header `Idempotency-Key`.",
    )

    @model_validator(mode="after")
    def _one_type(self) -> Self:
        _agree("type", self.type, "task_name", self.task_name)
        if not self.name:
            raise ValueError("type is missing: give the name of a task type")
        return self

    @property
    def name(self) -> str:
        """The type's name, by whichever name it was given."""
        return self.type or self.task_name or ""


class Reschedule(Maturity):
    """A new maturity for a pending task."""

    model_config = ConfigDict(
        json_schema_extra={
            **_one_of("maturity_at", "scheduled_at"),
            "examples": [{"maturity_at": "2026-03-01T08:00:00Z"}],
        }
    )

    @model_validator(mode="after")
    def _an_instant(self) -> Self:
        if self.at is None:
            raise ValueError("maturity_at is missing: give an instant as in 2026-03-01T08:00:00Z")
        return self


class TaskQuery(TaskFilter):
    """The filters of the list."""

    q: Text | None = Field(
        None,
        max_length=search.LONGEST,
        description="A search text beside the other filters, as people type it.",
        examples=['type:SendEmail since:2h payload.user.id:42 error:"timed out"'],
    )
    since: Instant | None = Field(None, description="Only tasks created at this instant or later.")
    until: Instant | None = Field(None, description="Only tasks created before this instant.")

    def wanted(self, now: datetime) -> TaskFilter:
        """Return the filter, with what the search text asks for. Raises: `InvalidArgument`."""
        return searched(self.q or "", now, **self.model_dump(exclude={"q"}, exclude_unset=True))


class Added(BaseModel):
    """What became of an enqueue; `created` is false when `id` names a task that was there already."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": _ID, "created": True}]})

    id: UUID
    created: bool


class Steered(BaseModel):
    """The task to look for, and the state it was left in."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": _ID, "state": "cancelled"}]})

    id: UUID
    state: State


class TaskPage(BaseModel):
    """A page of tasks, the newest first; `next` is the `after` of the next page, and null on the last.

    A page that is not the last may be short, or empty: it looks at a bounded number of rows.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"tasks": [EXAMPLE_TASK], "next": _ID}]})

    tasks: list[TaskView]
    next: UUID | None


class Health(BaseModel):
    """The process is up and its database answers."""

    status: Literal["ok"] = "ok"


class Readiness(Health):
    """Tasks that are added now will be run."""

    database_schema: str = Field(description="The database's revision.", examples=["0001"])
    runners: int = Field(description="How many runners are alive.", examples=[2])


class FieldError(BaseModel):
    """One value that is not as it should be; `field` begins with body, query, path or header."""

    field: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:taskrunner:problem:conflict",
                    "title": "Its state forbids it",
                    "status": 409,
                    "detail": f"task {_ID} is running and cannot be rescheduled",
                    "instance": f"/tasks/{_ID}",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


def _agree(name: str, value: object, other_name: str, other: object) -> None:
    if value is not None and other is not None and value != other:
        raise ValueError(f"{name} and {other_name} are two names of one thing, and differ: give one of them")
