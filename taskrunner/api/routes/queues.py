"""`/queues` and `/runners`.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from taskrunner import actions, reads
from taskrunner.api.door import OpenDoor
from taskrunner.api.kept import kept_of
from taskrunner.api.routes.describe import refusals
from taskrunner.api.routes.monitor import MANY
from taskrunner.api.routes.tasks import JSON_ONLY
from taskrunner.api.security import Actor
from taskrunner.api.steering import QueueList, QueueState, RunnerList, Tuned, TuneQueue
from taskrunner.api.turns import make_fair
from taskrunner.errors import InvalidArgument

router = APIRouter(prefix="/queues", tags=["queues"], responses=refusals(422, 503))
runners_router = APIRouter(prefix="/runners", tags=["runners"], responses=refusals(503))

Name = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\s:,/\x00-\x20\x7f-\x9f]*$", examples=["mail"])]


@router.get("", operation_id="list_queues")
async def list_(door: OpenDoor, request: Request) -> QueueList:
    """List queues with what waits and runs in them.

    Beside more than 100,000 live tasks the figures may be 30 seconds old.
    """
    found, _ = await kept_of(request).get(
        "queues", lambda: door.run(reads.queues), worth=lambda queues: sum(queue.pending for queue in queues) > MANY
    )
    return QueueList(queues=found)


@router.post("/{name}/pause", operation_id="pause_queue", responses=refusals(403))
async def pause(name: Name, door: OpenDoor, actor: Actor) -> QueueState:
    """Let no runner take tasks from it; what runs goes on. It need not have had a task yet."""
    await door.act(actions.pause_queue(name), actor)
    return QueueState(name=name, paused=True)


@router.post("/{name}/resume", operation_id="resume_queue", responses=refusals(403))
async def resume(name: Name, door: OpenDoor, actor: Actor) -> QueueState:
    """Let runners take tasks from it again."""
    await door.act(actions.resume_queue(name), actor)
    return QueueState(name=name, paused=False)


@router.patch("/{name}", operation_id="tune_queue", dependencies=[JSON_ONLY], responses=refusals(400, 403, 413, 415))
async def tune(name: Name, wanted: TuneQueue, door: OpenDoor, actor: Actor) -> Tuned:
    """Let its tenants take turns or not, and give some of them more turns than others."""
    if not wanted.model_fields_set:
        raise InvalidArgument("nothing to change is given: there are fair, weights")
    fair_queue = wanted.fair if "fair" in wanted.model_fields_set else None
    weighing = [actions.weigh_tenant(name, tenant, weight) for tenant, weight in wanted.weights.items()]
    settled = fair_queue is None or await make_fair(door, name, actor, fair_queue=fair_queue)
    for action in weighing:
        await door.act(action, actor)
    return Tuned(name=name, fair=fair_queue, weights=wanted.weights, settled=settled)


@runners_router.get("", operation_id="list_runners")
async def runners(door: OpenDoor) -> RunnerList:
    """List every registered process, the live ones first."""
    return RunnerList(runners=await door.run(reads.runners))
