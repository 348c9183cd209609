"""Where the children's log records, messages and requests go; a callback that raises never costs a child its call."""

from __future__ import annotations

import logging

from taskrunner import runlog
from taskrunner.executors.call import Call, OnMessage, OnRequest
from taskrunner.executors.wire import from_json, to_json

log = logging.getLogger("taskrunner.executors.children")


class Hub:
    """The runner's callbacks, with task id and claim number; either may be missing."""

    def __init__(self, on_message: OnMessage | None, on_request: OnRequest | None) -> None:
        self._on_message = on_message
        self._on_request = on_request

    def tell(self, call: Call | None, body: bytes) -> None:
        """Take a message; between calls only log records count, of threads that a task left behind."""
        kind, data = from_json(body)
        try:
            if kind == "log":
                runlog.handle(logging.makeLogRecord(data))
            elif self._on_message is not None and call is not None:
                self._on_message(*_identity(call), kind, data)
        except Exception:
            log.exception("a %r message of task %s was not taken", kind, call and call.info.get("id"))

    async def answer(self, call: Call, body: bytes) -> bytes:
        """Answer a request."""
        number, kind, data = from_json(body)
        try:
            if self._on_request is None:
                raise LookupError(f"this runner answers no {kind!r} requests")
            value = await self._on_request(*_identity(call), kind, data)
            return to_json({"number": number, "value": value})
        except Exception as error:
            return to_json({"number": number, "error": f"{type(error).__name__}: {error}"})


def _identity(call: Call) -> tuple[str, int]:
    return str(call.info["id"]), int(str(call.info["claim_no"]))
