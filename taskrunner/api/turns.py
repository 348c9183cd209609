"""A queue is made fair for a request or a page: its tasks are told a part at a time, while others are served."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from taskrunner import actions
from taskrunner.api.door import Door
from taskrunner.store import fair

PATIENCE = 3.0
"""Seconds in which the tasks of a queue are told that it is fair."""

_ROOM, _PAUSE = 5000, 0.05


async def make_fair(door: Door, name: str, actor: str, *, fair_queue: bool, patience: float = PATIENCE) -> bool:
    """Make a queue fair, with the tasks that wait in it, or ordinary; False as `fairness.set_fair` has it."""
    number = await door.act(actions.make_fair(name, fair_queue=fair_queue), actor)
    deadline = time.monotonic() + patience
    while fair_queue:
        settled = await door.run(lambda: fair.settled(number))
        moved = await _move(door, name, deadline)  # in this order: what was written before it was settled is found
        if (settled and moved) or time.monotonic() >= deadline:
            return settled and moved
        await asyncio.sleep(_PAUSE)
    return True


async def _move(door: Door, name: str, deadline: float) -> bool:
    after: UUID | None = UUID(int=0)
    while after is not None and time.monotonic() < deadline:
        after = (await door.run(lambda after=after: fair.move(name, after, _ROOM))).last  # type: ignore[misc]  # bound now
    return after is None
