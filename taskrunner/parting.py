"""How asyncio tasks of our own are ended: a cancel is repeated until it is heeded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN = 0.2  # seconds


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
