"""The application: settings, types and database in; routes, guards and errors put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI

from taskrunner.api import pages, problems, ui
from taskrunner.api.body import BodyLimit
from taskrunner.api.consultation import Consultation
from taskrunner.api.door import Door
from taskrunner.api.headers import SafeHeaders
from taskrunner.api.kept import Kept
from taskrunner.api.metrics import Fleet
from taskrunner.api.routes import actions, audit, dead, doctor, metrics, monitor, queues, schedules, tasks
from taskrunner.api.routes.describe import BASIC, BEARER, refusals
from taskrunner.api.security import Guard
from taskrunner.api.ui.pulse import Pulse
from taskrunner.registry import Registry
from taskrunner.schedules import Planner
from taskrunner.settings import Settings

DESCRIPTION = """Add tasks, look at them, steer them. Every error is `application/problem+json` (RFC 9457).

Instants need a zone and come back in UTC. Delivery is at least once."""


class Api(FastAPI):
    """FastAPI whose description says of errors what they are: problems."""

    def openapi(self) -> dict[str, Any]:
        """Return the description, made once."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                _name_problems(operation["responses"])
        return document


def create_app(settings: Settings, registry: Registry, url: str) -> Api:
    """Build the application for the database at `url`; it knows the task types of `registry` and no others.

    It starts without a database, and answers 503 until there is one.
    """
    app = Api(
        title="taskrunner",
        version=version("taskrunner"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_open_door,
    )
    app.state.door = Door(settings, registry, url)
    app.state.doctor = Consultation(url, settings)
    app.state.settings = settings
    app.state.kept = Kept()
    app.state.pulse = Pulse(app.state.door, url, listen=settings.listen)
    app.state.fleet = Fleet(app.state.door)
    app.state.planner = Planner(registry)
    guarded = [
        actions.router,  # before the tasks, so that /tasks/actions is not taken for an id
        *(tasks.router, dead.router, schedules.router, schedules.preview_router, queues.router, queues.runners_router),
        *(audit.router, monitor.router, doctor.router, metrics.router),
    ]
    app.state.routers = [*guarded, monitor.open_router]
    problems.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(SafeHeaders)  # added last, it is outermost
    asked = [Depends(BEARER), Depends(BASIC)] if settings.api_token or settings.api_tokens else []
    refused = refusals(401) if asked else {}
    app.include_router(monitor.open_router)
    for router in guarded:
        app.include_router(router, dependencies=asked, responses=refused)
    pages.install(app)
    ui.install(app)
    return app


@asynccontextmanager
async def _open_door(app: FastAPI) -> AsyncIterator[None]:
    async with app.state.door:
        try:
            yield
        finally:
            await app.state.pulse.close()


def _name_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status >= "400" and "application/json" in response.get("content", {}):
            response["content"] = {problems.MEDIA_TYPE: response["content"]["application/json"]}
