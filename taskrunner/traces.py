"""Traces by OpenTelemetry's API: what adds a task makes a span `send …`, each try one `process …` that links to it.

Nothing is imported here, and nothing is done, unless the program has imported `opentelemetry.trace` itself: without an
SDK that records there is nobody to tell. The sender's context travels in the task's `meta`, as W3C has it
(https://www.w3.org/TR/trace-context/); names and attributes are those of OpenTelemetry's messaging conventions
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/, status: development).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from opentelemetry.trace import Span

PARENT, STATE = "traceparent", "tracestate"
"""The keys of `meta` that carry the sender's context."""

_NOTHING = nullcontext()
_on = True


class Sent(Protocol):
    """Tasks on their way into the database."""

    def told(self) -> tuple[str, str, int, UUID | None]:
        """Return the queue, the type (empty: of several), how many there are, and the id of a single one."""

    def carry(self, context: Mapping[str, str]) -> None:
        """Put the sender's context into the tasks' `meta`."""


def use(on: bool) -> None:
    """Switch traces on or off for this process."""
    global _on
    _on = on


def current_trace_id() -> str | None:
    """Return the id of the trace that the caller's code is in, as 32 hexadecimal digits."""
    trace = _api()
    return None if trace is None else trace_id_of(trace.get_current_span())


def trace_id_of(span: Span | None) -> str | None:
    """Return the id of a span's trace, as 32 hexadecimal digits."""
    if span is None:
        return None
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def sending(sent: Sent) -> AbstractContextManager[None]:
    """Be in a span that says what is sent, while it is stored; an error ends it as one."""
    return _NOTHING if _api() is None else _sending(sent)


@contextmanager
def _sending(sent: Sent) -> Iterator[None]:
    trace = _api()
    queue, type_, count, id_ = sent.told()
    attributes: dict[str, Any] = _attributes("send", "send", queue, type_)
    if id_ is not None:
        attributes["messaging.message.id"] = str(id_)
    else:
        attributes["messaging.batch.message_count"] = count
    kind = trace.SpanKind.PRODUCER
    with _tracer(trace).start_as_current_span(f"send {queue}", kind=kind, attributes=attributes) as span:
        if carrier := _carrier(span):
            sent.carry(carrier)
        yield


def processing(claim: Any) -> Span | None:
    """Begin a try's span; None where nobody records. `processed` ends it."""
    trace = _api()
    if trace is None:
        return None
    links = []
    if claim.meta is not None and f'"{PARENT}"' in claim.meta:
        sender = trace.get_current_span(_extracted(json.loads(claim.meta))).get_span_context()
        links = [trace.Link(sender)] if sender.is_valid else []
    attributes = _attributes("process", "process", claim.queue, claim.type)
    attributes.update(
        {"messaging.message.id": str(claim.id), "taskrunner.task.tries": claim.tries, "taskrunner.tenant": claim.tenant}
    )
    span: Span = _tracer(trace).start_span(
        f"process {claim.queue}", context=_root(), kind=trace.SpanKind.CONSUMER, links=links, attributes=attributes
    )
    return span if span.is_recording() else None


def processed(span: Span, outcome: str, error: Mapping[str, Any] | None = None) -> None:
    """End a try's span: `outcome` is what became of it, `error` what it failed of, without the task's secrets."""
    trace = _api()
    span.set_attribute("taskrunner.outcome", outcome)
    if error is not None and trace is not None:
        message = str(error.get("message", ""))
        kind = message.partition(":")[0] or "error"
        span.set_attribute("error.type", kind)
        span.set_status(trace.StatusCode.ERROR, message.partition("\n")[0])
        told = {"exception.type": kind, "exception.message": message}
        span.add_event("exception", {**told, "exception.stacktrace": str(error.get("traceback", ""))})
    span.end()


def enter(span: Span | None) -> None:
    """Make the span the current one of the context that the caller runs in, for good."""
    trace = _api()
    if span is not None and trace is not None:
        _attach(trace.set_span_in_context(span))


def handed_over(span: Span | None) -> dict[str, str]:
    """Return what a child process needs to be in the span's trace."""
    return {} if span is None else _carrier(span)


def enter_remote(carrier: object) -> None:
    """Be in the span of another process, if `handed_over` gave one: what is done here belongs to its trace."""
    if isinstance(carrier, Mapping) and carrier and _api() is not None:
        _attach(_extracted(carrier))


def _api() -> Any:
    """Return `opentelemetry.trace` if the program uses it."""
    return sys.modules.get("opentelemetry.trace") if _on else None


def _tracer(trace: Any) -> Any:
    return trace.get_tracer("taskrunner")


def _attributes(operation: str, kind: str, queue: str, type_: str) -> dict[str, Any]:
    named = {
        "messaging.system": "taskrunner",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
    }
    return {**named, "taskrunner.task.type": type_} if type_ else named


def _carrier(span: Span) -> dict[str, str]:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier


def _extracted(carrier: Mapping[str, Any]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    texts = {name: carrier[name] for name in (PARENT, STATE) if isinstance(carrier.get(name), str)}
    return TraceContextTextMapPropagator().extract(texts, context=_root())


def _root() -> Any:
    from opentelemetry.context import Context

    return Context()


def _attach(context: Any) -> None:
    from opentelemetry.context import attach

    attach(context)
