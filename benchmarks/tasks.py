"""The tasks of the measurements: they do nothing, and are counted."""

from __future__ import annotations

from benchmarks.probe import ran
from taskrunner import Task, register_task


@register_task("bench.noop")
class Noop(Task):
    """Does nothing, as fast as it can."""

    n: int

    async def run(self) -> None:
        """Do nothing."""
        ran()


@register_task("bench.thread")
class InThread(Task):
    """Does nothing in a thread."""

    n: int

    def run(self) -> None:
        """Do nothing."""
        ran()


@register_task("bench.process", executor="process")
class InProcess(Task):
    """Does nothing in a child process."""

    n: int

    def run(self) -> None:
        """Do nothing."""
        ran()
