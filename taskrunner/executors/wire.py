"""The frames that a runner and its child processes exchange over a socket pair: `kind` (1 byte), length, body.

Every child has a socket of its own, so one that is killed in mid-write spoils nothing but its own last frame.
"""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any, NamedTuple

CALL, REPLY = b"C", b"R"  # to the child
DONE, FAILED, MESSAGE, REQUEST = b"D", b"F", b"M", b"Q"  # to the runner
KINDS = frozenset((CALL, REPLY, DONE, FAILED, MESSAGE, REQUEST))
HEADER = struct.Struct("!cI")
CHUNK = 65_536  # bytes read at once; malloc would map and unmap a larger buffer each time
MAX_BODY = 2**31 - 1  # bytes; also what tells a frame from somebody else's bytes on the socket


class WireBroken(Exception):
    """The other side sent what is no frame."""


class Request(NamedTuple):
    """What a child needs to rebuild a task and run it; sent as the plain tuple, which is pickled four times as fast."""

    module: str
    qualname: str
    payload: str
    info: dict[str, object]
    log_level: int


def frame(kind: bytes, body: bytes) -> bytes:
    """Build one frame of a body within MAX_BODY."""
    return HEADER.pack(kind, len(body)) + body


class Frames:
    """Bytes as they come out of a socket, cut into frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def add(self, data: bytes) -> None:
        """Append what was received."""
        self._received += data

    def take(self) -> tuple[bytes, bytes] | None:
        """Return the next frame's kind and body, if it is complete; raises WireBroken."""
        received = self._received
        if len(received) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(received)
        if kind not in KINDS or length > MAX_BODY:
            raise WireBroken(f"not a frame: {bytes(received[: HEADER.size])!r}")
        end = HEADER.size + length
        if len(received) < end:
            return None
        body = bytes(memoryview(received)[HEADER.size : end])
        del received[:end]
        return kind, body


def pickled(value: object) -> bytes:
    """Serialize a value between a runner and its own child, which trust each other; raises anything."""
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    if len(body) > MAX_BODY:
        raise ValueError(f"{len(body)} bytes are too many to pass between processes (at most {MAX_BODY})")
    return body


def unpickled(body: bytes) -> Any:
    """Read what `pickled` wrote; raises anything."""
    return pickle.loads(body)  # noqa: S301 - from our own child, over a socket nobody else can open


def to_json(value: object) -> bytes:
    """Serialize data that the other side must be able to read without importing anything."""
    return json.dumps(value, default=str).encode()


def from_json(body: bytes) -> Any:
    """Read what `to_json` wrote; raises WireBroken."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise WireBroken(f"not the body of a frame: {body[:80]!r}") from error
