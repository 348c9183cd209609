"""What goes in and out of the API where schedules, queues and dead letters are steered.

Pydantic reads the annotations at run time: no deferred ones here.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from taskrunner.api.models import Body, Instant, TaskQuery
from taskrunner.errors import InvalidArgument
from taskrunner.listing import searched
from taskrunner.reads import PAGE, AuditEntry, AuditFilter, DeadView, Queue, Runner, Schedule, TaskFilter
from taskrunner.reads.views import Text
from taskrunner.registry import CatchUp
from taskrunner.settings import parse_duration
from taskrunner.states import State
from taskrunner.wishes import Changes

MOST = 500
"""Dead letters that one request may name."""

_INT32 = 2**31
_ID = "0197c5e0-8a31-7c4e-9f0a-6d1f2b3c4d5e"
_NEW_ID = "0197c5e0-9b42-7d5f-8a1b-7e2f3c4d5e6f"

EXAMPLE_SCHEDULE: dict[str, Any] = {
    "name": "nightly",
    "type": "DailyReport",
    "tenant": "default",
    "trigger": "cron 0 3 * * *",
    "timezone": "Europe/Warsaw",
    "description": "cron 0 3 * * * (Europe/Warsaw)",
    "payload": {},
    "paused": False,
    "orphaned": False,
    "next_tick_at": "2026-03-01T02:00:00Z",
    "last_tick_at": "2026-02-28T02:00:00Z",
    "last_task_id": _ID,
    "last_error": None,
    "ticks": 28,
    "skipped": 0,
    "catch_up": "latest",
    "declared_in": "runtime",
    "ended": False,
    "start_at": None,
    "end_at": None,
    "jitter": None,
    "key": None,
    "queue": None,
    "priority": None,
    "created_at": "2026-02-01T12:00:00Z",
}

_DURATION = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d)?$"}]
}
Duration = Annotated[timedelta, BeforeValidator(parse_duration), WithJsonSchema({**_DURATION, "examples": ["5m", 30]})]


def frequency(given: object) -> Any:
    """Read seconds or a duration; a text that is none is taken for a crontab."""
    if isinstance(given, list):
        return [frequency(each) for each in given]
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError("must be seconds, a duration as in 5m, a crontab, or a list of these")
    try:
        return parse_duration(given)
    except ValueError:
        if isinstance(given, str):
            return given
        raise


def _whole(given: object) -> object:
    """3.0 is an integer in JSON."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


Priority = Annotated[StrictInt, Field(ge=-_INT32, lt=_INT32), BeforeValidator(_whole)]
Weight = Annotated[StrictInt, Field(ge=1, le=1000), BeforeValidator(_whole)]


_ONE = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 1}]}
Frequency = Annotated[
    Any,
    BeforeValidator(frequency),
    WithJsonSchema(
        {
            "anyOf": [*_ONE["anyOf"], {"type": "array", "items": _ONE, "minItems": 1}],
            "examples": ["0 3 * * *", "5m", 30, ["0 3 * * *", "0 15 * * 5"]],
        }
    ),
    Field(description="When: seconds, a duration as in 5m, a crontab; of a list, whenever one of them is due."),
]


class Timing(Body):
    """What of a schedule may be left out, or taken away by null."""

    type: StrictStr

    payload: dict[str, Any] | None = Field(None, description="The tasks' fields.")
    start_at: Instant | None = Field(None, description="No tick before.")
    end_at: Instant | None = Field(None, description="No tick after.")
    jitter: Duration | None = Field(None, description="Each task matures up to so much later.")
    key: Text | None = Field(None, min_length=1, max_length=255, description="A live task of this key skips a tick.")
    queue: Text | None = Field(None, min_length=1, max_length=200)
    priority: Priority | None = None

    @property
    def wishes(self) -> Changes:
        """What was given, by the names that the planner knows."""
        given: Any = {name: getattr(self, name) for name in self.model_fields_set - {"name", "type", "replace"}}
        if "type" in self.model_fields_set:
            given["task"] = self.type
        return cast("Changes", given)


class AddSchedule(Timing):
    """A schedule to be added at run time."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "nightly", "type": "DailyReport", "frequency": "0 3 * * *", "timezone": "Europe/Warsaw"}
            ]
        }
    )

    name: Text = Field(min_length=1, max_length=200)
    type: StrictStr = Field(description="Name of the task type, or one of its aliases.")
    frequency: Frequency
    timezone: StrictStr = Field("UTC", description="The zone that a crontab is read in.")
    catch_up: CatchUp = Field("latest", description="What becomes of missed ticks.")
    replace: StrictBool = Field(False, description="Make one of that name like this one, instead of 409.")


class ChangeSchedule(Timing):
    """What of a schedule is to change; what is left out stays, null takes a value away."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "examples": [{"frequency": "0 4 * * *"}]})

    type: StrictStr = Field("", description="Another task type.")
    frequency: Frequency = None
    timezone: StrictStr = Field("UTC", description="The zone that a crontab is read in.")
    catch_up: CatchUp = Field("latest", description="What becomes of missed ticks.")


class Preview(BaseModel):
    """A schedule that is not stored, to look at its ticks."""

    model_config = ConfigDict(extra="forbid")

    frequency: list[Text] = Field(
        min_length=1, max_length=20, description="Seconds, a duration as in 5m, or a crontab.", examples=[["0 3 * * *"]]
    )
    timezone: Text = "UTC"
    start_at: Instant | None = None
    end_at: Instant | None = None
    since: Instant | None = Field(None, description="As if it were added at this instant; unset: now.")
    count: int = Field(5, ge=1, le=1000)


class Ticks(BaseModel):
    """Due times, in UTC and in the schedule's own zone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ticks": ["2026-03-01T02:00:00Z"], "local": ["2026-03-01T03:00:00+01:00"]}],
        }
    )

    ticks: list[Instant]
    local: list[str]


class ScheduleQuery(BaseModel):
    """Which schedules to list."""

    model_config = ConfigDict(extra="forbid")

    tenant: Text | None = Field(None, description="Only this tenant's.")
    limit: int = Field(PAGE, ge=1, le=1000)
    after: Text | None = Field(None, description="The `next` of the page before.")


class ScheduleList(BaseModel):
    """A page of schedules, the next to tick first; `next` is the `after` of the next page, and null on the last."""

    schedules: list[Schedule]
    next: str | None


class QueueList(BaseModel):
    """Queues by name."""

    queues: list[Queue]


class RunnerList(BaseModel):
    """Processes, the live ones first."""

    runners: list[Runner]


class QueueState(BaseModel):
    """A queue, and whether runners take tasks from it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "mail", "paused": True}]})

    name: str
    paused: bool


Tenant = Annotated[Text, Field(min_length=1, max_length=200)]


class TuneQueue(Body):
    """How the tenants of a queue share it; what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "examples": [{"fair": True, "weights": {"acme": 3}}]}
    )

    fair: StrictBool = Field(False, description="Whether they take turns.")
    weights: dict[Tenant, Weight] = Field(
        default_factory=dict,
        min_length=1,
        max_length=100,
        description="Tasks of a tenant in each round; everybody else has 1.",
    )


class Tuned(BaseModel):
    """What a queue was set to; `settled` is false when transactions are open that may add tasks the old way.

    What those add comes when nothing else is due: ask for the same again once they have ended.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "mail", "fair": True, "weights": {"acme": 3}, "settled": True}]}
    )

    name: str
    fair: bool | None
    weights: dict[str, int]
    settled: bool


class DeadQuery(TaskQuery):
    """The filters of dead letters."""

    state: None = Field(None, exclude=True)
    requeued: bool = Field(False, description="Also those that were requeued.")

    def wanted(self, now: datetime) -> TaskFilter:
        """Return the filter. Raises: `InvalidArgument`."""
        given = self.model_dump(exclude={"q", "requeued", "state"}, exclude_unset=True)
        wanted = searched(self.q or "", now, **given)
        if wanted.state not in (None, State.DEAD):
            raise InvalidArgument(f"q asks for state:{wanted.state}: dead letters are dead; see GET /tasks")
        return wanted


class DeadPage(BaseModel):
    """A page of dead letters, the newest first; `next` is the `after` of the next page, and null on the last."""

    dead_letters: list[DeadView]
    next: UUID | None


class Requeued(BaseModel):
    """The new task that a dead letter became."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": _NEW_ID, "requeued_from": _ID}]})

    id: UUID
    requeued_from: UUID


class DeadAction(Body):
    """What to do with some dead letters."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"action": "requeue", "ids": [_ID]}]})

    action: Literal["requeue", "delete"]
    ids: list[UUID] = Field(min_length=1, max_length=MOST)


class Refused(BaseModel):
    """One that nothing was done to, and why."""

    id: UUID
    detail: str


class DeadDone(BaseModel):
    """What became of each: the new ids of those that were requeued by the old ones, or the ids of the deleted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"requeued": {_ID: _NEW_ID}, "deleted": [], "refused": []}]}
    )

    requeued: dict[UUID, UUID]
    deleted: list[UUID]
    refused: list[Refused]


class CancelledFlow(BaseModel):
    """What became of each task of a flow: `cancelled`, or `requested` of its runner."""

    outcomes: dict[UUID, str]


class RetriedFlow(BaseModel):
    """The new tasks by the dead ones they were made of."""

    requeued: dict[UUID, UUID]


class AuditQuery(AuditFilter):
    """The filters of the audit trail."""

    actor: Text | None = None
    action: Text | None = None
    target: Text | None = None
    tenant: Text | None = None
    since: Instant | None = Field(None, description="Only what was done at this instant or later.")


class AuditList(BaseModel):
    """What was done, the newest first; `next` is the `after` of the next page, and null on the last."""

    entries: list[AuditEntry]
    next: int | None
