"""`/dead-letters`: the tasks that are out of retries: list, show, requeue, delete.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from taskrunner import actions, reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.models import EXAMPLE_TASK
from taskrunner.api.routes.describe import example, refusals
from taskrunner.api.routes.listing import link_next
from taskrunner.api.routes.tasks import JSON_ONLY
from taskrunner.api.security import Actor
from taskrunner.api.steering import DeadAction, DeadDone, DeadPage, DeadQuery, Refused, Requeued
from taskrunner.errors import Conflict, NotFound
from taskrunner.reads import DeadView

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], responses=refusals(422, 503))

EXAMPLE_DEAD = {
    **EXAMPLE_TASK,
    "state": "dead",
    "tries": 3,
    "finished_at": "2026-03-01T08:07:41.113Z",
    "errors": [{"at": "2026-03-01T08:07:41.113Z", "message": "SMTPServerDisconnected", "traceback": "…"}],
    "requeued_as": None,
}


@router.get("", operation_id="list_dead_letters", responses=example({"dead_letters": [EXAMPLE_DEAD], "next": None}))
async def list_(query: Annotated[DeadQuery, Query()], door: OpenDoor, request: Request, response: Response) -> DeadPage:
    """List dead letters, the newest first, a page at a time; those that were requeued are left out unless asked for.

    A page may be short, or empty, with more behind it: go on while `next` is not null.
    """
    wanted = query.wanted(await door.run(reads.now) if query.q else datetime.now(UTC))
    page = await door.run(lambda: reads.dead_letters(wanted, requeued=query.requeued))
    link_next(request, response, page.next)
    return DeadPage(dead_letters=page.items, next=page.next)


@router.get("/{id}", operation_id="show_dead_letter", responses={**example(EXAMPLE_DEAD), **refusals(404)})
async def show(id: UUID, door: OpenDoor) -> DeadView:  # noqa: A002 - the path's own word
    """Show a dead letter with all its errors, requeued or not."""
    found = await door.run(lambda: reads.dead_letter_by_id(id))
    if found is None:
        raise NotFound(f"no dead letter {id}: GET /dead-letters lists what there is")
    return found


@router.post("/{id}/requeue", operation_id="requeue_dead_letter", responses=refusals(403, 404, 409))
async def requeue(id: UUID, door: OpenDoor, actor: Actor, response: Response) -> Requeued:  # noqa: A002
    """Make a new pending task of it, with tries 0."""
    fresh = await door.act(actions.requeue_dead(id), actor)
    response.headers["Location"] = f"/tasks/{fresh}"
    return Requeued(id=fresh, requeued_from=id)


@router.delete("/{id}", status_code=204, operation_id="delete_dead_letter", responses=refusals(403, 404, 409))
async def delete(id: UUID, door: OpenDoor, actor: Actor) -> None:  # noqa: A002
    """Delete it for good."""
    await door.act(actions.delete_dead(id), actor)


@router.post("", operation_id="steer_dead_letters", dependencies=[JSON_ONLY], responses=refusals(400, 403, 413, 415))
async def steer(order: DeadAction, door: OpenDoor, actor: Actor) -> DeadDone:
    """Requeue or delete several, each for itself: what cannot be done to one is told, and the others go on."""
    done = DeadDone(requeued={}, deleted=[], refused=[])
    for id_ in dict.fromkeys(order.ids):
        try:
            if order.action == "requeue":
                done.requeued[id_] = await door.act(actions.requeue_dead(id_), actor)
            else:
                done.deleted.append(await door.act(actions.delete_dead(id_), actor))
        except (NotFound, Conflict) as error:
            done.refused.append(Refused(id=id_, detail=str(error)))
    return done
