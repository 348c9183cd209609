"""Child processes for `executor="process"`: at most N, started on first use, reused, each killed without the others.

Why not a pool from a library: `docs/decisions/003-process-children-instead-of-pebble.md`.

A child never holds a second call while it runs one. With the next one at hand it would spend 20 µs of CPU on a call
instead of 50, the rest being the switch from runner to child; but what a dead child was on would be less clear.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from taskrunner.executors.call import (
    BrokeOff,
    Call,
    CallEnd,
    NoCapacity,
    Refused,
    Returned,
    RunEnd,
    Stopped,
    died,
    failed,
)
from taskrunner.executors.childchannel import Channel
from taskrunner.executors.childhub import Hub
from taskrunner.executors.childprocess import ChildProcess
from taskrunner.executors.handle import Calls, Done, Handle
from taskrunner.executors.wire import (
    CALL,
    DONE,
    FAILED,
    MESSAGE,
    REPLY,
    REQUEST,
    Request,
    WireBroken,
    from_json,
    pickled,
    unpickled,
)
from taskrunner.scope import current

_EXIT_PATIENCE = 1.0  # s between the end of a child's socket and its exit; both come with its death
_LATE_EOF = 0.5  # s after which a dead child's socket is taken as ended, though a grandchild holds it open
_REAP_PATIENCE = 5.0  # s until a SIGKILLed child is given up (it hangs in the kernel)


class Children:
    """A bounded set of child processes, each of which runs one call at a time."""

    def __init__(self, calls: Calls, *, slots: int, hub: Hub) -> None:
        """Bound the children to `slots`; the hub gets what they tell and ask."""
        self.calls = calls
        self.hub = hub
        self._slots = slots
        self._waiting: deque[_Errand] = deque()
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()  # until they are dead
        self._chores: set[asyncio.Task[None]] = set()

    def start(self, call: Call, done: Done) -> Handle:
        """Run the call in a child, as soon as one is free."""
        errand = _Errand(call, done, self)
        if refusal := _not_importable(call):
            self.calls.put(errand, refusal)
        else:
            self._waiting.append(errand)
            self._hand_out()
        return errand

    def stop(self, errand: _Errand) -> None:
        """Take an errand back, or kill the child that is on it; one that has ended is not heeded."""
        if errand.child is not None:
            self._retire(errand.child, Stopped())
        elif errand in self._waiting:
            self._waiting.remove(errand)
            self.calls.put(errand, Stopped())

    async def close(self) -> None:
        """Kill every child and wait for its end."""
        for child in tuple(self._all):
            self._retire(child, Stopped())
        await asyncio.gather(*self._chores)

    # ── what children report ─────────────────────────────────────────────────────────────────────────────────────

    def ended(self, child: _Child, end: RunEnd) -> None:
        """A child is through with its errand."""
        errand = child.release()
        if child.worn:
            self._retire(child, end)
        else:
            self._idle.append(child)
            self._hand_out()
        if errand is not None:
            self.calls.put(errand, end)

    def failed(self, child: _Child) -> None:
        """A child's socket has ended: it has died, or spoiled its connection."""
        self._retire(child, None)

    # ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hand_out(self) -> None:
        while self._waiting and (child := self._free_child()) is not None:
            errand = self._waiting.popleft()
            try:
                request = errand.request()
            except Exception as error:
                self._idle.append(child)
                self.calls.put(errand, failed(error))
                continue
            if not child.run(errand, request):
                self._waiting.appendleft(errand)
                self._retire(child, Stopped())

    def _free_child(self) -> _Child | None:
        while self._idle:
            if (child := self._idle.pop()).alive:
                return child
            self._retire(child, Stopped())
        if len(self._all) >= self._slots:
            return None
        try:
            started = _Child(self)
        except NoCapacity as error:
            while self._waiting:
                self.calls.put(self._waiting.popleft(), Refused(str(error)))
            return None
        self._all.add(started)
        return started

    def _retire(self, child: _Child, end: CallEnd | None) -> None:
        """Give a child up for good; what it was on ends like this when it is dead, without an `end` by its death."""
        if child in self._idle:
            self._idle.remove(child)
        if end is not None:
            child.kill()
        self._see_to(self._bury(child, child.release(), end))

    async def _bury(self, child: _Child, errand: _Errand | None, end: CallEnd | None) -> None:
        if end is None:
            end = died(await child.returncode(_EXIT_PATIENCE))
            child.kill()
        await child.returncode(_REAP_PATIENCE)
        self._all.discard(child)
        if errand is not None:
            self.calls.put(errand, end)
        self.calls.loop.call_soon(self._hand_out)  # not from here: an eager task factory may have us in its midst

    def _see_to(self, chore: Coroutine[Any, Any, None]) -> None:
        task = self.calls.loop.create_task(chore, context=self.calls.context)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


class _Errand(Handle):
    """A call for a child."""

    __slots__ = ("_request", "_stopped", "_way", "child", "context")

    def __init__(self, call: Call, done: Done, way: Children) -> None:
        super().__init__(call, done, way.calls)
        self.child: _Child | None = None
        self.context = copy_context()
        self.context.run(current.set, call.scope)
        self._way = way
        self._request: bytes | None = None
        self._stopped = False

    def cancel(self) -> None:
        """Kill its child, and wait for its death; a second time, do not wait."""
        if self._stopped:
            self._calls.put(self, Stopped())
        else:
            self._stopped = True
            self._way.stop(self)

    def request(self) -> bytes:
        """Begin, and return what to send to the child; begun once, though it may have to be sent to another."""
        if self._request is None:
            call = self.call
            info = {**call.info, **call.begin()}
            level = logging.getLogger().getEffectiveLevel()
            if call.scope is not None:
                level = min(level, call.scope.keep_level)
            self._request = pickled(tuple(Request(call.module, call.qualname, call.payload, info, level)))
        return self._request


class _Child:
    """One child process, the runner's end of its socket, and what it is on."""

    def __init__(self, way: Children) -> None:
        """Start the process; raises NoCapacity."""
        self.worn = False
        self._way = way
        self._errand: _Errand | None = None
        self._answering: asyncio.Task[None] | None = None
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    self._process = ChildProcess(theirs.fileno())
            except BaseException:
                ours.close()  # a child that was started sees it closed, and leaves
                raise
        except OSError as error:
            raise NoCapacity(f"cannot start a process: {error}; raise the limit it names or set fewer slots") from error
        self._channel = Channel(ours, self._take, lambda: way.failed(self))
        self._process.exit.add_done_callback(self._exited)

    @property
    def alive(self) -> bool:
        """Whether it lives."""
        return self._process.alive

    def run(self, errand: _Errand, request: bytes) -> bool:
        """Send it a call; False if it is dead already, and nothing of the call has reached it."""
        if not self._channel.send(CALL, request):
            return False
        self._errand = errand
        errand.child = self
        return True

    def release(self) -> _Errand | None:
        """Take away what it is on."""
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.child = None
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None
        return errand

    def kill(self) -> None:
        """Kill it, if it lives, with every process it started."""
        self._process.kill()
        self._channel.close()

    async def returncode(self, patience: float) -> int | None:
        """Wait for its exit and return what it exited with; None if it lives on."""
        await asyncio.wait((self._process.exit,), timeout=patience)
        return self._process.returncode

    def _take(self, kind: bytes, body: bytes) -> None:
        errand = self._errand
        if kind == MESSAGE:
            self._tell(errand, body)
        elif errand is None:
            raise WireBroken(f"a frame {kind!r} of an idle child")
        elif kind == DONE:
            self._way.ended(self, _returned(body))
        elif kind == FAILED:
            told = from_json(body)
            self.worn = told["worn"]
            self._way.ended(self, BrokeOff(told["error"], told["kind"]))
        elif kind == REQUEST:
            self._answering = self._way.calls.loop.create_task(self._answer(errand, body))
        else:
            raise WireBroken(f"an unexpected frame {kind!r}")

    def _tell(self, errand: _Errand | None, body: bytes) -> None:
        if errand is None:
            self._way.hub.tell(None, body)
        else:  # in the caller's context, so that a log handler knows whose record it is
            errand.context.run(self._way.hub.tell, errand.call, body)

    async def _answer(self, errand: _Errand, body: bytes) -> None:
        try:
            reply = await self._way.hub.answer(errand.call, body)
        except WireBroken:
            self._channel.fail()
        else:
            self._channel.send(REPLY, reply)

    def _exited(self, _: asyncio.Future[int]) -> None:
        self._way.calls.loop.call_later(_LATE_EOF, self._channel.fail)


def _returned(body: bytes) -> RunEnd:
    try:
        return Returned(unpickled(body))
    except BaseException as error:  # the user's classes take part in it
        return failed(error)


def _not_importable(call: Call) -> BrokeOff | None:
    """Refuse a class that a fresh interpreter cannot find, with what to do about it."""
    if call.module not in ("", "__main__") and "<" not in call.qualname:
        return None
    place = "the script itself" if call.module == "__main__" else "a function"
    remedy = "move it to the top level of a module of your tasks folder"
    return failed(ImportError(f'{call.qualname} has executor="process" but is defined in {place}: {remedy}'))
