"""A look at the database every five seconds."""

from __future__ import annotations

import time
from datetime import timedelta

from taskrunner import AsyncTaskQueue, Task, register_task


@register_task("HealthCheck", timedelta(seconds=5), unique=True, priority=200, timeout=timedelta(seconds=10))
class HealthCheck(Task):
    """Open a connection, read this very task back, and return how long that took, in milliseconds."""

    async def run(self) -> dict[str, float | str]:
        began = time.perf_counter()
        async with AsyncTaskQueue.connect() as queue:
            connected = time.perf_counter()
            task = await queue.get(self.id)
            answered = time.perf_counter()
        return {
            "state": task.state,
            "connect_ms": round((connected - began) * 1000, 1),
            "query_ms": round((answered - connected) * 1000, 1),
        }

    def next_try(self) -> timedelta | None:
        return timedelta(minutes=1) if self.tries < 3 else None
