"""Traces: what adds a task and what runs it are two spans, one linked to the other, wherever the task runs."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from taskrunner import Snooze, TaskStatus, register_task, traces
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.queue import TaskQueue
from taskrunner.task import Task
from tests.engine import Engine

pytestmark = pytest.mark.anyio

Spans = Callable[[str], list[ReadableSpan]]


class Elsewhere(Task):
    """At the top of its module: a child process imports it."""

    def run(self) -> str:
        from opentelemetry import trace  # an SDK would be set up when the project is imported

        return f"{trace.get_current_span().get_span_context().trace_id:032x}"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Record, and return the spans whose names begin so, in the order of their starts."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    def named(beginning: str) -> list[ReadableSpan]:
        found = [span for span in kept.get_finished_spans() if span.name.startswith(beginning)]
        return sorted(found, key=lambda span: span.start_time or 0)

    yield named
    provider.shutdown()


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_a_task_is_sent_and_processed_in_two_traces_that_are_linked(engine: Engine, spans: Spans) -> None:
    @register_task("Seen", queue="mail")
    class Seen(Task):
        async def run(self) -> None:
            with trace.get_tracer("mine").start_as_current_span("mine"):
                await asyncio.sleep(0)

    with engine.door() as door:
        async with engine.running() as running:
            with trace.get_tracer("web").start_as_current_span("request"):
                id_ = door.add(Seen()).id
            await running.ended(id_)
    (request,), (send,), (process,), (mine,) = spans("request"), spans("send"), spans("process"), spans("mine")
    assert (send.name, send.kind, process.name, process.kind) == (
        "send mail", SpanKind.PRODUCER, "process mail", SpanKind.CONSUMER,
    )  # fmt: skip
    assert send.parent is not None
    assert send.parent.span_id == span_id(request)
    assert process.parent is None
    assert linked(process) == [span_id(send)]
    assert mine.parent is not None
    assert mine.parent.span_id == span_id(process), "what the task does is in its trace"
    for span, operation in ((send, "send"), (process, "process")):
        told = dict(span.attributes or {})
        assert told["messaging.system"] == "taskrunner"
        assert told["messaging.operation.type"] == operation
        assert told["messaging.destination.name"] == "mail"
        assert told["messaging.message.id"] == str(id_)
        assert told["taskrunner.task.type"] == "Seen"
    assert dict(process.attributes or {})["taskrunner.outcome"] == "succeeded"
    assert set(engine.view(id_).meta) == {"traceparent"}


async def test_in_a_thread_and_in_a_child_process_the_trace_goes_on(engine: Engine, spans: Spans) -> None:
    @register_task("Threaded")
    class Threaded(Task):
        def run(self) -> str | None:
            return traces.current_trace_id()

    elsewhere = register_task("Elsewhere", executor="process")(Elsewhere)
    with engine.door() as door:
        async with engine.running() as running:
            ended = await running.ended(door.add(Threaded()).id, door.add(elsewhere()).id)
    ids = {dict(one.attributes or {})["messaging.message.id"]: one.context for one in spans("process")}
    for view in ended:
        context = ids[str(view.id)]
        assert context is not None
        assert view.result == f"{context.trace_id:032x}"


async def test_each_try_has_a_span_of_its_own_and_the_last_says_what_it_failed_of(engine: Engine, spans: Spans) -> None:
    @register_task("Fails", max_retries=1)
    class Fails(Task):
        key: SecretStr

        async def run(self) -> None:
            raise ValueError(f"refused for {self.key.get_secret_value()}\nsecond line")

        def next_try(self) -> float | None:
            return 0 if self.tries < 1 else None

    with engine.door() as door:
        async with engine.running() as running:
            await running.ended(door.add(Fails(key=SecretStr("hunter2-hunter2"))).id)
    (send,), tries = spans("send"), spans("process")
    assert [dict(one.attributes or {})["taskrunner.outcome"] for one in tries] == ["retried", "dead"]
    for one in tries:
        assert linked(one) == [span_id(send)]
        assert one.status.status_code is StatusCode.ERROR
        assert dict(one.attributes or {})["error.type"] == "ValueError"
        (event,) = one.events
        assert "second line" in str((event.attributes or {})["exception.message"])
        assert "hunter2" not in one.to_json()
    assert "hunter2" not in send.to_json()


async def test_what_is_no_failure_is_no_error(engine: Engine, spans: Spans) -> None:
    @register_task("Odd")
    class Odd(Task):
        wanted: str

        async def run(self) -> Any:
            if self.wanted == "snooze" and self.priority == 100:
                return Snooze(3600)
            return TaskStatus.IGNORED

    with engine.door() as door:
        async with engine.running() as running:
            snoozed = door.add(Odd(wanted="snooze")).id
            await running.ended(door.add(Odd(wanted="ignore"), priority=1).id)
            await running.started(snoozed)
    assert sorted(str(dict(one.attributes or {})["taskrunner.outcome"]) for one in spans("process")) == [
        "ignored", "snoozed",
    ]  # fmt: skip
    assert all(one.status.status_code is StatusCode.UNSET for one in spans("process"))


@pytest.mark.parametrize("door", ["sync", "async"])
async def test_a_batch_is_sent_in_one_span_and_keeps_what_meta_there_is(
    engine: Engine, spans: Spans, door: str
) -> None:
    @register_task("Batched")
    class Batched(Task):
        secret: SecretStr | None = None

        async def run(self) -> None: ...

    tasks = [Batched(), Batched(secret=SecretStr("hunter2")), Batched()]
    if door == "sync":
        with TaskQueue.connect(engine.url, registry=engine.registry) as queue:
            ids = [one.id for one in queue.add_many(tasks)]
            single = queue.add(Batched(), meta={"tag": "x", "traceparent": "mine"}).id
    else:
        async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as other:
            ids = [one.id for one in await other.add_many(tasks)]
            single = (await other.add(Batched(), meta={"tag": "x", "traceparent": "mine"})).id
    batch, one = spans("send")
    assert dict(batch.attributes or {})["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in (batch.attributes or {})
    for id_ in ids:
        assert f"{span_id(batch):016x}" in engine.view(id_).meta["traceparent"]
    assert engine.view(single).meta == {"tag": "x", "traceparent": "mine"}, "what the caller says himself counts"
    assert "$secrets" in engine.value("SELECT meta FROM taskrunner.task WHERE id = %s", ids[1])
    assert span_id(one) != span_id(batch)


async def test_an_enqueue_that_fails_ends_its_span_as_an_error(engine: Engine, spans: Spans) -> None:
    @register_task("Lost")
    class Lost(Task):
        async def run(self) -> None: ...

    with TaskQueue.connect(engine.url, registry=engine.registry) as queue:
        engine.conn.execute("ALTER TABLE taskrunner.task ADD CHECK (type <> 'Lost')")
        with pytest.raises(Exception, match="check"):
            queue.add(Lost())
    (send,) = spans("send")
    assert send.status.status_code is StatusCode.ERROR


async def test_switched_off_nothing_is_sent_and_nothing_is_kept(
    engine: Engine, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKRUNNER_TRACES", "off")

    @register_task("Quiet")
    class Quiet(Task):
        async def run(self) -> None: ...

    try:
        with TaskQueue.connect(engine.url, registry=engine.registry) as queue:
            id_ = queue.add(Quiet()).id
    finally:
        traces.use(True)
    assert spans("") == []
    assert engine.view(id_).meta == {}


@pytest.mark.parametrize("meta", [{"traceparent": "nonsense"}, {"traceparent": 5}, {"x": '"traceparent"'}])
async def test_a_context_that_is_none_is_passed_by(engine: Engine, spans: Spans, meta: dict[str, Any]) -> None:
    @register_task("Forged")
    class Forged(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running() as running:
            await running.ended(door.add(Forged(), meta=meta).id)
    (process,) = spans("process")
    assert len(process.links) <= 1


async def test_log_lines_of_a_run_carry_its_trace(engine: Engine, spans: Spans) -> None:
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    @register_task("Logs")
    class Logs(Task):
        async def run(self) -> None:
            self.context.logger.warning("here")

    handler = Keep()
    logging.getLogger("taskrunner.task").addHandler(handler)
    try:
        with engine.door() as door:
            async with engine.running() as running:
                await running.ended(door.add(Logs()).id)
    finally:
        logging.getLogger("taskrunner.task").removeHandler(handler)
    (process,) = spans("process")
    (line,) = [record for record in seen if record.getMessage() == "here"]
    assert process.context is not None
    assert line.__dict__["trace_id"] == f"{process.context.trace_id:032x}"


def test_without_opentelemetry_in_the_program_it_is_not_loaded() -> None:
    code = (
        "import sys, taskrunner.traces as t, taskrunner.attempt, taskrunner.queue\n"
        "assert t.current_trace_id() is None\n"
        "with t.sending(None): pass\n"
        "assert t.processing(None) is None\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ran.stdout.lower()) is False
