"""A call under way in a test. Its end is told once, on the loop, and never from within what started or stopped it."""

from __future__ import annotations

import asyncio
import threading

from taskrunner.executors import Call, CallEnd, Executors

WAIT = 60.0


class Started:
    """A call that has been started; it checks how its end is told."""

    def __init__(self, pool: Executors, call: Call) -> None:
        self.ends: list[CallEnd] = []
        self._told = asyncio.Event()
        self._thread = threading.get_ident()
        self._inside = True
        self.handle = pool.start_call(call, self._done)
        self._inside = False

    def cancel(self) -> None:
        """Stop it."""
        self._inside = True
        self.handle.cancel()
        self._inside = False

    async def end(self) -> CallEnd:
        """Wait for its end."""
        await asyncio.wait_for(self._told.wait(), WAIT)
        (end,) = self.ends
        return end

    async def stopped(self) -> CallEnd:
        """Stop it and wait for its end."""
        self.cancel()
        return await self.end()

    @property
    def ended(self) -> bool:
        """Whether its end has been told."""
        return bool(self.ends)

    def _done(self, end: CallEnd) -> None:
        assert not self._inside, "told while it was being started or stopped"
        assert threading.get_ident() == self._thread
        self.ends.append(end)
        self._told.set()


async def ended(pool: Executors, call: Call) -> CallEnd:
    """Start a call and wait for its end."""
    return await Started(pool, call).end()
