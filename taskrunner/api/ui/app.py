"""The dashboard's addresses."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse

from taskrunner.api.ui import act, adding, audit, dead, planning, queues, runners, schedules, system, task, tasks
from taskrunner.api.ui.assets import serve_asset
from taskrunner.api.ui.events import events
from taskrunner.api.ui.frame import failure
from taskrunner.api.ui.overview import overview

_PAGES = (*schedules.ROUTES, *queues.ROUTES, *runners.ROUTES, *system.ROUTES, *audit.ROUTES)
_FORMS = (*schedules.FORMS, *planning.FORMS, *queues.FORMS)


def install(app: FastAPI) -> None:
    """Serve the pages and their files; errors under `/ui` are pages where a browser asks."""
    app.state.failure = failure
    app.add_route("/", _to_overview, include_in_schema=False)
    app.add_route("/ui", _to_overview, include_in_schema=False)
    app.add_route("/ui/static/{name}", serve_asset, include_in_schema=False)
    app.add_route("/ui/", overview, include_in_schema=False)
    for path, answer in _PAGES:
        app.add_route(path, answer, include_in_schema=False)
    for path, answer in _FORMS:
        app.add_route(path, answer, methods=["GET", "POST"], include_in_schema=False)
    app.add_route("/ui/events", events, include_in_schema=False)
    for pages in (tasks, adding, task, act, dead):
        pages.install(app)


def _to_overview(_request: Request) -> RedirectResponse:
    return RedirectResponse("/ui/", 307)
