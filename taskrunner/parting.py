"""How things end here: asyncio tasks by a cancel that is repeated until it is heeded, a drain with a closing line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from taskrunner.wording import some

_AGAIN = 0.2  # seconds


class Drained(NamedTuple):
    """What became of the claims that were there when a drain began."""

    ended: int = 0
    released: int = 0

    def __str__(self) -> str:
        return f"{some(self.ended, 'task')} ended, {self.released:,} released"

    def plus(self, ended: int, released: int) -> Drained:
        """Add what became of others."""
        return Drained(self.ended + ended, self.released + released)


async def part(tasks: Iterable[asyncio.Task[Any]], *, patience: float = 5.0) -> None:
    """Cancel tasks and wait until they have ended, at most `patience` seconds.

    One cancel is not enough: before Python 3.12 `asyncio.wait_for` drops it when what it waits for is there in the
    same turn of the loop (https://github.com/python/cpython/issues/86296).
    """
    loop = asyncio.get_running_loop()
    until, waiting = loop.time() + patience, set(tasks)
    while waiting and loop.time() < until:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_AGAIN)
