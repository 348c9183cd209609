"""Executors on the loop and in threads: whatever a task does, its runner gets a value and goes on."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal, cast

import pytest

from taskrunner.executors import BrokeOff, Call, CallEnd, Executors, Refused, Returned, Stopped
from taskrunner.task import Task
from tests.calls import Started, ended

pytestmark = pytest.mark.anyio

WAIT = 60.0
RUDE = (
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    RecursionError("deep"),
    MemoryError("much"),
    StopIteration(1),
)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@dataclass
class Job:
    """As much of a task as an executor sees."""

    run: Callable[[], Any]


def call(run: Callable[[], Any], executor: Literal["loop", "thread"]) -> Call:
    return Call(task=cast(Task, Job(run)), executor=executor, name="Job 1")


@asynccontextmanager
async def executors(**options: Any) -> AsyncIterator[Executors]:
    settings = {"concurrency": 4, "process_slots": 1, "stray_limit": 2} | options
    pool = Executors(**settings)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


class Strays:
    """Remembers the numbers of strays that were reported, and lets a test wait for one."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._changed = asyncio.Event()

    def __call__(self, number: int) -> None:
        self.numbers.append(number)
        self._changed.set()

    async def reached(self, number: int) -> None:
        async with asyncio.timeout(WAIT):
            while not self.numbers or self.numbers[-1] != number:
                self._changed.clear()
                await self._changed.wait()


class Stuck:
    """A `def run` that runs until it is released."""

    def __init__(self) -> None:
        self.started, self._release = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.started.set()
        self._release.wait(WAIT)

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, WAIT)

    def release(self) -> None:
        self._release.set()


def raiser(error: BaseException) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


def async_raiser(error: BaseException) -> Callable[[], Any]:
    async def run() -> object:
        raise error

    return run


async def test_a_returned_value_is_done_with_that_value() -> None:
    """SPEC RUN 24."""

    async def run() -> object:
        await asyncio.sleep(0)
        return {"n": 1}

    async with executors() as pool:
        assert await ended(pool, call(run, "loop")) == Returned({"n": 1})
        assert await ended(pool, call(lambda: [1, 2], "thread")) == Returned([1, 2])


@pytest.mark.parametrize("error", RUDE, ids=lambda error: type(error).__name__)
async def test_whatever_run_raises_fails_that_task_and_the_loop_goes_on(error: BaseException) -> None:
    """SPEC RUN 27."""
    async with executors() as pool:
        for outcome in (
            await ended(pool, call(async_raiser(error), "loop")),
            await ended(pool, call(raiser(error), "thread")),
        ):
            assert isinstance(outcome, BrokeOff)
            # Python itself turns a StopIteration out of a coroutine into a RuntimeError.
            assert type(error).__name__ in outcome.error["traceback"]
            assert outcome.kind == "raised"
        assert await ended(pool, call(lambda: "alive", "thread")) == Returned("alive")


async def test_a_real_endless_recursion_fails_that_task_alone() -> None:
    """SPEC RUN 27."""

    def deeper() -> object:
        return deeper()

    async def run() -> object:
        return deeper()

    async with executors() as pool:
        outcomes = [await ended(pool, call(run, "loop")), await ended(pool, call(deeper, "thread"))]
    assert all(isinstance(each, BrokeOff) and each.error["message"].startswith("RecursionError") for each in outcomes)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
async def test_system_exit_in_a_subtask_of_a_task_does_not_end_the_event_loop(error: BaseException) -> None:
    """SPEC RUN 27: asyncio would raise it through run_forever."""

    async def run() -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(async_raiser(error)())
        return None

    async with executors() as pool:
        outcome = await ended(pool, call(run, "loop"))
    assert isinstance(outcome, BrokeOff)
    assert type(error).__name__ in outcome.error["traceback"]


async def test_a_subtask_behaves_and_looks_as_it_would_without_the_guard() -> None:
    release = asyncio.Event()

    async def inner(value: int) -> int:
        await release.wait()
        return value

    async def run() -> object:
        unstarted = asyncio.create_task(inner(0))
        unstarted.cancel()
        pending = asyncio.create_task(inner(1))
        await asyncio.wait((unstarted,))
        (frame,) = pending.get_stack()
        release.set()
        return unstarted.cancelled(), frame.f_code.co_name, await asyncio.gather(pending, inner(2))

    async with executors() as pool:
        end = await ended(pool, call(run, "loop"))
        gc.collect()  # a coroutine that was never awaited would warn here
    assert end == Returned((True, "inner", [1, 2]))


async def test_an_error_of_a_subtask_stays_what_it_is() -> None:
    async def run() -> None:
        await asyncio.gather(async_raiser(ValueError("told"))(), asyncio.sleep(0))

    async with executors() as pool:
        end = await ended(pool, call(run, "loop"))
    assert isinstance(end, BrokeOff)
    assert end.error["message"] == "ValueError: told"


async def test_close_gives_the_loop_its_task_factory_back() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    async with executors():
        assert loop.get_task_factory() is not before
    assert loop.get_task_factory() is before


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_a_cancelled_error_of_the_tasks_own_is_a_failure_and_no_cancellation(
    executor: Literal["loop", "thread"],
) -> None:
    error = asyncio.CancelledError("mine")
    run = async_raiser(error) if executor == "loop" else raiser(error)
    async with executors() as pool:
        outcome = await ended(pool, call(run, executor))
    assert isinstance(outcome, BrokeOff)
    assert outcome.kind == "cancelled"


async def test_cancelling_a_call_raises_cancelled_error_in_the_coroutine_and_waits_for_its_cleanup() -> None:
    """SPEC RUN 28."""
    started, seen = asyncio.Event(), []

    async def run() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")

    async with executors() as pool:
        running = Started(pool, call(run, "loop"))
        await started.wait()
        assert await running.stopped() == Stopped()
        assert seen == ["cleaned up"]
        assert pool.strays == 0


async def test_a_coroutine_that_returns_a_value_despite_its_cancellation_was_stopped_all_the_same() -> None:
    """SPEC RUN 28: a timeout is still a timeout."""
    started = asyncio.Event()

    async def run() -> str:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "ended all the same"

    async with executors() as pool:
        running = Started(pool, call(run, "loop"))
        await started.wait()
        assert await running.stopped() == Stopped()
        assert pool.strays == 0


async def test_a_call_that_has_ended_by_itself_is_not_stopped_any_more() -> None:
    ran = asyncio.Event()

    async def run() -> str:
        ran.set()
        return "through"

    async with executors() as pool:
        running = Started(pool, call(run, "loop"))
        await ran.wait()
        assert await running.stopped() == Returned("through")
        running.cancel()
    assert running.ends == [Returned("through")]


async def test_a_coroutine_cancelled_before_its_first_step_never_begins() -> None:
    began: list[str] = []

    async def run() -> None:
        began.append("run")

    async with executors() as pool:
        wanted = call(run, "loop")
        wanted.begin = lambda: began.append("begin") or {}
        ours, somebodys = Started(pool, wanted), Started(pool, wanted)
        for task in asyncio.all_tasks():
            if somebodys.handle.runs_in(task):
                task.cancel()
        assert await ours.stopped() == Stopped()
        assert await somebodys.end() == Stopped()
    assert began == []


async def test_a_call_on_the_loop_is_one_asyncio_task_under_its_name() -> None:
    async with executors() as pool:
        before = asyncio.all_tasks()
        running = Started(pool, call(asyncio.Event().wait, "loop"))
        (task,) = asyncio.all_tasks() - before
        assert task.get_name() == "Job 1"
        assert running.handle.runs_in(task)
        await running.stopped()
        assert not Started(pool, call(lambda: None, "thread")).handle.runs_in(task)


async def test_ends_are_told_in_the_runners_context_whatever_a_task_did_to_its_own() -> None:
    variable, seen = contextvars.ContextVar("variable", default="runners"), []

    async def run() -> None:
        variable.set("tasks")

    async with executors() as pool:
        for executor in ("loop", "thread"):
            told = asyncio.Event()
            job = run if executor == "loop" else lambda: variable.set("threads")
            pool.start_call(call(job, executor), lambda _, told=told: (seen.append(variable.get()), told.set()))
            await told.wait()
    assert seen == ["runners", "runners"]


async def test_an_end_that_its_caller_trips_over_does_not_cost_the_others_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trip(_: CallEnd) -> None:
        raise ValueError("no")

    async with executors() as pool:
        pool.start_call(call(lambda: 1, "thread"), trip)
        assert await ended(pool, call(lambda: 2, "thread")) == Returned(2)
    assert "ValueError: no" in caplog.text


async def test_a_coroutine_that_ignores_its_cancellation_is_a_stray_until_it_ends() -> None:
    """SPEC RUN 28."""
    started, release, strays = asyncio.Event(), asyncio.Event(), Strays()

    async def run() -> None:
        started.set()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    async with executors(cancel_patience=timedelta(milliseconds=10), on_strays=strays) as pool:
        running = Started(pool, call(run, "loop"))
        await started.wait()
        assert await running.stopped() == Stopped()
        assert pool.strays == 1
        release.set()
        await strays.reached(0)
    assert strays.numbers == [1, 0]


async def test_a_second_cancel_waits_for_nothing() -> None:
    """SPEC SHU 44: the second signal."""
    started, release = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        started.set()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    async with executors(cancel_patience=timedelta(seconds=60)) as pool:
        running = Started(pool, call(run, "loop"))
        await started.wait()
        running.cancel()
        await asyncio.sleep(0.01)
        assert not running.ended
        assert await running.stopped() == Stopped()
        assert pool.strays == 1
        release.set()


async def test_two_hundred_calls_in_threads_never_run_more_than_the_concurrency_at_once() -> None:
    """SPEC CON 47."""
    lock, now, peak = threading.Lock(), 0, 0

    def run() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        threading.Event().wait(0.001)
        with lock:
            now -= 1

    async with executors(concurrency=7) as pool:
        outcomes = await asyncio.gather(*[ended(pool, call(run, "thread")) for _ in range(200)])
        assert pool.live_threads == 7
    assert outcomes == [Returned(None)] * 200
    assert peak == 7


async def test_a_long_job_in_a_thread_holds_up_none_of_the_short_ones_behind_it() -> None:
    """SPEC CON 47: short jobs share a thread, but never one that is at work."""
    stuck = [Stuck() for _ in range(4)]
    async with executors(concurrency=5) as pool:
        await asyncio.gather(*[ended(pool, call(lambda: None, "thread")) for _ in range(5)])  # all threads are there
        long, short = [], []
        for each in stuck:
            long.append(Started(pool, call(each, "thread")))
            short += [Started(pool, call(lambda: 1, "thread")) for _ in range(5)]
        assert [await each.end() for each in short] == [Returned(1)] * 20
        assert not any(each.ended for each in long)
        for each in stuck:
            each.release()
        assert [await each.end() for each in long] == [Returned(None)] * 4


async def test_no_job_is_forgotten_however_jobs_and_idle_threads_come_and_go() -> None:
    """A job that is added while a thread lies down must wake it, or be seen by it."""

    def run(number: int) -> int:
        if number % 7 == 0:
            threading.Event().wait(0.0002)
        return number

    async with executors(concurrency=16) as pool:
        for turn in range(150):
            numbers = range(turn % 40)
            ends = [Started(pool, call(partial(run, number), "thread")) for number in numbers]
            if turn % 3:
                await asyncio.sleep(0)
            assert [await end.end() for end in ends] == [Returned(number) for number in numbers]
        assert pool.live_threads <= 16


async def test_close_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    async with executors() as pool:
        await asyncio.gather(*[ended(pool, call(lambda: None, "thread")) for _ in range(20)])
    assert set(threading.enumerate()) == before
    assert pool.live_threads == 0


async def test_a_thread_sees_the_context_variables_of_its_caller_and_keeps_its_own_to_itself() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def run() -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    async with executors(concurrency=1) as pool:
        variable.set("callers")
        assert await ended(pool, call(run, "thread")) == Returned("callers")
        assert await ended(pool, call(run, "thread")) == Returned("callers")
        assert variable.get() == "callers"


async def test_a_plain_run_that_returns_a_coroutine_is_told_what_to_write() -> None:
    async def inner() -> None: ...

    async with executors() as pool:
        outcome = await ended(pool, call(lambda: inner(), "thread"))
    assert isinstance(outcome, BrokeOff)
    assert "async def run" in outcome.error["message"]


async def test_a_stopped_thread_is_left_at_once_and_counted_as_a_stray_until_it_ends() -> None:
    """SPEC RUN 28."""
    stuck, strays = Stuck(), Strays()
    async with executors(concurrency=1, on_strays=strays) as pool:
        running = Started(pool, call(stuck, "thread"))
        await stuck.has_started()
        assert await running.stopped() == Stopped()
        assert pool.strays == 1
        assert await ended(pool, call(lambda: "a slot is free", "thread")) == Returned("a slot is free")
        assert pool.live_threads == 2
        stuck.release()
        await strays.reached(0)
        assert strays.numbers == [1, 0]
        assert await ended(pool, call(lambda: "still", "thread")) == Returned("still")
        assert pool.live_threads == 1, "the stray's thread is surplus"


async def test_strays_past_the_limit_take_up_slots() -> None:
    """SPEC RUN 28."""
    stuck, strays = [Stuck(), Stuck()], Strays()
    async with executors(concurrency=1, stray_limit=1, on_strays=strays) as pool:
        for each in stuck:
            running = Started(pool, call(each, "thread"))
            await each.has_started()
            assert await running.stopped() == Stopped()
        assert pool.strays == 2
        waiting = Started(pool, call(lambda: "at last", "thread"))
        await asyncio.sleep(0.05)
        assert not waiting.ended
        stuck[0].release()
        assert await waiting.end() == Returned("at last")
        stuck[1].release()
        await strays.reached(0)


async def test_a_call_that_is_cancelled_while_it_waits_for_a_thread_never_runs_and_is_no_stray() -> None:
    release, ran = threading.Event(), []
    async with executors(concurrency=1) as pool:
        first = Started(pool, call(lambda: release.wait(WAIT), "thread"))
        second = Started(pool, call(lambda: ran.append(1), "thread"))
        await asyncio.sleep(0)
        assert await second.stopped() == Stopped()
        release.set()
        assert await first.end() == Returned(True)
        assert pool.strays == 0
    assert ran == []


async def test_a_thousand_cancellations_at_the_moment_of_the_end_leave_the_counts_right() -> None:
    """The end of a call and its cancellation can cross on their way to the loop."""
    strays = Strays()
    async with executors(concurrency=2, stray_limit=1000, on_strays=strays) as pool:
        for turn in range(1000):
            running = Started(pool, call(lambda: None, "thread"))
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            assert await running.stopped() in (Stopped(), Returned(None))
        assert await ended(pool, call(lambda: 1, "thread")) == Returned(1)
        if pool.strays:
            await strays.reached(0)
        assert await asyncio.gather(*[ended(pool, call(lambda: 2, "thread")) for _ in range(10)]) == [Returned(2)] * 10
        assert pool.live_threads <= 2


async def test_close_reports_a_stuck_thread_and_cancels_the_calls_that_still_run() -> None:
    """SPEC SHU 44: such a process leaves by os._exit."""
    stuck, strays = Stuck(), Strays()
    pool = Executors(concurrency=1, process_slots=1, stray_limit=5, on_strays=strays)
    await pool.start()
    running = Started(pool, call(stuck, "thread"))
    await stuck.has_started()
    assert await pool.close() == 1
    assert running.ends == [Stopped()]
    stuck.release()
    await strays.reached(0)


async def test_a_system_without_threads_left_refuses_the_call_and_names_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FAULTS F30."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with executors() as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            refused, also = (Started(pool, call(lambda: None, "thread")) for _ in range(2))
            refused.cancel()  # it was refused before, and has begun nothing that could stray
            for each in (refused, also):
                end = await each.end()
                assert isinstance(end, Refused)
                assert "ulimit -u" in end.reason
            assert pool.strays == 0
        assert await ended(pool, call(lambda: "again", "thread")) == Returned("again")


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_an_outcome_keeps_no_local_of_the_failed_run_alive(executor: Literal["loop", "thread"]) -> None:
    class Big: ...

    def run() -> None:
        big = Big()
        raise ValueError(str(big))

    async def async_run() -> None:
        run()

    async with executors() as pool:
        await ended(pool, call(async_run if executor == "loop" else run, executor))
        held = [value for frame in sys._current_frames().values() for value in frame.f_locals.values()]
    assert not [value for value in held if isinstance(value, Big)]
