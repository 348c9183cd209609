"""`/tasks`: add, list, show, reschedule, delete, cancel, retry.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from taskrunner import actions, reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.models import Added, AddTask, Reschedule, Steered, TaskPage, TaskQuery
from taskrunner.api.routes.describe import DETAIL_EXAMPLE, TASK_EXAMPLE, refusals
from taskrunner.api.routes.listing import link_next
from taskrunner.api.security import Actor
from taskrunner.api.steering import CancelledFlow, RetriedFlow
from taskrunner.reads import LogPage, TaskDetail, TaskView, Why
from taskrunner.states import State

router = APIRouter(prefix="/tasks", tags=["tasks"], responses=refusals(422, 503))

Flow = Annotated[bool, Query(description="All that is connected with it by tasks that run after tasks.")]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def json_only(request: Request) -> None:
    """Refuse what is not said to be JSON: forms of foreign pages, and the default of `curl --data`."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json" and not (given.startswith("application/") and given.endswith("+json")):
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")


JSON_ONLY = Depends(json_only)


@router.post(
    "", status_code=201, operation_id="add_task", responses=refusals(400, 403, 409, 413, 415), dependencies=[JSON_ONLY]
)
async def add(order: AddTask, door: OpenDoor, response: Response, idempotency_key: IdempotencyKey = None) -> Added:
    """Store a task; when this returns 201, the task is safe."""
    task = door.build(order.name, order.payload or {})
    added = await door.add(
        task,
        at=order.at,
        priority=order.priority,
        max_retries=order.max_retries,
        queue=order.queue,
        key=order.key,
        on_conflict=order.on_conflict,
        idempotency_key=_one_key(order.idempotency_key, idempotency_key),
    )
    response.headers["Location"] = f"/tasks/{added.id}"
    return Added(id=added.id, created=added.created)


@router.get("", operation_id="list_tasks")
async def list_(query: Annotated[TaskQuery, Query()], door: OpenDoor, request: Request, response: Response) -> TaskPage:
    """List tasks of all states, the newest first, a page at a time.

    A page may be short, or empty, with more behind it: go on while `next` is not null.
    """
    wanted = query.wanted(await door.run(reads.now) if query.q else datetime.now(UTC))
    page = await door.run(lambda: reads.list_tasks(wanted))
    link_next(request, response, page.next)
    return TaskPage(tasks=page.items, next=page.next)


@router.get("/{id}", operation_id="show_task", responses={**DETAIL_EXAMPLE, **refusals(404)})
async def show(id: UUID, door: OpenDoor) -> TaskDetail:  # noqa: A002 - the path's own word
    """Show a task, live or ended, with the ids of those it waits for and of those that wait for it."""
    task = await door.get(id)
    return await door.run(lambda: reads.detail(task))


@router.get("/{id}/why", operation_id="why_task", responses=refusals(404))
async def why(id: UUID, door: OpenDoor) -> Why:  # noqa: A002
    """Say why a task is not running, what that rests on, and what to do next; for a task in any state."""
    return await door.run(lambda: reads.why(id))


@router.get("/{id}/log", operation_id="show_task_log", responses=refusals(404))
async def show_log(
    id: UUID,  # noqa: A002
    door: OpenDoor,
    request: Request,
    response: Response,
    after: Annotated[int, Query(ge=0, lt=2**63, description="The last id of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> LogPage:
    """Show what a task has logged in all its runs, the earliest first, a page at a time."""
    await door.get(id)
    page = await door.run(lambda: reads.log_lines(id, after=after, limit=limit))
    link_next(request, response, page.next)
    return page


@router.patch(
    "/{id}",
    operation_id="reschedule_task",
    responses={**TASK_EXAMPLE, **refusals(400, 403, 404, 409, 413, 415)},
    dependencies=[JSON_ONLY],
)
async def reschedule(id: UUID, change: Reschedule, door: OpenDoor, actor: Actor) -> TaskView:  # noqa: A002
    """Give a pending task a new maturity."""
    await door.act(actions.reschedule_task(id, at=change.at), actor)
    return await door.get(id)


@router.delete("/{id}", status_code=204, operation_id="delete_task", responses=refusals(403, 404, 409))
async def delete(id: UUID, door: OpenDoor, actor: Actor) -> None:  # noqa: A002
    """Take a pending task back: it ends as cancelled."""
    await door.act(actions.delete_task(id), actor)


@router.post(
    "/{id}/cancel",
    operation_id="cancel_task",
    responses={202: {"model": Steered, "description": "Its runner was asked to stop it"}, **refusals(403, 404, 409)},
)
async def cancel(
    id: UUID,  # noqa: A002
    door: OpenDoor,
    actor: Actor,
    response: Response,
    flow: Flow = False,
) -> Steered | CancelledFlow:
    """Cancel a pending task, or ask the runner of a running one to stop it."""
    if flow:
        return CancelledFlow(outcomes=await door.act(actions.cancel_flow(id), actor))
    if await door.act(actions.cancel_task(id), actor) == "cancelled":
        return Steered(id=id, state=State.CANCELLED)
    response.status_code = 202
    return Steered(id=id, state=State.RUNNING)


@router.post("/{id}/retry", operation_id="retry_task", responses=refusals(403, 404, 409))
async def retry(
    id: UUID,  # noqa: A002
    door: OpenDoor,
    actor: Actor,
    response: Response,
    flow: Flow = False,
) -> Steered | RetriedFlow:
    """Make a pending task due now, or requeue a dead one, which gets a new id."""
    if flow:
        return RetriedFlow(requeued=await door.act(actions.retry_flow(id), actor))
    found = await door.act(actions.retry_task(id), actor)
    response.headers["Location"] = f"/tasks/{found}"
    return Steered(id=found, state=State.PENDING)


def _one_key(in_body: str | None, in_header: str | None) -> str | None:
    if in_body is not None and in_header is not None and in_body != in_header:
        message = "differs from idempotency_key: give one of them"
        raise RequestValidationError([{"loc": ("header", "Idempotency-Key"), "msg": message, "type": "value_error"}])
    return in_body if in_body is not None else in_header
