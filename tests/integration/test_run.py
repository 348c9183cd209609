"""What a run comes to: values, exceptions, time-outs, cancels and crashes, as the tables show them afterwards."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from taskrunner import Snooze, TaskStatus, events, register_task
from taskrunner.registry import discover
from taskrunner.task import Task
from tests.engine import WAIT, Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def runs(engine: Engine) -> Callable[..., type[Task]]:
    """Return a function that registers a type whose `run()` is the given function, on the loop or in a thread."""

    def make(function: Callable[..., Any], *, next_try: Any = lambda _: None, **declared: Any) -> type[Task]:
        members = {"run": function, "next_try": next_try, "__module__": __name__, "__qualname__": "Made"}
        return register_task("Made", **declared)(type("Made", (Task,), members))

    return make


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["loop", "thread"])
@pytest.mark.parametrize(
    ("value", "state", "result"),
    [
        (None, "succeeded", None),
        (TaskStatus.SUCCESS, "succeeded", None),
        (TaskStatus.IGNORED, "ignored", None),
        ({"sum": [1, 2.5, "ż", None]}, "succeeded", {"sum": [1, 2.5, "ż", None]}),
        ("", "succeeded", ""),
        (0, "succeeded", 0),
        (False, "succeeded", False),
    ],
    ids=str,
)
async def test_what_run_returns_is_what_history_says(
    engine: Engine, runs: Any, way: str, value: Any, state: str, result: Any
) -> None:
    """SPEC RUN 24, 29."""

    async def on_loop(self: Task) -> Any:
        return value

    def in_thread(self: Task) -> Any:
        return value

    kind = runs(on_loop if way == "loop" else in_thread)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert (view.state, view.result, view.tries, view.errors) == (state, result, 0, [])


async def test_history_has_the_times_the_runner_and_the_duration(engine: Engine, runs: Any) -> None:
    """SPEC RUN 24."""

    async def run(self: Task) -> None:
        await asyncio.sleep(0.05)

    kind = runs(run)
    with engine.door() as door:
        async with engine.running() as running:
            runner_id = running.runner.id
            (view,) = await running.ended(door.add(kind()).id)
    assert view.runner_id == runner_id
    assert view.started_at is not None
    assert view.finished_at is not None
    assert view.created_at <= view.started_at < view.finished_at <= engine.db.now()
    (seconds,) = engine.rows("SELECT run_seconds FROM taskrunner.task_history")[0]
    assert 0.05 <= seconds <= (view.finished_at - view.started_at).total_seconds() + 0.01
    counted = engine.rows("SELECT outcome, count, run_seconds, run_histogram FROM taskrunner.task_stats")
    assert [(outcome, count, total, sum(histogram)) for outcome, count, total, histogram in counted] == [
        ("succeeded", 1, seconds, 1)
    ]


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, math.nan, {"x": math.inf}, "\0", b"x"],
    ids=["object", "set", "nan", "inf", "nul", "bytes"],
)
async def test_a_value_that_is_no_json_is_a_failure_that_says_so(engine: Engine, runs: Any, value: Any) -> None:
    """SPEC RUN 24."""

    async def run(self: Task) -> Any:
        return value

    kind = runs(run)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert view.state == "dead"
    assert "cannot be kept as its result" in view.errors[-1]["message"]


async def test_a_snoozed_task_comes_back_later_and_no_try_is_counted(engine: Engine, runs: Any) -> None:
    """SPEC RUN 24."""

    async def run(self: Task) -> Any:
        return Snooze(timedelta(hours=2)) if self.context.claim_no == 1 else self.tries

    kind = runs(run)
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind()).id
            await running.until(events.Settled)
            view = door.get(id_)
            assert (view.state, view.tries, view.errors) == ("pending", 0, [])
            assert timedelta(minutes=119) < view.maturity_at - engine.db.now() <= timedelta(hours=2)
            door.retry(id_)
            (view,) = await running.ended(id_)
    assert (view.state, view.result) == ("succeeded", 0)


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["loop", "thread"])
@pytest.mark.parametrize(
    "error",
    [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError, asyncio.CancelledError],
)
async def test_whatever_run_raises_costs_that_task_alone(
    engine: Engine, runs: Any, way: str, error: type[BaseException]
) -> None:
    """SPEC RUN 27."""

    async def on_loop(self: Task) -> Any:
        raise error("told you")

    def in_thread(self: Task) -> Any:
        raise error("told you")

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    kind = runs(on_loop if way == "loop" else in_thread)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
            (other,) = await running.ended(door.add(Echo()).id)
    assert view.state == "dead"
    assert error.__name__ in view.errors[0]["message"]
    assert "told you" in view.errors[0]["traceback"]
    assert other.state == "succeeded"


async def test_a_real_stack_overflow_costs_that_task_alone(engine: Engine, runs: Any) -> None:
    """SPEC RUN 27."""

    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    async def run(self: Task) -> Any:
        return deeper(0)

    kind = runs(run)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert view.state == "dead"
    assert "RecursionError" in view.errors[0]["message"]


async def test_next_try_is_asked_once_a_failure(engine: Engine, runs: Any) -> None:
    """SPEC RUN 25: with the tries before this one, so that `tries < 3` gives four runs."""
    asked: list[int] = []

    async def run(self: Task) -> Any:
        if self.tries == 2:
            raise ValueError("no")
        return TaskStatus.FAILURE

    def next_try(self: Task) -> Any:
        asked.append(self.tries)
        return 0 if self.tries < 3 else None

    kind = runs(run, next_try=next_try)
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind()).id
            (view,) = await running.ended(id_)
            assert running.runs(id_) == 4
            assert asked == [0, 1, 2, 3]
    assert (view.state, view.tries, len(view.errors)) == ("dead", 4, 4)
    assert [error["try"] for error in view.errors] == [1, 2, 3, 4]


async def test_each_failure_is_a_line_in_the_log_and_the_last_says_where_the_errors_are(
    engine: Engine, runs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(self: Task) -> None:
        raise ValueError(f"no luck in try {self.tries}")

    kind = runs(run, next_try=lambda self: 0 if self.tries < 1 else None)
    with caplog.at_level("INFO", "taskrunner.task"), engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind()).id
            await running.ended(id_)
    lines = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "taskrunner.task"]
    assert lines == [
        ("WARNING", "failed, the next try is in 0.0 s: ValueError: no luck in try 0"),
        ("ERROR", f"dead: ValueError: no luck in try 1 (`taskrunner dead show {id_}` has its errors)"),
    ]
    assert [vars(one)["task_id"] for one in caplog.records if one.name == "taskrunner.task"] == [str(id_)] * 2


async def test_next_try_of_an_ignored_task_is_never_asked(engine: Engine, runs: Any) -> None:
    """SPEC RUN 25."""
    asked: list[int] = []

    async def run(self: Task) -> Any:
        return TaskStatus.IGNORED

    kind = runs(run, next_try=lambda self: asked.append(self.tries))
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert (view.state, asked) == ("ignored", [])


@pytest.mark.parametrize("answer", [math.nan, math.inf, "soon", [], SystemExit("out"), 1e300], ids=repr)
async def test_a_next_try_that_raises_or_makes_no_sense_buries_the_task_with_both_errors(
    engine: Engine, runs: Any, answer: Any
) -> None:
    """SPEC RUN 26."""

    async def run(self: Task) -> Any:
        raise ValueError("the first")

    def next_try(self: Task) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    kind = runs(run, next_try=next_try)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert view.state == "dead"
    assert len(view.errors) == 2
    assert "the first" in view.errors[0]["message"]


async def test_a_stored_payload_that_no_longer_fits_is_a_dead_letter_with_the_reason(engine: Engine) -> None:
    """SPEC ENQ 9."""

    @register_task("T")
    class Strict(Task):
        count: int

        async def run(self) -> None: ...

    bad = engine.add(payload='{"count": "many"}') + engine.add(payload='{"count": 1, "more": 2}') + engine.add()
    (good,) = engine.add(payload='{"count": 1}')
    async with engine.running() as running:
        views = await running.ended(*bad, good)
    assert [view.state for view in views] == ["dead", "dead", "dead", "succeeded"]
    for word, view in zip(("count", "more", "count"), views, strict=False):
        assert word in view.errors[0]["message"]


async def test_errors_are_kept_to_4095_characters_with_their_tail(engine: Engine, runs: Any) -> None:
    """SPEC ENQ 12; FAULTS F27: writing an error never fails."""

    async def run(self: Task) -> Any:
        raise ValueError("x" * 10_000 + " \0 \ud800 the end")

    kind = runs(run)
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    error = view.errors[0]
    assert len(error["message"]) <= 4095
    assert len(error["traceback"]) <= 4095
    assert error["message"].endswith("the end")


# ── time-outs, cancels, context ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_async_task_past_its_timeout_is_cancelled_and_has_failed(engine: Engine, runs: Any) -> None:
    """SPEC RUN 28."""
    cleaned = []

    async def run(self: Task) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    kind = runs(run, timeout=timedelta(milliseconds=50))
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert view.state == "dead"
    assert view.errors[0]["message"].startswith("timed out after 0.05 s")
    assert cleaned == [True]


async def test_a_thread_past_its_timeout_is_a_stray_that_frees_its_slot_and_is_counted(
    engine: Engine, runs: Any
) -> None:
    """SPEC RUN 28."""
    gate = threading.Event()

    def run(self: Task) -> Any:
        soft = []
        while not gate.wait(0.01):
            soft.append(self.context.cancelled)
        return soft

    @register_task("Echo")
    class Echo(Task):
        def run(self) -> None: ...

    kind = runs(run, timeout=timedelta(milliseconds=50))
    try:
        with engine.door() as door:
            async with engine.running(concurrency=1) as running:
                (view,) = await running.ended(door.add(kind()).id)
                assert "timed out after" in view.errors[0]["message"]
                assert running.runner._crew.strays == 1
                (other,) = await running.ended(door.add(Echo()).id)
                assert other.state == "succeeded"
                gate.set()
    finally:
        gate.set()


async def test_past_the_stray_limit_a_runner_drains_to_be_started_afresh(engine: Engine, runs: Any) -> None:
    """SPEC RUN 28."""
    gate = threading.Event()

    def run(self: Task) -> Any:
        gate.wait(60)

    kind = runs(run, timeout=timedelta(milliseconds=20))
    try:
        with engine.door() as door:
            async with engine.running(stray_limit=2) as running:
                ids = [answer.id for answer in door.add_many([kind() for _ in range(3)])]
                await running.ended(*ids)
                await running.gone()
                late = door.add(kind()).id
        assert running.strays == 3
        assert engine.view(late).state == "pending"
    finally:
        gate.set()
        for thread in threading.enumerate():
            if thread.name == "taskrunner-task":
                await asyncio.to_thread(thread.join, 5)


async def test_extend_moves_the_deadline(engine: Engine, runs: Any) -> None:
    """SPEC RUN 28."""

    async def run(self: Task) -> Any:
        first = self.context.deadline
        for _ in range(10):
            await asyncio.sleep(0.03)
            self.context.extend(timedelta(milliseconds=500))
        assert first is not None
        return (self.context.deadline - first).total_seconds()

    kind = runs(run, timeout=timedelta(milliseconds=200))
    with engine.door() as door:
        async with engine.running() as running:
            (view,) = await running.ended(door.add(kind()).id)
    assert view.state == "succeeded"
    assert 0.4 < view.result < 5


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_a_running_task_that_somebody_cancels_is_stopped_and_ends_as_cancelled(
    engine: Engine, runs: Any, way: str
) -> None:
    """SPEC OPS 48."""

    async def on_loop(self: Task) -> Any:
        await asyncio.Event().wait()

    def in_thread(self: Task) -> Any:
        while not self.context.cancelled:
            time.sleep(0.01)

    kind = runs(on_loop if way == "loop" else in_thread)
    with engine.door() as door:
        async with engine.running() as running:
            await running.until(events.Listening)
            id_ = door.add(kind()).id
            await running.started(id_)
            assert await asyncio.to_thread(door.cancel, id_) == "requested"
            (view,) = await running.ended(id_)
    assert (view.state, view.tries, view.errors) == ("cancelled", 0, [])
    assert engine.ends(id_) == 1


async def test_a_cancel_reaches_a_runner_that_hears_no_notifications(engine: Engine, runs: Any) -> None:
    """SPEC OPS 48."""

    async def run(self: Task) -> Any:
        await asyncio.Event().wait()

    kind = runs(run)
    with engine.door() as door:
        async with engine.running(listen=False, poll=timedelta(milliseconds=100)) as running:
            id_ = door.add(kind()).id
            await running.started(id_)
            await asyncio.to_thread(door.cancel, id_)
            (view,) = await running.ended(id_)
    assert view.state == "cancelled"


async def test_the_context_says_what_the_row_says_and_progress_is_seen_from_outside(engine: Engine, runs: Any) -> None:
    """DESIGN 2."""
    gate = asyncio.Event()
    saw: dict[str, Any] = {}

    async def run(self: Task) -> Any:
        context = self.context
        saw.update(id=context.id, queue=context.queue, tenant=context.tenant, priority=context.priority)
        saw.update(claim_no=context.claim_no, meta=context.meta, deadline=context.deadline, cancelled=context.cancelled)
        saw.update(task_id=self.id, task_priority=self.priority, tries=self.tries)
        context.progress(1, 4, "a quarter")
        await gate.wait()

    kind = runs(run, queue="slow", timeout=60)
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(kind(), priority=7, tenant="acme", meta={"trace": "t"}).id
            await running.started(id_)
            async with asyncio.timeout(WAIT):
                while (progress := (await asyncio.to_thread(door.get, id_)).progress) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            gate.set()
            await running.ended(id_)
    assert progress == {"done": 1, "total": 4, "message": "a quarter"}
    deadline = saw.pop("deadline")
    assert timedelta(seconds=20) < deadline - datetime.now(UTC) <= timedelta(seconds=60)
    assert saw == {
        "id": id_,
        "queue": "slow",
        "tenant": "acme",
        "priority": 7,
        "claim_no": 1,
        "meta": {"trace": "t"},
        "cancelled": False,
        "task_id": id_,
        "task_priority": 7,
        "tries": 0,
    }


# ── child processes ──────────────────────────────────────────────────────────────────────────────────────────────────

PROJECT = """
import os, signal, time
from taskrunner import Task, register_task

@register_task("Adds", executor="process")
class Adds(Task):
    a: int
    def run(self):
        self.context.progress(1, 2, "half")
        return {"sum": self.a + 1, "pid": os.getpid(), "tries": self.tries}

@register_task("Dies", executor="process", max_retries=0)
class Dies(Task):
    how: str
    def run(self):
        if self.how == "exit":
            os._exit(7)
        os.kill(os.getpid(), getattr(signal, self.how))

@register_task("Stuck", executor="process", timeout=0.3, max_retries=0)
class Stuck(Task):
    def run(self):
        while True: time.sleep(1)

@register_task("Rests", executor="process")
class Rests(Task):
    def run(self):
        time.sleep(1.5)

@register_task("Prompt", executor="process", timeout=60, max_retries=0)
class Prompt(Task):
    def run(self):
        return (self.context.deadline - self.context._started_at).total_seconds()

@register_task("Waits", executor="process")
class Waits(Task):
    def run(self):
        while True: time.sleep(1)
"""


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Any:
    """A project's folder with tasks that run in child processes; returns the module."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("")
    (tmp_path / "tasks" / "heavy.py").write_text(textwrap.dedent(PROJECT))
    discover(tmp_path, "tasks")
    return sys.modules["tasks.heavy"]


async def test_a_task_in_a_child_process_runs_fails_times_out_and_dies_alone(engine: Engine, project: Any) -> None:
    """SPEC RUN 28, 29."""
    with engine.door() as door:
        async with engine.running(process_slots=2) as running:
            added = [project.Adds(a=n) for n in range(3)]
            dying = [project.Dies(how=how) for how in ("exit", "SIGSEGV", "SIGKILL")]
            stuck = project.Stuck()
            ids = [answer.id for answer in door.add_many([*added, *dying, stuck])]
            views = await running.ended(*ids)
    assert [view.result["sum"] for view in views[:3]] == [1, 2, 3]
    assert os.getpid() not in {view.result["pid"] for view in views[:3]}
    assert [view.state for view in views[3:]] == ["dead"] * 4
    reasons = [view.errors[0]["message"] for view in views[3:]]
    assert "exit code 7" in reasons[0]
    assert signal.SIGSEGV.name in reasons[1]
    assert signal.SIGKILL.name in reasons[2]
    assert reasons[3].startswith("timed out after")


async def test_the_time_of_a_task_does_not_run_while_it_waits_for_a_free_child_process(
    engine: Engine, project: Any
) -> None:
    """SPEC RUN 28."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            ids = [answer.id for answer in door.add_many([project.Rests(), project.Prompt()])]
            views = await running.ended(*ids)
    assert [(view.state, view.errors) for view in views] == [("succeeded", [])] * 2
    assert views[1].result == pytest.approx(60, abs=0.5)
    assert views[0].finished_at is not None
    assert views[1].started_at is not None
    assert views[1].started_at >= views[0].started_at + timedelta(seconds=1.5)


async def test_a_cancelled_task_in_a_child_process_is_killed(engine: Engine, project: Any) -> None:
    """SPEC OPS 48."""
    with engine.door() as door:
        async with engine.running(process_slots=1) as running:
            await running.until(events.Listening)
            id_ = door.add(project.Waits()).id
            await running.started(id_)
            await asyncio.to_thread(door.cancel, id_)
            (view,) = await running.ended(id_)
    assert view.state == "cancelled"


# ── concurrency ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_short_tasks_pass_one_long_one_and_never_more_than_n_run_at_once(engine: Engine, runs: Any) -> None:
    """SPEC CON 47."""
    together = most = 0
    gate = asyncio.Event()

    async def short(self: Task) -> Any:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.01)
        together -= 1

    @register_task("Long")
    class Long(Task):
        async def run(self) -> None:
            await gate.wait()

    kind = runs(short)
    with engine.door() as door:
        async with engine.running(concurrency=5) as running:
            long = door.add(Long()).id
            await running.started(long)
            ids = [answer.id for answer in door.add_many([kind() for _ in range(60)])]
            await running.ended(*ids)
            assert door.get(long).state == "running"
            assert 2 <= most <= 4
            assert len(engine.backends("taskrunner%")) <= 3 + 1 + 4, "runner, heart and door"
            gate.set()
            await running.ended(long)
