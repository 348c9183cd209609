"""`/metrics`: the whole fleet as Prometheus reads it, from one look at the database that all scrapers share.

Labels are bounded: types and queues by name, up to `MOST` of each, the rest as `other`; never a tenant or an id.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from taskrunner import reads
from taskrunner.api.door import Door
from taskrunner.api.tally import Tally, Timing
from taskrunner.db import Steps
from taskrunner.errors import TaskrunnerError
from taskrunner.reads.metrics import EndedInMinute, Server, ended_lately, server
from taskrunner.reads.views import Runner, Schedule, Status

MOST = 100
"""Types, and queues, that have a label of their own; those that are met first."""

FRESH = 5.0
"""Seconds for which one look serves all scrapers."""

REST = 20
"""How many times as long as it took a look serves at least: among a million live tasks it takes nearly a second."""

REACH = timedelta(minutes=10)
"""How far back, before the last look, a minute's row may still grow."""

GAP = timedelta(minutes=60)
"""After which a look is a first one again: old minutes are made coarser (docs/decisions/027), and would count twice."""

_ENDS = ("succeeded", "ignored", "cancelled", "dead", "retried")
_LIVE = ("pending", "due", "running", "blocked", "retrying")


class Look(NamedTuple):
    """All that one look finds."""

    status: Status
    server: Server
    ended: list[EndedInMinute]
    now: datetime


def _look(window: timedelta) -> Steps[Look]:
    status = yield from reads.status()
    return Look(status, (yield server()), (yield ended_lately(window)), (yield reads.now()))


class Snapshot:
    """Metrics as `prometheus_client` writes them: it asks for no more than `collect`."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


class Fleet:
    """What the API tells of the fleet; counters begin with it at zero."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._tally = Tally()
        self._types, self._queues = _Names(), _Names()
        self._looked_at: float | None = None
        self._turn = asyncio.Lock()
        self._snapshot = Snapshot([])
        self._stale_at = float("-inf")

    async def snapshot(self) -> Snapshot:
        """Return the metrics, some seconds old at most; with the database away, no gauge but `taskrunner_up` 0."""
        async with self._turn:
            began = time.monotonic()
            if began >= self._stale_at:
                self._snapshot = await self._take()
                now = time.monotonic()
                self._stale_at = now + max(FRESH, REST * (now - began))
            return self._snapshot

    async def _take(self) -> Snapshot:
        began = time.monotonic()
        gap = timedelta(0) if self._looked_at is None else timedelta(seconds=began - self._looked_at)
        if gap > GAP:
            self._tally.skip()
            gap = timedelta(0)
        try:
            look = await self._door.run(lambda: _look(gap + REACH))
        except (TaskrunnerError, psycopg.Error, OSError):
            return Snapshot([_gauge("up", "Whether the database answers.", 0), *self._counters()])
        self._looked_at = began
        self._tally.look(look.ended)
        took = time.monotonic() - began
        families = [
            _gauge("up", "Whether the database answers.", 1),
            _gauge("look_seconds", "What the look at the database took.", took),
            *self._tasks(look.status),
            *self._lines(look.status),
            *_processes(look.status.runners),
            *_schedules(look.status.schedules, look.now),
            *_server(look.server),
            *self._counters(),
        ]
        return Snapshot(families)

    def _tasks(self, status: Status) -> Iterable[Metric]:
        live = GaugeMetricFamily(
            "taskrunner_tasks", "Live tasks; pending includes due and retrying.", labels=["type", "state"]
        )
        dead = GaugeMetricFamily(
            "taskrunner_dead_letters", "Tasks out of retries that nobody has dealt with.", labels=["type"]
        )
        oldest = GaugeMetricFamily(
            "taskrunner_type_oldest_due_seconds", "How long the oldest due task has waited.", labels=["type"]
        )
        unknown = GaugeMetricFamily(
            "taskrunner_unregistered_tasks", "Live tasks of types that no live process knows.", labels=["type"]
        )
        counts: Counter[tuple[str, str]] = Counter()
        letters: Counter[str] = Counter()
        ages: dict[str, float] = {}
        lost: Counter[str] = Counter()
        for one in status.types:
            name = self._types(one.type)
            counts.update({(name, state): getattr(one, state) for state in _LIVE})
            letters[name] += one.dead
            ages[name] = max(ages.get(name, 0.0), one.oldest_due_seconds or 0.0)
            if one.unregistered:
                lost[name] += one.pending + one.running + one.blocked
        for (name, state), value in counts.items():
            live.add_metric([name, state], value)
        by_type: tuple[tuple[GaugeMetricFamily, Mapping[str, float]], ...] = (
            (dead, letters), (oldest, ages), (unknown, lost),
        )  # fmt: skip
        for family, values in by_type:
            for name, figure in values.items():
                family.add_metric([name], figure)
        return live, dead, oldest, unknown

    def _lines(self, status: Status) -> Iterable[Metric]:
        named = {
            "pending": "Tasks that wait in the queue, due or not.",
            "due": "Tasks of the queue that could start now.",
            "running": "Tasks of the queue that run.",
            "runners": "Live runners that take from the queue.",
            "paused": "Whether the queue is paused.",
            "oldest_due_seconds": "How long the oldest due task of the queue has waited.",
        }
        for field, text in named.items():
            family = GaugeMetricFamily(f"taskrunner_queue_{field}", text, labels=["queue"])
            values: dict[str, float] = {}
            for one in status.queues:
                name, value = self._queues(one.name), float(getattr(one, field) or 0)
                longest = field in ("paused", "oldest_due_seconds")
                values[name] = max(values.get(name, 0.0), value) if longest else values.get(name, 0.0) + value
            for name, value in values.items():
                family.add_metric([name], value)
            yield family

    def _counters(self) -> Iterable[Metric]:
        ended = CounterMetricFamily(
            "taskrunner_tasks_ended",
            "Tries that ended, by outcome: succeeded, ignored, cancelled, dead, or retried.",
            labels=["queue", "type", "outcome"],
        )
        # From zero on: what begins at 1 is no increase to Prometheus, and the first dead letter would alert nobody.
        places = {(queue, type_) for queue, type_, _ in self._tally.ended}
        places |= {(kind.queue, kind.name) for kind in self._door.types}
        sums: Counter[tuple[str, str, str]] = Counter(
            {(self._queues(queue), self._types(type_), end): 0 for queue, type_ in sorted(places) for end in _ENDS}
        )
        for (queue, type_, outcome), count in self._tally.ended.items():
            sums[self._queues(queue), self._types(type_), outcome] += count
        for labels, count in sums.items():
            ended.add_metric(list(labels), count)
        return (
            ended,
            self._histogram("run", "Seconds that a try ran.", self._tally.runs),
            self._histogram("wait", "Seconds from a task's maturity to its start.", self._tally.waits),
        )

    def _histogram(self, name: str, text: str, timings: dict[tuple[str, str], Timing]) -> Metric:
        family = HistogramMetricFamily(f"taskrunner_task_{name}_seconds", text, labels=["queue", "type"])
        sums: dict[tuple[str, str], Timing] = {}
        for (queue, type_), timing in timings.items():
            sums.setdefault((self._queues(queue), self._types(type_)), Timing()).add(timing.buckets, timing.seconds)
        for labels, timing in sums.items():
            family.add_metric(list(labels), timing.cumulative(), timing.seconds)
        return family


class _Names:
    """Label values of one kind; whoever was named once stays named."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known and len(self._known) >= MOST:
            return "other"
        self._known.add(name)
        return name


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"taskrunner_{name}", text, value)


def _processes(runners: Sequence[Runner]) -> Iterable[Metric]:
    alive = GaugeMetricFamily("taskrunner_processes", "Processes with a lease, by kind.", labels=["kind", "state"])
    counts: Counter[tuple[str, str]] = Counter(
        {(kind, state): 0 for kind in ("runner", "scheduler") for state in _LIFE}
    )
    counts.update((one.kind, _LIFE[not one.alive]) for one in runners)
    for labels, count in counts.items():
        alive.add_metric(list(labels), count)
    live = [one for one in runners if one.alive and one.kind == "runner"]
    return (
        alive,
        _gauge("runner_slots", "Tasks that the live runners can run at once.", sum(one.slots for one in live)),
        _gauge("runner_busy_slots", "Slots of live runners in which a task runs.", sum(one.running for one in live)),
        _gauge("runner_stray_threads", "Threads of timed-out tasks that still run.", sum(one.strays for one in live)),
        _gauge(
            "runner_shortest_lease_seconds",
            "What is left of the lease that ends first; below 0 it is not extended any more.",
            min((one.lease_seconds for one in live), default=0.0),
        ),
    )


_LIFE = ("alive", "expired")


def _schedules(schedules: Sequence[Schedule], now: datetime) -> Iterable[Metric]:
    states = GaugeMetricFamily("taskrunner_schedules", "Schedules by state.", labels=["state"])
    counts = Counter(dict.fromkeys(("active", "paused", "orphaned", "ended", "failing"), 0))
    counts.update(_state(one) for one in schedules)
    for state, count in counts.items():
        states.add_metric([state], count)
    ticking = [one.next_tick_at for one in schedules if _state(one) == "active" and one.next_tick_at is not None]
    late = max(((now - due).total_seconds() for due in ticking), default=0.0)
    return (
        states,
        _gauge("schedule_lag_seconds", "How far the latest active schedule is behind its tick.", max(late, 0.0)),
    )


def _state(one: Schedule) -> str:
    if one.last_error is not None:
        return "failing"
    return "ended" if one.ended else "paused" if one.paused else "orphaned" if one.orphaned else "active"


def _server(found: Server) -> Iterable[Metric]:
    sizes = GaugeMetricFamily("taskrunner_table_bytes", "Size of a table with its indexes.", labels=["table"])
    for table, size in (
        ("task", found.task_bytes),
        ("dead_letter", found.dead_letter_bytes),
        ("task_history", found.history_bytes),
    ):
        sizes.add_metric([table], size)
    # No series rather than one that says 0, where the transactions of others are not told to this login.
    oldest = [] if found.oldest_transaction_seconds is None else [_oldest_transaction(found.oldest_transaction_seconds)]
    return (
        sizes,
        *oldest,
        _gauge("task_dead_rows", "Rows of the task table that vacuum has not yet removed.", found.dead_rows),
        _gauge("history_partitions", "Partitions of history, those made ahead included.", found.partitions),
        _gauge("server_connections", "Client connections to the server.", found.connections),
        _gauge("server_max_connections", "Client connections that the server allows.", found.max_connections),
    )


def _oldest_transaction(seconds: float) -> Metric:
    text = "How long the oldest transaction of the database is open; needs the rights of pg_monitor."
    return _gauge("oldest_transaction_seconds", text, seconds)
