"""Progress of long work: what a task may say, where it is kept, and how people see it live (SPEC OPS 49)."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from taskrunner import TaskStatus, register_task
from taskrunner.console import follow_task, show_task, task_line
from taskrunner.console.follow import progress_words
from taskrunner.crew import Crew
from taskrunner.errors import DatabaseUnreachable, InvalidArgument
from taskrunner.progress import checked
from taskrunner.reads import TaskView
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.task import Task
from tests.engine import WAIT, Engine, holding

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ── what a task may say ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ((101, 100), "done=101 is more than total=100"),
        ((math.nan,), "done= is a finite number"),
        ((1, math.inf), "total= is a finite number"),
        ((-1, 5), "done= is a finite number and not negative, not -1"),
        (("7", 10), "done= is a finite number and not negative, not '7'"),
        ((True, 10), "done= is a finite number"),
        ((1, 2, 3), "message= is a text or None, not 3"),
    ],
    ids=str,
)
def test_nonsense_is_refused(said: Any, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        checked(*said)


def test_of_nothing_nothing_is_done_and_a_long_message_is_cut() -> None:
    assert checked(0, 0, None) == {"done": 0, "total": 0, "message": None}
    assert checked(2.5, None, "x" * 5000)["message"] == "x" * 1000


async def test_a_run_that_reports_nonsense_fails_saying_so(engine: Engine) -> None:
    @register_task("Wrong", max_retries=0)
    class Wrong(Task):
        async def run(self) -> None:
            self.context.progress(11, 10)

    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(Wrong()).id)
    assert view.state == "dead"
    assert "done=11 is more than total=10" in view.errors[-1]["message"]


async def test_what_was_said_once_while_somebody_held_the_row_is_shown_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing progress waits for nobody, so it may find the row locked; the task says nothing more meanwhile."""
    held, tried, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    shown = Crew.shown

    def told(crew: Crew, marks: Any, written: Any) -> None:
        shown(crew, marks, written)
        tried.set()

    monkeypatch.setattr(Crew, "shown", told)

    @register_task("Import")
    class Import(Task):
        async def run(self) -> None:
            await held.wait()
            self.context.progress(2, 3)
            await go.wait()

    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(Import()).id
            await running.started(id_)
            with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", id_):
                held.set()
                await asyncio.wait_for(tried.wait(), WAIT)
            assert engine.view(id_).progress is None
            tried.clear()
            await asyncio.wait_for(tried.wait(), WAIT)
            assert engine.view(id_).progress == {"done": 2, "total": 3, "message": None}
            go.set()
            await running.ended(id_)


@pytest.mark.parametrize("end", ["succeeded", "ignored", "dead"])
@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_the_last_word_of_a_short_run_is_kept(engine: Engine, way: str, end: str) -> None:
    """Progress is written twice a second; what was said last is written before the end is."""

    def says(context: Any) -> TaskStatus:
        for done in range(101):
            context.progress(done, 100, f"row {done}")
        return {"succeeded": TaskStatus.SUCCESS, "ignored": TaskStatus.IGNORED, "dead": TaskStatus.FAILURE}[end]

    if way == "loop":

        @register_task("Says", max_retries=0)
        class Says(Task):
            async def run(self) -> TaskStatus:
                return says(self.context)
    else:

        @register_task("Says", max_retries=0)
        class Says(Task):  # type: ignore[no-redef]  # the other way
            def run(self) -> TaskStatus:
                return says(self.context)

    with engine.door() as door:
        async with engine.running() as running:
            views = await running.ended(*[answer.id for answer in door.add_many([Says() for _ in range(20)])])
    assert {view.state for view in views} == {end}
    assert [view.progress for view in views] == [{"done": 100, "total": 100, "message": "row 100"}] * 20


# ── how people see it ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        ({"done": 42, "total": 100, "message": "rows"}, "42 of 100 (42%): rows"),
        ({"done": 1.5, "total": 3, "message": None}, "1.5 of 3 (50%)"),
        ({"done": 1_234_567, "total": 2_000_000, "message": None}, "1,234,567 of 2,000,000 (62%)"),
        ({"done": 7000, "total": None, "message": "so far"}, "7,000: so far"),
        ({"done": 0, "total": 0, "message": None}, "0 of 0"),
        ({"step": "of another hand"}, '{"step":"of another hand"}'),
        ([1], "[1]"),
    ],
    ids=str,
)
def test_progress_in_words(progress: Any, words: str) -> None:
    assert progress_words(progress) == words


class Long:
    """A task in the hands of a runner on paper, so that the test says what happens when."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._runner = engine, engine.join()
        (self.id,) = engine.add()
        (self._claim,) = engine.claim(self._runner)

    def say(self, done: int, total: int, message: str) -> None:
        said = json.dumps(checked(done, total, message))
        assert self._engine.do(store.progress(self._runner, {(self.id, self._claim.claim_no): said})) == [self.id]

    def finish(self) -> None:
        self._engine.finish(self._runner, Ending(self.id, self._claim.claim_no, detail='"the result"'))

    def bury(self) -> None:
        ending = Ending(self.id, self._claim.claim_no, detail='[{"message": "no more"}]')
        self._engine.do(store.bury(self._runner, [ending]))


@contextmanager
def watching(engine: Engine, id_: UUID, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Watch a task in a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskrunner", "tasks", "show", str(id_), "--watch", *options],
        env={**os.environ, "DATABASE_URL": engine.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_watch_in_a_pipe_writes_a_line_for_each_change_and_ends_with_the_task(engine: Engine) -> None:
    """SPEC OPS 49."""
    long = Long(engine)
    with watching(engine, long.id) as watch:
        assert line(watch).startswith("running since ")
        long.say(1, 4, "a quarter")
        assert line(watch).endswith("1 of 4 (25%): a quarter\n")
        long.say(4, 4, "all")
        assert line(watch).endswith("4 of 4 (100%): all\n")
        long.finish()
        out, err = watch.communicate(timeout=60)
    assert out.startswith("succeeded since ")
    assert '"the result"' in out
    assert "4 of 4 (100%): all" in out
    assert (watch.returncode, err, "\x1b" in out) == (0, "", False)


def test_a_watched_task_that_dies_is_exit_code_1_and_json_is_a_line_for_each_change(engine: Engine) -> None:
    long = Long(engine)
    with watching(engine, long.id, "--json") as watch:
        assert json.loads(line(watch))["state"] == "running"
        long.bury()
        out, err = watch.communicate(timeout=60)
    assert [json.loads(text)["state"] for text in out.splitlines()] == ["dead"]
    assert (watch.returncode, err) == (1, "")


def test_ctrl_c_ends_the_watch_and_not_the_task(engine: Engine) -> None:
    long = Long(engine)
    with watching(engine, long.id) as watch:
        line(watch)
        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=60)
    assert (watch.returncode, out, err) == (1, "", "")
    assert engine.view(long.id).state == "running"


def test_a_watch_on_a_terminal_is_a_bar_that_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC OPS 49: also while the database is away, and with a message that would move the cursor."""
    monkeypatch.setattr("taskrunner.console.follow.PAUSE", 0.0)
    long = Long(engine)
    views = [engine.view(long.id)]
    long.say(1, 2, "half\x1b[2J way")
    views.append(engine.view(long.id))
    long.finish()
    views.append(engine.view(long.id))
    answers: Iterator[Any] = iter([views[0], views[1], DatabaseUnreachable("it is away"), views[2]])

    def look() -> TaskView:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    assert follow_task(console, look) == views[2]
    written: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO of above
    assert "━" in written
    assert "\x1b[2J" not in written
    assert written.endswith("\x1b[2K") or "\x1b[?25h" in written[-40:]


def test_a_task_is_shown_with_its_progress_in_words(engine: Engine) -> None:
    long = Long(engine)
    long.say(3, 4, "rows")
    console = Console(file=io.StringIO(), width=100)
    console.print(show_task(engine.view(long.id)))
    assert "3 of 4 (75%): rows" in console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO of above
    assert task_line(engine.view(long.id)).endswith("3 of 4 (75%): rows")
