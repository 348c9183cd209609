"""Long work on the loop, in threads and in child processes alike: more time, progress, snoozes (SPEC RUN 24, 28)."""

from __future__ import annotations

import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskrunner.registry import discover
from tests.engine import Engine

pytestmark = pytest.mark.anyio

WAYS = ("Loop", "Thread", "Child")

PROJECT = """
import asyncio, time
from datetime import timedelta
from taskrunner import Snooze, Task, register_task
from taskrunner.errors import InvalidArgument

class Long(Task):
    def steps(self):
        context = self.context
        if self.what == "extends":
            for step in range(8):
                context.extend(timedelta(seconds=self.more))
                yield 0.3
            return (context.deadline is not None, step)
        if self.what == "falls silent":
            context.extend(2.1)
            yield 60
        if self.what == "extends nonsense":
            try:
                context.extend(-1)
            except InvalidArgument as error:
                return str(error)
        if self.what == "snoozes":
            context.progress(1, 2, "not yet")
            return Snooze(timedelta(hours=1)) if context.claim_no == 1 else context.claim_no
        if self.what == "reports":
            for done in range(200):
                context.progress(done + 1, 200)
        return None

    what: str
    more: float = 30

def drive(steps, sleep):
    while True:
        try:
            sleep(next(steps))
        except StopIteration as end:
            return end.value

def in_steps(task):
    return drive(task.steps(), lambda seconds: wait(task, seconds))

def wait(task, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not task.context.cancelled:
        time.sleep(0.01)

@register_task("Loop", timeout=2, max_retries=0)
class Loop(Long):
    async def run(self):
        steps = self.steps()
        while True:
            try:
                await asyncio.sleep(next(steps))
            except StopIteration as end:
                return end.value

@register_task("Thread", timeout=2, max_retries=0)
class Thread(Long):
    def run(self):
        return in_steps(self)

@register_task("Child", timeout=2, max_retries=0, executor="process")
class Child(Long):
    def run(self):
        return in_steps(self)

@register_task("Endless", max_retries=0)
class Endless(Long):
    def run(self):
        return in_steps(self)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Any:
    """A project's folder, since child processes import their tasks; returns the module."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("")
    (tmp_path / "tasks" / "long.py").write_text(textwrap.dedent(PROJECT))
    discover(tmp_path, "tasks")
    return sys.modules["tasks.long"]


async def ended(engine: Engine, *tasks: Any) -> list[Any]:
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            return await running.ended(*[answer.id for answer in door.add_many(tasks)])


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_extends_lasts_longer_than_its_timeout(engine: Engine, project: Any, way: str) -> None:
    """SPEC RUN 28."""
    (view,) = await ended(engine, getattr(project, way)(what="extends"))
    assert (view.state, view.result, view.errors) == ("succeeded", [True, 7], [])


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_extended_and_then_falls_silent_times_out(engine: Engine, project: Any, way: str) -> None:
    """SPEC RUN 28: the deadline has moved, it has not gone."""
    (view,) = await ended(engine, getattr(project, way)(what="falls silent"))
    assert view.state == "dead"
    assert view.errors[-1]["message"].startswith("timed out after ")
    assert float(view.errors[-1]["message"].split()[3]) > 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_deadline_is_not_moved_into_the_past(engine: Engine, project: Any, way: str) -> None:
    (view,) = await ended(engine, getattr(project, way)(what="extends nonsense"))
    assert view.state == "succeeded"
    assert "extend" in view.result
    assert "-1" in view.result


async def test_without_a_timeout_there_is_nothing_to_extend(engine: Engine, project: Any) -> None:
    (view,) = await ended(engine, project.Endless(what="extends", more=0.01))
    assert (view.state, view.result) == ("succeeded", [False, 7])


@pytest.mark.parametrize("way", WAYS)
async def test_a_snoozed_task_comes_back_with_its_tries_and_its_progress(
    engine: Engine, project: Any, way: str
) -> None:
    """SPEC RUN 24."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            id_ = door.add(getattr(project, way)(what="snoozes")).id
            async for view in _seen(running, door, id_):
                if view.state == "pending" and view.maturity_at > engine.db.now() + timedelta(minutes=59):
                    break
            assert (view.tries, view.errors, view.progress) == (0, [], {"done": 1, "total": 2, "message": "not yet"})
            door.retry(id_)
            (view,) = await running.ended(id_)
    assert (view.state, view.result, view.tries) == ("succeeded", 2, 0)


async def _seen(running: Any, door: Any, id_: Any) -> Any:
    """Yield the task each time that its claim has been settled."""
    from taskrunner import events

    count = 1
    while True:
        await running.until(events.Settled, count)
        yield door.get(id_)
        count += 1


@pytest.mark.parametrize("way", WAYS)
async def test_the_last_progress_of_a_run_is_in_history(engine: Engine, project: Any, way: str) -> None:
    (view,) = await ended(engine, getattr(project, way)(what="reports"))
    assert (view.state, view.progress) == ("succeeded", {"done": 200, "total": 200, "message": None})
