"""`POST /tasks/actions`: one action on all tasks that a filter finds, after a look at how many they are.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, HTTPException, Request
from pydantic import ConfigDict, Field, StrictBool, StrictInt, model_validator

from taskrunner import bulk, reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.models import Instant, Maturity, TaskQuery
from taskrunner.api.routes.describe import refusals
from taskrunner.api.routes.tasks import JSON_ONLY
from taskrunner.api.security import actor_of
from taskrunner.bulk import Outcome, Preview
from taskrunner.reads.views import MOST_IDS
from taskrunner.store.bulk import When

router = APIRouter(prefix="/tasks/actions", tags=["tasks"], responses=refusals(422, 503))

CENTURY = 3_155_760_000


class Doing(StrEnum):
    """What can be done to many tasks at once."""

    CANCEL = "cancel"
    RETRY = "retry"
    RESCHEDULE = "reschedule"
    REQUEUE = "requeue"
    DELETE = "delete"


class BulkOrder(Maturity):
    """What to do to which tasks: those of the filter, or of the ids, or of both; `q` in it is a search text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"action": "requeue", "filter": {"q": 'type:SendEmail error:"timed out"'}, "preview": True},
                {
                    "action": "requeue",
                    "filter": {"q": 'type:SendEmail error:"timed out"'},
                    "expected": 1204,
                    "before": "2026-03-01T08:00:00Z",
                },
            ]
        }
    )

    action: Doing = Field(
        description="cancel: what waits or runs; retry: pending tasks become due now, dead ones are requeued; "
        "reschedule: pending ones; requeue, delete: dead letters."
    )
    filter: TaskQuery = Field(TaskQuery(), description="As the parameters of `GET /tasks`, but for limit and after.")
    ids: Annotated[tuple[UUID, ...], Field(max_length=MOST_IDS)] = ()
    preview: StrictBool = Field(False, description="Only count them, and show some.")
    expected: StrictInt | None = Field(
        None, ge=0, lt=2**53, description="The count of the preview: where more match by now, nothing is done (409)."
    )
    before: Instant | None = Field(None, description="That of the preview: what came later is left alone.")
    delay_seconds: StrictInt | None = Field(
        None, ge=0, le=CENTURY, description="For reschedule, in place of an instant: the maturity from now."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.filter.model_fields_set & {"limit", "after"}:
            raise ValueError("filter takes no limit and no after: the action is for all that match")
        given = (self.at is not None) + (self.delay_seconds is not None)
        if given != (self.action is Doing.RESCHEDULE):
            raise ValueError("reschedule takes one of maturity_at and delay_seconds, and the others take neither")
        if not self.preview and self.expected is None and not self.ids:
            raise ValueError("expected is missing: ask with preview first, and give its count")
        return self


@router.post("", operation_id="act_on_tasks", responses=refusals(400, 403, 409, 413, 415), dependencies=[JSON_ONLY])
async def act(order: BulkOrder, door: OpenDoor, request: Request) -> Preview | Outcome:
    """Do one thing to all tasks that match, or tell with `preview` how many they are.

    It works in batches of a thousand, each a transaction of its own; what is done stays done. The audit trail notes
    what was asked for and what was done. It cannot be undone.
    """
    now = await door.run(reads.now)
    query = order.filter.model_copy(update={"ids": (*order.filter.ids, *order.ids)})
    when = When(order.at, timedelta(seconds=order.delay_seconds or 0))
    asked = bulk.Order(order.action.value, query.wanted(now), min(order.before or now, now), when)
    if order.preview:
        return await bulk.adrive(door.run, bulk.preview(asked))
    pieces = bulk.apply(asked, actor_of(request), expected=order.expected, most=bulk.MOST)
    return await bulk.adrive(door.run, pieces)


@router.api_route("", methods=["DELETE", "GET", "HEAD", "PATCH", "PUT"], include_in_schema=False)
async def refuse() -> None:
    """Take no other method, which would be asked of a task called `actions`."""
    raise HTTPException(405)
