"""A child process's end of the socket: calls come in; messages, questions, log records and the runs' ends go out."""

from __future__ import annotations

import logging
import os
import socket
import threading
from itertools import count
from typing import Any

from taskrunner.errors import TaskrunnerError
from taskrunner.executors.wire import (
    CALL,
    CHUNK,
    MESSAGE,
    REPLY,
    REQUEST,
    Frames,
    Request,
    frame,
    from_json,
    to_json,
    unpickled,
)
from taskrunner.traces import current_trace_id


class RequestRefused(TaskrunnerError):
    """The runner could not do what the task asked for; the message says why."""


class Link:
    """Whole frames over one socket, from any thread of the child."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = Frames()
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._numbers = count(1)

    def next_call(self) -> Request:
        """Wait for the runner's next call."""
        while True:
            kind, body = self._receive()
            if kind == CALL:
                return Request._make(unpickled(body))

    def send(self, kind: bytes, body: bytes) -> None:
        """Send one frame."""
        with self._writing:
            self._socket.sendall(frame(kind, body))

    def tell(self, kind: str, data: object) -> None:
        """Send a message that needs no answer."""
        self.send(MESSAGE, to_json([kind, data]))

    def ask(self, kind: str, data: object) -> Any:
        """Ask the runner and wait for its answer, one question at a time; raises RequestRefused.

        Nobody else reads meanwhile: a runner sends no call to a child that runs one.
        """
        with self._asking:
            number = next(self._numbers)
            self.send(REQUEST, to_json([number, kind, data]))
            while True:
                told, body = self._receive()
                answer = from_json(body) if told == REPLY else {}
                if answer.get("number") == number:
                    break
        if "error" in answer:
            raise RequestRefused(answer["error"])
        return answer["value"]

    def settle(self) -> None:
        """Wait for the answer to a question that is under way."""
        with self._asking:
            pass

    def _receive(self) -> tuple[bytes, bytes]:
        while (received := self._frames.take()) is None:
            data = self._socket.recv(CHUNK)
            if not data:
                os._exit(1)  # the runner is gone, and the watching thread about to say so
            self._frames.add(data)
        return received


class LogToRunner(logging.Handler):
    """Hands the child's log records to the runner, whose own handlers then format and keep them."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its message and traceback as text; a record that cannot be formatted is reported."""
        try:
            if (trace_id := current_trace_id()) is not None:
                record.__dict__.setdefault("trace_id", trace_id)
            exc_text = self._formatter.formatException(record.exc_info) if record.exc_info else None
            self._link.tell(
                "log",
                {key: value for key, value in record.__dict__.items() if key not in _LEFT_OUT}
                | {
                    "msg": record.getMessage(),
                    "exc_text": exc_text or record.exc_text,
                },
            )
        except Exception:
            self.handleError(record)


_LEFT_OUT = frozenset(("args", "exc_info", "message", "asctime", "taskName", "relativeCreated", "thread"))
"""What of a record is not sent; the caller's own `extra=` fields are."""
