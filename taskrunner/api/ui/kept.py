"""What costs the database much is looked at once for all who ask, and kept for a time that grows with what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")

CHEAP = 0.05
"""Seconds that a look may take to be made anew for everybody who asks later."""

TIMES = 20
"""So often as long as it took, what cost more is kept: the pages take up a twentieth of a connection at most."""

LONGEST = 15.0
MOST = 64


class Kept:
    """Values by key; who asks for one that is being made is given that one."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return the value, made by `make()` unless a good one is there. Raises: what `make` raises."""
        asked_at = time.monotonic()
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry
        while len(self._entries) > MOST:
            del self._entries[next(iter(self._entries))]
        async with entry.turn:
            if entry.begun_at < asked_at and entry.good_until < asked_at:
                begun_at = time.monotonic()
                entry.value = await make()
                took = time.monotonic() - begun_at
                entry.begun_at = begun_at
                entry.good_until = time.monotonic() + (min(took * TIMES, LONGEST) if took > CHEAP else 0)
            return entry.value  # type: ignore[no-any-return]  # a key's values are of one type


class _Entry:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.value: Any = None
        self.begun_at = self.good_until = float("-inf")


def kept_of(request: Request) -> Kept:
    """Return what is kept by the application that serves this request."""
    found: Kept | None = getattr(request.app.state, "kept", None)
    if found is None:
        found = request.app.state.kept = Kept()
    return found
