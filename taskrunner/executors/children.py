"""Child processes for `executor="process"`: at most N, started on first use, reused, each killed without the others.

Why not a pool from a library: `docs/decisions/003-process-children-instead-of-pebble.md`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Mapping

from taskrunner.executors.call import BrokeOff, Call, NoCapacity, OnMessage, OnRequest, Returned, RunEnd, died, failed
from taskrunner.executors.childprocess import ChildProcess
from taskrunner.executors.wire import (
    CALL,
    DONE,
    FAILED,
    HEADER,
    MESSAGE,
    REPLY,
    REQUEST,
    Request,
    WireBroken,
    frame,
    from_json,
    pickled,
    split_header,
    to_json,
    unpickled,
)

log = logging.getLogger(__name__)

_EXIT_PATIENCE = 1.0  # s between the end of a child's socket and its exit; both come with its death
_LATE_EOF = 0.5  # s after which a dead child's socket is taken as ended, though a grandchild holds it open
_REAP_PATIENCE = 5.0  # s until a SIGKILLed child is given up (it hangs in the kernel)


class Children:
    """A bounded set of child processes, each of which runs one call at a time."""

    def __init__(self, *, slots: int, on_message: OnMessage | None, on_request: OnRequest | None) -> None:
        """Bound the children to `slots`; the callbacks get what they tell and ask, with task id and claim number."""
        self._free = asyncio.Semaphore(slots)
        self._hub = _Hub(on_message, on_request)
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run(self, call: Call) -> RunEnd:
        """Run the call in a child; when cancelled, kill the child and raise.

        Raises NoCapacity, with nothing run, where the system lets no child start.
        """
        if refusal := _not_importable(call):
            return refusal
        async with self._free:
            child = await self._take()
            try:
                outcome = await child.run(call, self._hub)
            except BaseException:
                await self._drop(child)
                raise
            if child.usable:
                self._idle.append(child)
            else:
                await self._drop(child)
            return outcome

    async def close(self) -> None:
        """Kill every child and wait for its end."""
        await asyncio.gather(*[self._drop(child) for child in tuple(self._all)])
        self._idle.clear()

    async def _take(self) -> _Child:
        while self._idle:
            if (child := self._idle.pop()).usable:
                return child
            await self._drop(child)
        child = await _Child.start()
        self._all.add(child)
        return child

    async def _drop(self, child: _Child) -> None:
        self._all.discard(child)
        await child.kill()


class _Hub:
    """Where the children's messages and requests go; a callback that raises never costs the child its call."""

    def __init__(self, on_message: OnMessage | None, on_request: OnRequest | None) -> None:
        self._on_message = on_message
        self._on_request = on_request

    def tell(self, call: Call, body: bytes) -> None:
        kind, data = from_json(body)
        try:
            if kind == "log":  # in the caller's context, so that a handler knows whose record it is
                logging.getLogger(data["name"]).handle(logging.makeLogRecord(data))
            elif self._on_message is not None:
                self._on_message(*_identity(call), kind, data)
        except Exception:
            log.exception("a %r message of task %s was not taken", kind, call.info.get("id"))

    async def answer(self, call: Call, body: bytes) -> bytes:
        number, kind, data = from_json(body)
        try:
            if self._on_request is None:
                raise LookupError(f"this runner answers no {kind!r} requests")
            value = await self._on_request(*_identity(call), kind, data)
            return to_json({"number": number, "value": value})
        except Exception as error:
            return to_json({"number": number, "error": f"{type(error).__name__}: {error}"})


class _Child:
    """One child process and the runner's end of its socket."""

    def __init__(self, process: ChildProcess, reader: StreamReader, writer: StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._worn = False
        process.exit.add_done_callback(self._exited)

    @classmethod
    async def start(cls) -> _Child:
        """Start a process and connect to it; raises NoCapacity."""
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = ChildProcess(theirs.fileno())
                return cls(process, *await asyncio.open_unix_connection(sock=ours))
            except BaseException:
                ours.close()  # a child that was started sees it closed, and leaves
                raise
        except OSError as error:
            raise NoCapacity(f"cannot start a process: {error}; raise the limit it names or set fewer slots") from error

    @property
    def usable(self) -> bool:
        """Whether it lives and is fit for a further call."""
        return not self._worn and self._process.returncode is None and not self._reader.at_eof()

    async def run(self, call: Call, hub: _Hub) -> RunEnd:
        """Run one call; the child's death is an outcome, too."""
        try:
            await self._send(CALL, pickled(_request(call, call.begin())))
            while True:
                kind, body = await self._receive()
                if kind == MESSAGE:
                    hub.tell(call, body)
                elif kind == REQUEST:
                    await self._send(REPLY, await hub.answer(call, body))
                else:
                    return self._outcome(kind, body)
        except (IncompleteReadError, ConnectionError, WireBroken):
            return died(await self._status())

    async def kill(self) -> None:
        """Kill it with every process it started, and wait for its end; one that has ended is cleared away."""
        self._process.kill()
        self._writer.close()
        await asyncio.wait((self._process.exit,), timeout=_REAP_PATIENCE)

    async def _send(self, kind: bytes, body: bytes) -> None:
        self._writer.write(frame(kind, body))
        await self._writer.drain()

    async def _receive(self) -> tuple[bytes, bytes]:
        kind, length = split_header(await self._reader.readexactly(HEADER.size))
        return kind, await self._reader.readexactly(length)

    def _outcome(self, kind: bytes, body: bytes) -> RunEnd:
        if kind == DONE:
            try:
                return Returned(unpickled(body))
            except BaseException as error:  # the user's classes take part in it
                return failed(error)
        if kind == FAILED:
            told = from_json(body)
            self._worn = told["worn"]
            return BrokeOff(told["error"], told["kind"])
        raise WireBroken(f"an unexpected frame {kind!r}")

    async def _status(self) -> int | None:
        """Return what the child exited with, or None if it lives: only its socket was spoiled, it is of no use then."""
        self._worn = True
        await asyncio.wait((self._process.exit,), timeout=_EXIT_PATIENCE)
        return self._process.returncode

    def _exited(self, exit_status: asyncio.Future[int]) -> None:
        exit_status.get_loop().call_later(_LATE_EOF, self._reader.feed_eof)


def _identity(call: Call) -> tuple[str, int]:
    return str(call.info["id"]), int(str(call.info["claim_no"]))


def _request(call: Call, begun: Mapping[str, object]) -> Request:
    level = logging.getLogger().getEffectiveLevel()
    return Request(call.module, call.qualname, call.payload, {**call.info, **begun}, level)


def _not_importable(call: Call) -> BrokeOff | None:
    """Refuse a class that a fresh interpreter cannot find, with what to do about it."""
    if call.module not in ("", "__main__") and "<" not in call.qualname:
        return None
    place = "the script itself" if call.module == "__main__" else "a function"
    remedy = "move it to the top level of a module of your tasks folder"
    return failed(ImportError(f'{call.qualname} has executor="process" but is defined in {place}: {remedy}'))
