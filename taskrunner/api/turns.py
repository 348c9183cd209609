"""A queue is made fair for a request or a page: its tasks are told a part at a time, while others are served."""

from __future__ import annotations

import asyncio
import time

from taskrunner import actions, fairness
from taskrunner.api.door import Door
from taskrunner.pieces import adrive

PATIENCE = 3.0
"""Seconds in which the tasks of a queue are told that it is fair."""


async def make_fair(door: Door, name: str, actor: str, *, fair_queue: bool, patience: float = PATIENCE) -> bool:
    """Make a queue fair, with the tasks that wait in it, or ordinary; False as `fairness.set_fair` has it."""
    number = await door.act(actions.make_fair(name, fair_queue=fair_queue), actor)
    deadline = time.monotonic() + patience
    while fair_queue:
        done = all(await adrive(door.run, fairness.telling(name, number, deadline)))
        if done or time.monotonic() >= deadline:
            return done
        await asyncio.sleep(fairness.PAUSE)
    return True
