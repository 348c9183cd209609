"""One task type that says what it is told to say in every place where a task can say something.

Tests with hostile texts run it (TASKRUNNER_TASKS=echo).
"""

from __future__ import annotations

from typing import Any, Literal

from taskrunner import Snooze, Task, TaskStatus, register_task

# A type's name is a place too.
HOSTILE_TYPE = "<img src=x onerror=alert(1)>'\";--{{7*7}}"


class _Echo(Task):
    value: Any = None
    end: Literal["succeed", "fail", "snooze", "ignore"] = "succeed"

    async def run(self) -> Any:
        text = str(self.value)
        self.context.logger.info(text)
        self.context.logger.warning("%s", text)
        self.context.progress(1, 2, text)
        if self.end == "fail":
            raise RuntimeError(text)
        if self.end == "snooze":
            return Snooze(3600)
        return TaskStatus.IGNORED if self.end == "ignore" else {"echo": self.value, text: text}


@register_task("Echo", max_retries=0)
class Echo(_Echo):
    """Say it."""


@register_task(HOSTILE_TYPE, max_retries=0)
class HostileName(_Echo):
    """Say it under a hostile name."""
