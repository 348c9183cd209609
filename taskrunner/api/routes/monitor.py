"""`/monitor`: for probes and for graphs.

FastAPI reads the annotations at run time: no deferred ones here.
"""

import asyncio

from fastapi import APIRouter, HTTPException, Request

from taskrunner import reads, schema
from taskrunner.api.door import OpenDoor
from taskrunner.api.kept import kept_of
from taskrunner.api.models import Health, Readiness
from taskrunner.api.problems import RETRY_AFTER
from taskrunner.api.routes.describe import refusals
from taskrunner.reads import Counts

MANY = 100_000
"""Live tasks that are not counted anew for everybody who asks."""

open_router = APIRouter(prefix="/monitor", tags=["monitor"], responses=refusals(503))
router = APIRouter(prefix="/monitor", tags=["monitor"], responses=refusals(503))


@open_router.get("/health", operation_id="health")
async def health(door: OpenDoor) -> Health:
    """Say that the process is up and its database answers; needs no token."""
    await door.ping()
    return Health()


@router.get("/ready", operation_id="ready")
async def ready(door: OpenDoor) -> Readiness:
    """Say that tasks are run: the database answers, its schema is current, and a runner is alive."""
    revision = await door.run(lambda: schema.CURRENT)
    await asyncio.to_thread(schema.check, revision)  # reads the migrations from disk
    runners = await door.run(reads.live_runners)
    if not runners:
        raise HTTPException(503, "no runner is alive: start one by `taskrunner start runner`", RETRY_AFTER)
    return Readiness(database_schema=str(revision), runners=runners)


@router.get("/stats", operation_id="stats")
async def stats(door: OpenDoor, request: Request) -> Counts:
    """Count tasks by state: `pending` includes `due` and `retrying`; ended ones of the last 24 hours, dead ones all.

    Beside more than 100,000 live tasks the figures may be 30 seconds old.
    """

    async def count() -> Counts:
        return Counts(**await door.run(reads.stats))

    found, _ = await kept_of(request).get("stats", count, worth=lambda counts: counts.pending + counts.blocked > MANY)
    return found
