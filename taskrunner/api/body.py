"""How much one request may send.

FastAPI's own `max_body_size` counts the same bytes, but answers in plain text.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskrunner.api.problems import problem

MAX_BODY = 16 * 2**20
"""Bytes of a body at most."""

_DETAIL = f"a body has at most {MAX_BODY:,} bytes: keep large data elsewhere and pass a reference"


class BodyLimit:
    """Middleware that refuses a body by the length it says it has, or by what has arrived of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > MAX_BODY:
            await problem(request, 413, _DETAIL)(scope, receive, send)
            return
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise HTTPException(413, _DETAIL)
            return message

        await self.app(scope, receiving, send)
