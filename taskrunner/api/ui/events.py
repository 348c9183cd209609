"""`/ui/events`: server-sent events, by which a page learns that it is to ask for itself again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request

from taskrunner.api.ui.pulse import Pulse


class Events(EventSourceResponse):
    """A stream that ends with the pulse that it tells of, which the server ends when it is to stop."""

    async def _listen_for_exit_signal_with_grace(self) -> None:
        """The package's own way is a task for ever in the loop of whoever streams, that looks for uvicorn's signals."""
        await anyio.sleep_forever()


async def events(request: Request) -> Events:
    """Send `changed` when something has changed, a second apart at least."""
    pulse: Pulse = request.app.state.pulse
    if pulse.full:
        raise HTTPException(503, "as many pages as there may be are live already: this one is not")
    return Events(_words(pulse), ping=15)


async def _words(pulse: Pulse) -> AsyncIterator[ServerSentEvent]:
    async for _ in pulse.changes():
        yield ServerSentEvent(event="changed", data="", retry=3000)
