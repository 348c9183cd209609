"""Executors in child processes: whatever a task does to its process costs that task alone."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from taskrunner.executors import BrokeOff, Call, CallEnd, Executors, Refused, Returned, Stopped
from taskrunner.outcome import Snooze, TaskStatus
from tests.calls import Started, ended

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")]

WAIT = 60.0
TASKS = """
import asyncio, contextvars, ctypes, logging, os, resource, signal, subprocess, sys, threading, time
from datetime import timedelta
from typing import Any
from taskrunner.outcome import Snooze, TaskStatus
from taskrunner.task import Task

class Echo(Task):
    value: Any = None
    def run(self): return self.value

class AsyncEcho(Task):
    value: Any = None
    async def run(self):
        await asyncio.sleep(0)
        return self.value

class Pid(Task):
    def run(self): return os.getpid()

class Status(Task):
    def run(self): return [TaskStatus.IGNORED, Snooze(5)]

class Row(Task):
    def run(self):
        c = self.context
        return {"id": self.id, "tries": self.tries, "errors": self.errors, "claim_no": c.claim_no, "queue": c.queue,
                "tenant": c.tenant, "priority": c.priority, "deadline": c.deadline, "meta": c.meta,
                "cancelled": c.cancelled}

class Raise(Task):
    name: str
    def run(self):
        import builtins
        raise getattr(builtins, self.name)("told")

class AsyncExit(Task):
    async def run(self):
        async def sub(): raise SystemExit(3)
        await asyncio.gather(sub())

class OwnCancel(Task):
    async def run(self): raise asyncio.CancelledError("mine")

class Segfault(Task):
    def run(self): ctypes.string_at(0)

class Exit(Task):
    code: int
    def run(self): os._exit(self.code)

class KillSelf(Task):
    def run(self): os.kill(os.getpid(), signal.SIGKILL)

class StackOverflow(Task):
    def run(self):
        sys.setrecursionlimit(10**9)
        nested = []
        for _ in range(10**6): nested = [nested]
        return repr(nested)

class Memory(Task):
    def run(self):
        resource.setrlimit(resource.RLIMIT_AS, (2**29, resource.RLIM_INFINITY))
        return bytearray(2**30)

class UnpicklableResult(Task):
    def run(self): return threading.Lock()

class Poison:
    def __reduce__(self): return (sys.exit, (3,))

class PoisonResult(Task):
    def run(self): return Poison()

class Rude(Exception):
    def __init__(self, lock):
        super().__init__(lock)
        self.lock = lock
    def __str__(self): raise SystemExit(4)

class UnpicklableError(Task):
    def run(self): raise Rude(threading.Lock())

class Huge(Task):
    size: int
    def run(self): return "x" * self.size

class Progress(Task):
    async def run(self):
        self.context.progress(1, 2, "half")
        self.context.extend(timedelta(minutes=2))
        return self.context.deadline

class Late(Task):
    def run(self):
        context = self.context
        def speak():
            for _ in range(200):
                context.progress(1)
                time.sleep(0.001)
        threading.Thread(target=speak).start()

class LateLog(Task):
    def run(self):
        def speak():
            time.sleep(0.05)
            logging.getLogger("shop").info("long after")
        threading.Thread(target=speak).start()

class Flood(Task):
    def run(self):
        while True: self.context.progress(1, 2, "x" * 200_000)

class Inheritable(Task):
    def run(self): return [fd for fd in range(3, 64) if inheritable(fd)]

def inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False

class Print(Task):
    def run(self):
        print("printed", sys.argv)
        os.kill(os.getpid(), signal.SIGKILL)

class Forever(Task):
    path: str
    def run(self):
        child = subprocess.Popen(["sleep", "600"])
        with open(self.path + ".new", "w") as file: file.write(f"{os.getpid()} {child.pid}")
        os.rename(self.path + ".new", self.path)
        time.sleep(600)

class HoldGil(Task):
    path: str
    def run(self):
        with open(self.path + ".new", "w") as file: file.write(f"{os.getpid()} {os.getpid()}")
        os.rename(self.path + ".new", self.path)
        ctypes.PyDLL(None).sleep(600)

def open_files():
    return [fd for fd in map(int, os.listdir("/dev/fd")) if fd > 2]

def inherit(fd):
    try:
        os.set_inheritable(fd, True)
    except OSError:
        pass

class LeaveSocketOpen(Task):
    def run(self):
        for fd in open_files(): inherit(fd)
        subprocess.Popen(["sleep", "3"], close_fds=False, start_new_session=True)
        os._exit(9)

class CloseFiles(Task):
    def run(self): os.closerange(3, 64)

class WriteEverywhere(Task):
    def run(self):
        for fd in open_files():
            try:
                os.write(fd, b"?" * 100)
            except OSError:
                pass
        time.sleep(600)

class Signals(Task):
    def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return subprocess.run([sys.executable, "-c",
            "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"],
            capture_output=True, text=True).stdout.strip()

class Log(Task):
    def run(self):
        logging.getLogger("shop").info("sold %s", "apples")
        try:
            1 / 0
        except ZeroDivisionError:
            self.context.logger.exception("no")

class Once(Task):
    def run(self): return [self.context.run_once("a", lambda: 7), self.context.run_once("b", lambda: 8)]

class AsyncOnce(Task):
    async def run(self):
        async def seven(): return 7
        return [await self.context.run_once("a", seven), await self.context.run_once("b", seven)]

class Session(Task):
    def run(self): self.context.session()

variable = contextvars.ContextVar("variable", default=0)

class Variable(Task):
    def run(self):
        variable.set(variable.get() + 1)
        return variable.get()

class Sleep(Task):
    seconds: float
    def run(self):
        time.sleep(self.seconds)
        return os.getpid()
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that only this test's sys.path leads to."""
    name = f"shop_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def call(project: str) -> Callable[..., Call]:
    tasks = importlib.import_module(project)

    def make(name: str, /, **payload: object) -> Call:
        task = getattr(tasks, name)(**payload)
        info = {
            "id": task.id,
            "tries": 1,
            "crashes": 0,
            "max_retries": 3,
            "priority": 7,
            "queue": "mail",
            "tenant": "acme",
            "errors": ({"message": "first"},),
            "claim_no": 4,
            "deadline": datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
            "started_at": datetime(2026, 1, 1, tzinfo=UTC),
            "meta": {"trace": "x"},
        }
        return Call(task, "process", name, project, name, task.model_dump_json(), info)

    return make


@asynccontextmanager
async def executors(slots: int = 1, **options: Any) -> AsyncIterator[Executors]:
    pool = Executors(concurrency=1, process_slots=slots, stray_limit=1, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "taskrunner.executors" in _command_of(child)]


def _command_of(process: psutil.Process) -> str:
    """Return its command line; one that ends this moment, or waits to be reaped, has none."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


async def written(path: Path) -> list[psutil.Process]:
    """The processes whose ids a task writes down; a file is no event that asyncio could wait for."""
    async with asyncio.timeout(WAIT):
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)
    return [psutil.Process(int(pid)) for pid in path.read_text().split()]  # noqa: ASYNC240


async def gone(process: psutil.Process) -> None:
    """Orphans are reaped by init, or stay zombies in a container whose init does not."""
    async with asyncio.timeout(WAIT):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def message(end: CallEnd) -> str:
    assert isinstance(end, BrokeOff)
    return end.error["message"]


async def test_values_of_both_kinds_of_run_come_back_as_they_are(call: Callable[..., Call]) -> None:
    """SPEC RUN 24, 29."""
    value = {"text": "żółć \n", "big": 2**70, "list": [None, 1.5, True]}
    async with executors() as pool:
        assert await ended(pool, call("Echo", value=value)) == Returned(value)
        assert await ended(pool, call("AsyncEcho", value=value)) == Returned(value)
        assert await ended(pool, call("Status")) == Returned([TaskStatus.IGNORED, Snooze(5)])
        assert len(children()) == 1, "a child serves many calls"


async def test_a_child_is_started_on_first_use_and_none_is_left_after_close(call: Callable[..., Call]) -> None:
    def descriptors() -> int:
        gc.collect()
        return psutil.Process().num_fds()

    async with executors(slots=2) as pool:
        await ended(pool, call("Echo"))  # asyncio's own machinery for child processes opens its files once
    before = descriptors()
    async with executors(slots=2) as pool:
        assert children() == []
        await asyncio.gather(*[ended(pool, call("Sleep", seconds=0.05)) for _ in range(4)])
        assert len(children()) == 2
    assert children() == []
    await asyncio.sleep(0)  # a transport closes its file in the loop's next turn
    assert descriptors() == before


async def test_a_task_sees_its_row_and_its_claim(call: Callable[..., Call]) -> None:
    """SPEC RUN 29."""
    wanted = call("Row")
    async with executors() as pool:
        end = await ended(pool, wanted)
    assert isinstance(end, Returned)
    assert end.value == {
        "id": wanted.task.id,
        "tries": 1,
        "errors": ({"message": "first"},),
        "claim_no": 4,
        "queue": "mail",
        "tenant": "acme",
        "priority": 7,
        "deadline": datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        "meta": {"trace": "x"},
        "cancelled": False,
    }


async def test_whatever_run_raises_comes_back_with_its_traceback_and_the_child_lives(call: Callable[..., Call]) -> None:
    """SPEC RUN 27."""
    names = ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "RecursionError", "StopIteration"]
    async with executors() as pool:
        first = await ended(pool, call("Pid"))
        for name in names:
            end = await ended(pool, call("Raise", name=name))
            assert isinstance(end, BrokeOff)
            assert (end.error["message"], end.kind) == (f"{name}: told", "raised")
            assert "in run" in end.error["traceback"]
        assert "SystemExit" in message(await ended(pool, call("AsyncExit")))
        own = await ended(pool, call("OwnCancel"))
        assert isinstance(own, BrokeOff)
        assert own.kind == "cancelled"
        assert await ended(pool, call("Pid")) == first


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        ("Segfault", {}, "its process died (signal 11, SIGSEGV)"),
        ("Exit", {"code": 7}, "its process died (exit code 7)"),
        ("Exit", {"code": 0}, "its process died (exit code 0)"),
        ("KillSelf", {}, "its process died (signal 9, SIGKILL)"),
        ("LeaveSocketOpen", {}, "its process died (exit code 9)"),
        ("CloseFiles", {}, "its process died (exit code 1)"),
        ("WriteEverywhere", {}, "its process spoiled the connection to its runner"),
    ],
)
async def test_a_task_that_kills_its_process_costs_only_itself(
    call: Callable[..., Call], name: str, payload: dict[str, object], said: str
) -> None:
    """SPEC RUN 29, FAULTS F25."""
    async with executors(slots=2) as pool:
        sibling = Started(pool, call("Sleep", seconds=0.3))
        end = await ended(pool, call(name, **payload))
        assert isinstance(end, BrokeOff)
        assert (end.error["message"], end.kind) == (said, "died")
        assert isinstance(await sibling.end(), Returned)
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_a_stack_that_overflows_costs_only_that_task(call: Callable[..., Call]) -> None:
    """FAULTS F25: a crash of the process up to Python 3.11, an exception in later ones."""
    async with executors() as pool:
        end = await ended(pool, call("StackOverflow"))
        assert isinstance(end, BrokeOff)
        assert end.kind == "died" or end.error["message"].startswith("RecursionError")
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_an_idle_child_that_dies_costs_nothing(call: Callable[..., Call]) -> None:
    """SPEC RUN 29, FAULTS F25: the kernel kills whom it likes."""
    async with executors() as pool:
        assert isinstance(await ended(pool, call("Pid")), Returned)
        (child,) = children()
        child.kill()
        await gone(child)
        await asyncio.sleep(0.05)  # the kernel's word has to come through the loop
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_memory_beyond_the_limit_fails_that_task_and_its_child_is_replaced(call: Callable[..., Call]) -> None:
    """SPEC RUN 27, 29, FAULTS F25."""
    async with executors() as pool:
        first = await ended(pool, call("Pid"))
        assert message(await ended(pool, call("Memory"))).startswith("MemoryError")
        second = await ended(pool, call("Pid"))
    assert isinstance(second, Returned)
    assert second != first


async def test_results_and_errors_that_cannot_be_passed_on_fail_with_text(call: Callable[..., Call]) -> None:
    """SPEC RUN 24."""
    async with executors() as pool:
        assert "cannot pickle '_thread.lock'" in message(await ended(pool, call("UnpicklableResult")))
        assert message(await ended(pool, call("PoisonResult"))).startswith("SystemExit")
        assert message(await ended(pool, call("UnpicklableError"))).startswith("Rude")
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_a_huge_result_and_a_huge_payload_pass(call: Callable[..., Call]) -> None:
    async with executors() as pool:
        end = await ended(pool, call("Huge", size=50_000_000))
        assert isinstance(end, Returned)
        assert len(str(end.value)) == 50_000_000
        text = "ż" * 5_000_000
        assert await ended(pool, call("Echo", value=text)) == Returned(text)


async def test_a_cancelled_call_kills_the_child_and_what_it_started(call: Callable[..., Call], tmp_path: Path) -> None:
    """SPEC RUN 28, OPS 48."""
    async with executors() as pool:
        running = Started(pool, call("Forever", path=str(tmp_path / "pids")))
        child, grandchild = await written(tmp_path / "pids")
        assert await asyncio.wait_for(running.stopped(), WAIT) == Stopped()
        await gone(child)
        await gone(grandchild)
        assert children() == []
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_a_cancel_ends_even_c_code_that_holds_the_interpreter(call: Callable[..., Call], tmp_path: Path) -> None:
    """SPEC RUN 28."""
    async with executors() as pool:
        running = Started(pool, call("HoldGil", path=str(tmp_path / "pids")))
        child, _ = await written(tmp_path / "pids")
        assert await running.stopped() == Stopped()
        await gone(child)


async def test_a_call_cancelled_while_its_child_starts_leaves_no_child(call: Callable[..., Call]) -> None:
    async with executors() as pool:
        for turns in range(6):
            running = Started(pool, call("Echo"))
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await running.stopped() == Stopped()
        assert await ended(pool, call("Echo", value=1)) == Returned(1)
        async with asyncio.timeout(WAIT):
            while len(children()) > 1:  # noqa: ASYNC110 - their end is no event of ours
                await asyncio.sleep(0.005)


async def test_progress_and_more_time_reach_the_runner_in_order(call: Callable[..., Call]) -> None:
    """SPEC RUN 28."""
    told: list[tuple[object, ...]] = []
    wanted = call("Progress")
    async with executors(on_message=lambda *message: told.append(message)) as pool:
        end = await ended(pool, wanted)
    task_id = str(wanted.task.id)
    assert told == [
        (task_id, 4, "progress", {"done": 1, "total": 2, "message": "half"}),
        (task_id, 4, "extend", {"seconds": 120.0}),
    ]
    assert isinstance(end, Returned)
    assert isinstance(end.value, datetime)
    start = datetime(2026, 1, 1, tzinfo=UTC)  # by the database's clock, far from this machine's
    assert timedelta(minutes=2) <= end.value - start < timedelta(minutes=3)


async def test_a_runner_that_trips_over_a_message_still_gets_the_value(call: Callable[..., Call]) -> None:
    def trip(*_: object) -> None:
        raise ValueError("no")

    async with executors(on_message=trip) as pool:
        assert isinstance(await ended(pool, call("Progress")), Returned)


async def test_a_thread_left_behind_by_a_task_does_not_speak_for_the_next(call: Callable[..., Call]) -> None:
    told: list[str] = []
    late, sleep = call("Late"), call("Sleep", seconds=0.1)
    async with executors(on_message=lambda task_id, *_: told.append(task_id)) as pool:
        await ended(pool, late)
        await ended(pool, sleep)
    assert str(sleep.task.id) not in told


async def test_a_child_killed_in_the_middle_of_a_message_spoils_nothing_else(call: Callable[..., Call]) -> None:
    """SPEC RUN 29."""
    for _ in range(3):
        counted = asyncio.Event()
        async with executors(slots=2, on_message=lambda *_, seen=counted: seen.set()) as pool:
            running = Started(pool, call("Flood"))
            await asyncio.wait_for(counted.wait(), WAIT)
            (child,) = children()
            child.kill()
            assert message(await running.end()) == "its process died (signal 9, SIGKILL)"
            assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_signals_meant_for_the_runner_do_not_stop_a_child_nor_reach_its_programs(
    call: Callable[..., Call],
) -> None:
    """SPEC SHU 44."""
    async with executors() as pool:
        assert await ended(pool, call("Signals")) == Returned("True")
        (child,) = children()
        assert os.getpgid(child.pid) == child.pid != os.getpgrp()


async def test_programs_that_a_task_starts_inherit_no_file_of_the_child(call: Callable[..., Call]) -> None:
    async with executors() as pool:
        assert await ended(pool, call("Inheritable")) == Returned([])


async def test_what_a_task_printed_is_out_before_its_child_is_killed(
    call: Callable[..., Call], capfd: pytest.CaptureFixture[str]
) -> None:
    async with executors() as pool:
        await ended(pool, call("Print"))
    assert capfd.readouterr().out == "printed ['-c']\n"


async def test_log_records_of_a_child_come_out_of_the_runners_handlers(
    call: Callable[..., Call], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with executors() as pool:
        await ended(pool, call("Log"))
    assert ("shop", logging.INFO, "sold apples") in caplog.record_tuples
    (failure,) = [record for record in caplog.records if record.name == "taskrunner.task"]
    assert failure.exc_text is not None
    assert "ZeroDivisionError" in failure.exc_text


@pytest.mark.parametrize("name", ["Once", "AsyncOnce"])
async def test_run_once_asks_the_runner_what_was_done_before(call: Callable[..., Call], name: str) -> None:
    """SPEC ONC 56."""
    kept: dict[str, object] = {"a": "before"}

    async def answer(_task_id: str, _claim_no: int, kind: str, data: Any) -> object:
        await asyncio.sleep(0)
        if kind == "effect":
            return {"done": data["key"] in kept, "value": kept.get(data["key"])}
        kept[data["key"]] = data["value"]
        return None

    async with executors(on_request=answer) as pool:
        end = await ended(pool, call(name))
    assert end == Returned(["before", kept["b"]])
    assert kept["b"] in (7, 8)


async def test_what_a_child_cannot_have_is_refused_in_words(call: Callable[..., Call], project: str) -> None:
    async with executors() as pool:
        assert "answers no 'effect' requests" in message(await ended(pool, call("Once")))
        assert "answers no 'session' requests" in message(await ended(pool, call("Session")))
        for module, qualname in (("__main__", "Echo"), (project, "make.<locals>.Echo")):
            end = await ended(pool, Call(call("Echo").task, "process", "Echo", module, qualname))
            assert "move it to the top level of a module" in message(end)


async def test_calls_in_one_child_do_not_see_each_others_context_variables(call: Callable[..., Call]) -> None:
    async with executors() as pool:
        assert [await ended(pool, call("Variable")) for _ in range(2)] == [Returned(1), Returned(1)]


async def test_a_system_without_processes_left_refuses_the_call(
    call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS F30."""
    async with executors() as pool:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            ends = [await each.end() for each in [Started(pool, call("Echo")) for _ in range(3)]]
            assert all(isinstance(end, Refused) and "cannot start a process" in end.reason for end in ends)
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


async def test_a_call_for_a_child_that_has_died_unseen_is_begun_once_and_run_by_another(
    call: Callable[..., Call],
) -> None:
    """SPEC RUN 29: the kernel's word is still on its way through the loop."""
    begun: list[int] = []
    async with executors() as pool:
        assert isinstance(await ended(pool, call("Pid")), Returned)
        (child,) = children()
        child.kill()
        with suppress(ChildProcessError):  # its waiter was quicker
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - the loop must not run meanwhile
        wanted = call("Echo", value=1)
        wanted.begin = lambda: begun.append(1) or {}
        assert await ended(pool, wanted) == Returned(1)
    assert begun == [1]


async def test_calls_that_wait_for_a_child_have_not_begun_and_can_be_taken_back(call: Callable[..., Call]) -> None:
    """SPEC RUN 28: the time of a task runs from its start."""
    begun: list[str] = []

    def noting(name: str) -> Call:
        wanted = call("Sleep", seconds=0.05)
        wanted.begin = lambda: begun.append(name) or {}
        return wanted

    async with executors() as pool:
        first, second, third = (Started(pool, noting(name)) for name in ("first", "second", "third"))
        assert begun == ["first"]
        assert await second.stopped() == Stopped()
        assert isinstance(await first.end(), Returned)
        assert isinstance(await third.end(), Returned)
        assert len(children()) == 1
    assert begun == ["first", "third"]


async def test_a_second_cancel_of_a_child_waits_for_nothing_and_the_end_is_told_once(
    call: Callable[..., Call], tmp_path: Path
) -> None:
    """SPEC SHU 44: the second signal."""
    async with executors() as pool:
        running = Started(pool, call("Forever", path=str(tmp_path / "pids")))
        child, _ = await written(tmp_path / "pids")
        running.cancel()
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert running.ends == [Stopped()]
        await gone(child)
        assert await ended(pool, call("Echo", value=1)) == Returned(1)
    assert running.ends == [Stopped()]


async def test_a_record_that_a_thread_logs_after_its_task_arrives_though_its_child_is_idle(
    call: Callable[..., Call], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with executors() as pool:
        await ended(pool, call("LateLog"))
        async with asyncio.timeout(WAIT):
            while "long after" not in caplog.text:  # noqa: ASYNC110 - a handler is no event
                await asyncio.sleep(0.005)
        assert await ended(pool, call("Echo", value=1)) == Returned(1)


RUNNER = """
    import asyncio, sys
    from uuid import uuid4
    sys.path.insert(0, sys.argv[1])
    import {project} as tasks
    from taskrunner.executors import Call, Executors

    async def main():
        pool = Executors(concurrency=1, process_slots=1, stray_limit=1)
        task = tasks.{name}(path=sys.argv[2])
        info = dict.fromkeys(("tries", "crashes", "max_retries", "priority", "claim_no"), 1)
        info |= dict(id=task.id, queue="q", tenant="t", errors=())
        call = Call(task, "process", "", "{project}", "{name}", task.model_dump_json(), info)
        pool.start_call(call, print)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["Forever", "HoldGil"])
async def test_a_child_dies_with_its_runner(project: str, tmp_path: Path, name: str) -> None:
    """SPEC CRA 33: nothing runs on unseen after a SIGKILL of the runner."""
    script = textwrap.dedent(RUNNER).format(project=project, name=name)
    pids = tmp_path / "pids"
    runner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(pids)])  # noqa: ASYNC220
    try:
        child, grandchild = await written(pids)
        runner.send_signal(signal.SIGKILL)
        await gone(child)
        if name == "Forever":
            grandchild.kill()
    finally:
        runner.kill()
        runner.wait()
