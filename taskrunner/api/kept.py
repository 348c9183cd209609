"""What costs the database much is looked at once for all who ask, and kept for a time that grows with what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")

CHEAP = 0.05
"""Seconds that a look may take to be made anew for everybody who asks later."""

TIMES = 20
"""So often as long as it took, what cost more is kept: the pages take up a twentieth of a connection at most."""

LONGEST = 10.0
OLDEST = 30.0
"""Seconds that a value may be old that is given while it is made anew."""

SOON = 1.0
"""Seconds after which a value that is being made anew is asked for again."""

MOST = 64


class Kept:
    """Values by key; who asks for one that is being made is given that one."""

    def __init__(self, times: float = TIMES) -> None:
        self._times = times
        self._entries: dict[Hashable, _Entry] = {}

    def forget(self) -> None:
        """Keep nothing of what was: somebody has changed something, and wants to see it."""
        self._entries.clear()

    async def get(
        self, key: Hashable, make: Callable[[], Awaitable[T]], *, worth: Callable[[T], bool] = lambda _: True
    ) -> tuple[T, float]:
        """Return the value, made by `make()` unless a good one is there, and in how many seconds there may be a newer.

        That is 0 for one that is no older than the question. One that was good until just now is given at once, and
        made anew meanwhile. One that is not `worth` it is not kept, whatever it cost. Raises: what `make` raises.
        """
        asked_at = time.monotonic()
        entry = self._entry(key)
        if entry.good_until <= asked_at < entry.fair_until:
            entry.renew(lambda: self._made(entry, make, worth, asked_at))
            return entry.value, SOON
        return await self._made(entry, make, worth, asked_at)

    async def _made(
        self, entry: _Entry, make: Callable[[], Awaitable[T]], worth: Callable[[T], bool], asked_at: float
    ) -> tuple[T, float]:
        async with entry.turn:
            if entry.begun_at >= asked_at:
                return entry.value, 0.0
            if entry.good_until > time.monotonic():
                return entry.value, entry.good_until - time.monotonic()
            begun_at = time.monotonic()
            value = await make()
            took = time.monotonic() - begun_at
            keep = took > CHEAP and worth(value)
            entry.value, entry.begun_at = value, begun_at
            entry.good_until = begun_at + took + (min(took * self._times, LONGEST) if keep else 0.0)
            entry.fair_until = begun_at + took + OLDEST if keep and self._times > 0 else float("-inf")
            return value, 0.0

    def _entry(self, key: Hashable) -> _Entry:
        """Return the entry, the last used last; the first one goes when there are too many."""
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry
        while len(self._entries) > MOST:
            del self._entries[next(iter(self._entries))]
        return entry


class _Entry:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.value: Any = None
        self.begun_at = self.good_until = self.fair_until = float("-inf")
        self._renewal: asyncio.Task[Any] | None = None

    def renew(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Have it made by a task of its own; one that fails leaves the old value until that is too old."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(make())
            self._renewal.add_done_callback(lambda task: task.cancelled() or task.exception())


async def kept(request: Request, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
    """Return what is kept under this key; a page of an older value asks again when there may be a newer."""
    value, again = await kept_of(request).get(key, make)
    request.state.again = max(again, getattr(request.state, "again", 0.0))
    return value


def kept_of(request: Request) -> Kept:
    """Return what is kept by the application that serves this request."""
    found: Kept = request.app.state.kept
    return found
