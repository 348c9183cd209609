"""The runner's end of a child's socket: whole frames in and out, and never a wait."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from taskrunner.executors.wire import CHUNK, Frames, WireBroken, frame

log = logging.getLogger("taskrunner.executors.children")


class Channel:
    """Frames over one socket; `on_frame(kind, body)` gets each, `on_end()` is called once if the other end fails."""

    def __init__(
        self, connection: socket.socket, on_frame: Callable[[bytes, bytes], None], on_end: Callable[[], None]
    ) -> None:
        """Take over the socket."""
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._on_frame, self._on_end = on_frame, on_end
        self._frames = Frames()
        self._unsent = bytearray()
        self._ended = False
        self._loop.add_reader(connection, self._read)

    def send(self, kind: bytes, body: bytes) -> bool:
        """Send one frame, in parts if need be; False if the other end is gone and nothing of it was sent."""
        data = frame(kind, body)
        if self._unsent:
            self._unsent += data
            return True
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._socket, self._write)
        return True

    def fail(self) -> None:
        """Read no more and call `on_end`, once; the socket stays open, or a child that lives would see it and leave."""
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._socket)
            self._on_end()

    def close(self) -> None:
        """Close the socket; `on_end` is called no more."""
        self._ended = True
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.fail()
            return
        self._frames.add(data)
        try:
            while not self._ended and (received := self._frames.take()) is not None:
                self._on_frame(*received)
        except Exception as error:
            if not isinstance(error, WireBroken):
                log.exception("a frame of a child was not understood")
            self.fail()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent.clear()  # the reader is about to see its end
            sent = 0
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)
