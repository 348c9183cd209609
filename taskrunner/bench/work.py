"""The tasks that are measured; runners find them here as they find a project's."""

from __future__ import annotations

import time

from taskrunner import Task, register_task

QUEUE = "bench"


@register_task("bench.noop", queue=QUEUE)
class Noop(Task):
    """Does nothing, so that all that is measured is the queue."""

    n: int

    async def run(self) -> None:
        """Do nothing."""


@register_task("bench.pickup", queue=QUEUE)
class Pickup(Task):
    """Says when it began."""

    async def run(self) -> float:
        """Return the monotonic clock, which is one for all processes of a machine."""
        return time.monotonic()
