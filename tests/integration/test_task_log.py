"""What tasks log: kept in batches, bounded, shown by command line and API, lost only with the last second."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import trace
from uuid_utils.compat import uuid7

from taskrunner import Task, logs, reads, register_task
from taskrunner.store import log as store
from taskrunner.store.log import Line
from tests.engine import Engine, holding

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def lines_of(engine: Engine, id_: UUID) -> list[str]:
    return [f"{line.level} {line.message}" for line in engine.do(reads.log_lines(id_, limit=1000)).lines]


# ── the read ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_are_read_a_page_at_a_time_in_the_order_in_which_they_were_written(engine: Engine) -> None:
    """SPEC OPS 49."""
    id_, other = uuid7(), uuid7()
    engine.do(store.keep([Line(owner, "default", 1, 9.0, "info", f"{n}") for n in range(7) for owner in (id_, other)]))
    seen: list[Any] = []
    page = engine.do(reads.log_lines(id_, limit=3))
    while page.next is not None:
        seen += page.lines
        page = engine.do(reads.log_lines(id_, after=page.next, limit=3))
    assert [line.message for line in [*seen, *page.lines]] == list("0123456")
    assert [line.message for line in engine.do(reads.last_lines(id_, 2))] == ["5", "6"]
    assert engine.do(reads.log_lines(uuid7())).lines == []
    exact = engine.do(reads.log_lines(id_, limit=7))
    assert len(exact.lines) == 7
    assert exact.next is None


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own_process() -> io.StringIO:
    """Logging as a process of ours has it."""
    stream = io.StringIO()
    logs.configure("warning", "json", stream=stream, keep="info")
    return stream


async def test_all_that_a_run_logs_is_kept_whatever_is_written(engine: Engine, own_process: io.StringIO) -> None:
    @register_task("OnLoop")
    class OnLoop(Task):
        async def run(self) -> None:
            self.context.logger.info("mine %d", 1)
            logging.getLogger("user.module").info("anybody's")
            logging.getLogger("user.module").debug("too little")
            await asyncio.create_task(self.beside())
            await asyncio.to_thread(logging.getLogger("user.module").warning, "from a thread of its own")

        async def beside(self) -> None:
            self.context.logger.error("from a subtask")

    @register_task("InThread", max_retries=0)
    class InThread(Task):
        def run(self) -> None:
            try:
                raise ValueError("what went wrong")
            except ValueError:
                self.context.logger.exception("it failed")

    with engine.door() as door:
        first, second = door.add(OnLoop()).id, door.add(InThread()).id
        async with engine.running() as running:
            await running.ended(first, second)
    assert lines_of(engine, first) == [
        "info mine 1",
        "info anybody's",
        "error from a subtask",
        "warning from a thread of its own",
    ]
    (line,) = lines_of(engine, second)
    assert line.startswith("error it failed\nTraceback (most recent call last):\n")
    assert line.endswith("ValueError: what went wrong")
    written = [json.loads(text) for text in own_process.getvalue().splitlines()]
    written = [entry for entry in written if entry["task_id"] == str(first)]
    assert [entry["message"] for entry in written] == ["from a subtask", "from a thread of its own"]
    wanted = {"task_id": str(first), "task_type": "OnLoop", "task_try": 1, "queue": "default", "tenant": "default"}
    assert wanted.items() <= written[0].items()
    assert wanted.items() <= written[1].items()
    assert UUID(written[1]["runner"])


async def test_a_line_within_a_trace_has_its_id(engine: Engine, own_process: io.StringIO) -> None:
    """SPEC OPS 49."""
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 7, is_remote=False))

    @register_task("Traced")
    class Traced(Task):
        def run(self) -> None:
            with trace.use_span(span):
                logging.getLogger("user.module").warning("within")
            logging.getLogger("user.module").warning("without")

    with engine.door() as door:
        id_ = door.add(Traced()).id
        async with engine.running() as running:
            await running.ended(id_)
    written = [json.loads(text) for text in own_process.getvalue().splitlines()]
    assert [entry.get("trace_id") for entry in written] == [f"{0xABC:032x}", None]


async def test_in_a_program_of_somebody_elses_the_tasks_own_logger_is_kept_and_the_root_logger_left_alone(
    engine: Engine,
) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level

    @register_task("Embedded")
    class Embedded(Task):
        async def run(self) -> None:
            assert self.context.logger.isEnabledFor(logging.INFO)
            assert not self.context.logger.isEnabledFor(logging.DEBUG)
            self.context.logger.info("kept")
            logging.getLogger("user.module").info("the program's affair")

    with engine.door() as door:
        id_ = door.add(Embedded()).id
        async with engine.running() as running:
            await running.ended(id_)
    assert lines_of(engine, id_) == ["info kept"]
    assert (list(root.handlers), root.level) == before


async def test_of_many_lines_the_first_and_the_last_are_kept_and_the_rest_is_counted(engine: Engine) -> None:
    @register_task("Talkative")
    class Talkative(Task):
        def run(self) -> None:
            for number in range(1000):
                self.context.logger.info("%d", number)

    with engine.door() as door:
        id_ = door.add(Talkative()).id
        async with engine.running(task_log_lines=8) as running:
            await running.ended(id_)
    assert lines_of(engine, id_) == [
        *(f"info {number}" for number in range(6)),
        "warning … 992 more lines dropped before the last ones",
        "info 998",
        "info 999",
    ]


async def test_any_text_is_kept_and_a_long_one_cut_in_the_middle(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "taskrunner.task")  # only kept, not written

    class Unspeakable:
        def __str__(self) -> str:
            raise SystemExit(3)

    @register_task("Odd")
    class Odd(Task):
        async def run(self) -> None:
            self.context.logger.info("nul \0, half a character \ud800, \x1b[31mred")
            self.context.logger.info("begin %s end", "x" * 10_000)
            self.context.logger.info("%d", "no number")
            with pytest.raises(SystemExit):
                self.context.logger.info("%s", Unspeakable())

    with engine.door() as door:
        id_ = door.add(Odd()).id
        async with engine.running() as running:
            await running.ended(id_)
    first, second, third = lines_of(engine, id_)
    assert first == "info nul \ufffd, half a character \ufffd, \x1b[31mred"
    assert len(second.removeprefix("info ")) == 4000
    assert second.startswith("info begin x")
    assert second.endswith("x end")
    assert third == "info %d ('no number',)"


async def test_nothing_is_kept_where_the_setting_says_off(engine: Engine) -> None:
    @register_task("Silent")
    class Silent(Task):
        async def run(self) -> None:
            self.context.logger.error("not kept")

    with engine.door() as door:
        id_ = door.add(Silent()).id
        async with engine.running(task_log="off") as running:
            await running.ended(id_)
    assert lines_of(engine, id_) == []


async def test_each_run_of_a_task_has_lines_of_its_own(engine: Engine) -> None:
    @register_task("Twice")
    class Twice(Task):
        def next_try(self) -> float | None:
            return 0 if self.tries == 0 else None

        async def run(self) -> None:
            self.context.logger.info("try %d", self.tries)
            if not self.tries:
                raise ValueError

    with engine.door() as door:
        id_ = door.add(Twice(), tenant="acme").id
        async with engine.running() as running:
            await running.ended(id_)
    lines = engine.do(reads.log_lines(id_)).lines
    assert [line.message for line in lines] == ["try 0", "try 1"]
    assert lines[0].claim_no < lines[1].claim_no
    assert lines[0].logged_at <= lines[1].logged_at
    assert engine.rows("SELECT DISTINCT l.tenant FROM taskrunner.task_log l") == [("acme",)]


async def test_somebodys_lock_on_the_lines_holds_up_no_task(engine: Engine) -> None:
    """SPEC CLM 23: neither what becomes due later nor the runner's leaving."""

    @register_task("Talks")
    class Talks(Task):
        async def run(self) -> None:
            self.context.logger.warning("here")

    with engine.door() as door, holding(engine.url, "LOCK TABLE taskrunner.task_log IN ACCESS EXCLUSIVE MODE"):
        async with engine.running(listen=False) as running:
            await running.ended(door.add(Talks()).id)
            await running.ended(door.add(Talks(), delay=2).id)
            id_ = running.runner.id
    assert engine.value("SELECT count(*) FROM taskrunner.runner WHERE id = %s", id_) == 0
