"""A runner's own metrics, on a port of its own: what this process claims, runs and writes.

Counted by batch, from the engine's events, and only where the setting `metrics_port` asks for it. Labels are bounded as
those of the API's `/metrics`, which tells of the whole fleet.
"""

from __future__ import annotations

import logging
import secrets
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from errno import EADDRINUSE
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from taskrunner import events
from taskrunner.buckets import BOUNDS
from taskrunner.settings import Settings

log = logging.getLogger("taskrunner.runner")

MOST = 100
"""Pairs of queue and type that have labels of their own; the rest is `other`."""

CYCLES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds, in seconds, of the buckets that round trips to the database are counted in."""

AGAIN = 5.0
"""Seconds after which a port that is taken is tried again."""

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Busy(Protocol):
    """The runner, as far as it is asked how it is."""

    def gauges(self) -> dict[str, float]:
        """Return how it is now: slots, running, held, waiting to be written, and seconds left of its lease."""


class Meter:
    """Counts what the events tell; read by the thread of whoever scrapes, written by the runner's loop."""

    def __init__(self, runner: Busy) -> None:
        self._runner = runner
        self._claims = self._losses = 0
        self._ended: Counter[tuple[str, str, str]] = Counter()
        self._runs: dict[tuple[str, str], _Histogram] = {}
        self._cycles = _Histogram(CYCLES)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count while inside."""
        with ExitStack() as heard:
            heard.enter_context(events.on(events.Claimed, self._claimed))
            heard.enter_context(events.on(events.Stored, self._stored))
            heard.enter_context(events.on(events.Cycled, lambda event: self._cycles.add(event.seconds)))
            heard.enter_context(events.on(events.LeaseLost, self._lost))
            yield

    def _claimed(self, event: events.Claimed) -> None:
        self._claims += len(event.task_ids)

    def _lost(self, _event: events.LeaseLost) -> None:
        self._losses += 1

    def _stored(self, event: events.Stored) -> None:
        for one in event.ends:
            place = one.queue, one.type
            histogram = self._runs.get(place)
            if histogram is None:
                place = place if len(self._runs) < MOST else ("other", "other")
                histogram = self._runs.setdefault(place, _Histogram(BOUNDS))
            if one.run_seconds is not None:
                histogram.add(one.run_seconds)
            self._ended[(*place, one.outcome)] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        for name, value in self._runner.gauges().items():
            yield GaugeMetricFamily(f"taskrunner_runner_{name}", _GAUGES[name], value)
        yield CounterMetricFamily("taskrunner_runner_claims", "Tasks that this runner has claimed.", self._claims)
        yield CounterMetricFamily(
            "taskrunner_runner_leases_lost", "Times that its lease ended before it was extended.", self._losses
        )
        ended = CounterMetricFamily(
            "taskrunner_runner_ended", "Claims whose end is stored, by outcome.", labels=["queue", "type", "outcome"]
        )
        for labels, count in list(self._ended.items()):
            ended.add_metric(list(labels), count)
        yield ended
        runs = HistogramMetricFamily(
            "taskrunner_runner_run_seconds", "Seconds that a try ran.", labels=["queue", "type"]
        )
        for place, histogram in list(self._runs.items()):
            runs.add_metric(list(place), histogram.cumulative(), histogram.total)
        yield runs
        cycles = HistogramMetricFamily(
            "taskrunner_runner_cycle_seconds", "Seconds of a round trip that ends and claims."
        )
        cycles.add_metric([], self._cycles.cumulative(), self._cycles.total)
        yield cycles


_GAUGES = {
    "slots": "Tasks that it runs at once.",
    "running": "Tasks that run.",
    "held": "Claims whose end is not known to be stored.",
    "unwritten": "Ends that wait to be written.",
    "stray_threads": "Threads of timed-out tasks that still run.",
    "lease_seconds": "Seconds until its lease ends, by its own clock.",
}


class _Histogram:
    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        found, total = [], 0
        for bound, count in zip([*map(floatToGoString, self._bounds), "+Inf"], list(self._counts), strict=True):
            total += count
            found.append((bound, float(total)))
        return found


# ── the port ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def metered(runner: Busy, settings: Settings, place: int = 0) -> Iterator[str]:
    """Serve the runner's metrics while inside, from a thread; yields the address, or nothing while that is taken.

    The first runner of a supervisor has the port of the settings, the next ones those after it. A port that cannot be
    had stops no task: the log says so, and it is tried again.
    """
    meter, registry = Meter(runner), CollectorRegistry()
    registry.register(meter)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    given = settings.metrics_port or 0
    port = _Port(settings.metrics_host, given + place if given else 0, _guarded(make_wsgi_app(registry), settings))
    with meter.listening():
        thread = threading.Thread(target=port.serve, name="taskrunner metrics", daemon=True)
        thread.start()
        try:
            yield port.address
        finally:
            port.closing.set()
            thread.join()


class _Port:
    """The address that metrics are told at, once it can be had."""

    def __init__(self, host: str, port: int, app: _App) -> None:
        self._host, self._port, self._app = host, port, app
        self.closing = threading.Event()
        self.address = ""
        self._server = self._open(first=True)

    def serve(self) -> None:
        """Answer until it is closing; an address that is taken is tried again."""
        while not self.closing.is_set():
            if self._server is not None:
                self._server.handle_request()
            elif not self.closing.wait(AGAIN):
                self._server = self._open()
        if self._server is not None:
            self._server.server_close()

    def _open(self, *, first: bool = False) -> _Server | None:
        try:
            server = make_server(self._host, self._port, self._app, _Server, _Quiet)
        except (OSError, OverflowError) as error:
            if first:
                taken = getattr(error, "errno", None) == EADDRINUSE
                log.error(
                    "this runner works without metrics: %s port %d cannot be had: %s; "
                    "%s TASKRUNNER_METRICS_PORT%s and restart",
                    self._host, self._port, getattr(error, "strerror", None) or error,
                    f"free it, and it is taken within {AGAIN:.0f} s, or choose another" if taken else "change",
                    "" if taken else " or TASKRUNNER_METRICS_HOST",
                )  # fmt: skip
            return None
        host, given = server.server_address[:2]
        self.address = f"http://{host!s}:{given}/metrics"
        log.info("this runner's metrics are at %s", self.address)
        return server


def _guarded(app: Any, settings: Settings) -> _App:
    """Ask for a token where there are any: the scope `read` will do."""
    tokens = [token.secret for token in settings.api_tokens] + ([settings.api_token] if settings.api_token else [])
    known = [f"Bearer {token.get_secret_value()}".encode() for token in tokens]

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1", "replace")
        right = [secrets.compare_digest(given, one) for one in known]  # all of them: the time tells nothing
        if known and not any(right):
            start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="taskrunner"')])
            return [b"send the header Authorization: Bearer TOKEN\n"]
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    timeout = 0.5  # seconds that `handle_request` waits for one

    def server_bind(self) -> None:
        """Bind without looking up who this is: http.server asks the DNS, and starting would wait for its answer."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
