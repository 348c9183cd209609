"""`/docs`: the description as a page, from files of our own, so that it works without the internet."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from taskrunner.api.headers import DOCS_POLICY

FOLDER = Path(__file__).with_name("static")


def install(app: FastAPI) -> None:
    """Serve the page and what it loads."""
    app.add_route("/docs", docs, include_in_schema=False)
    app.mount("/docs", StaticFiles(directory=FOLDER))


async def docs(_request: object) -> FileResponse:
    """Return the page."""
    return FileResponse(FOLDER / "docs.html", headers={"Content-Security-Policy": DOCS_POLICY})
