"""`/metrics`: for Prometheus.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from prometheus_client.exposition import choose_encoder

from taskrunner.api.metrics import Fleet

router = APIRouter(tags=["monitor"])

_EXAMPLE = 'taskrunner_tasks{state="due",type="SendEmail"} 3.0\n'
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics as text, or as OpenMetrics where that is asked for.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/metrics", operation_id="metrics", response_class=Response, responses=_TEXT)
async def metrics(request: Request, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """Tell Prometheus of the whole fleet; 200 with `taskrunner_up` 0 while the database is away."""
    fleet: Fleet = request.app.state.fleet
    encode, kind = choose_encoder(accept)
    return Response(encode(await fleet.snapshot()), headers={"Content-Type": kind})
