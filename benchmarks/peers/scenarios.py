"""What every contestant goes through, in a fresh database each time: drain by one process, by two, pickup."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from benchmarks.harness.drains import Left, Plan, by_query, drain
from benchmarks.harness.processes import Command, ask, team, wait_until
from benchmarks.harness.results import percentile
from benchmarks.harness.server import Bench
from benchmarks.peers import limits
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.redis import Redis

FILL_SECONDS = 120.0
DRAIN_SECONDS = 90.0
SAMPLES = 150

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Arena:
    """The servers that all are measured on; Redis only where it is installed."""

    bench: Bench
    redis: Redis | None
    scale: float

    def scaled(self, full: int, least: int) -> int:
        """Return a count, smaller in a quick look."""
        return max(round(full * self.scale), least)


@dataclass(frozen=True)
class Ground:
    """An empty queue of one contestant: its URL, and the look at what is not acknowledged."""

    url: str
    left: Left


@contextmanager
def ground(arena: Arena, peer: Peer, command: Command, tasks: int) -> Iterator[Ground]:
    """Make the contestant's tables in a database of its own, as its pages say."""
    if peer.store == "redis":
        assert arena.redis is not None
        arena.redis.clear()
        yield Ground(arena.redis.url, arena.redis.left)
        arena.redis.clear()
        return
    with ExitStack() as stack:
        url = stack.enter_context(arena.bench.empty_database(f"bench_{peer.name}"))
        theirs = url.replace("@/", "@localhost/", 1) if peer.host_in_url else url
        ask(command.also("setup", theirs), 60)
        conn = stack.enter_context(psycopg.connect(url, autocommit=True))
        yield Ground(theirs, by_query(conn, peer.left.format(tasks=tasks)))


def drained(arena: Arena, peer: Peer, command: Command, processes: int) -> Entry:
    """Fill by the contestant's own bulk call, let the server settle, drain."""
    tasks = arena.scaled(peer.tasks, 200)
    with ground(arena, peer, command, tasks) as place:
        filled = json.loads(ask(command.also("fill", place.url, str(tasks)), FILL_SECONDS))
        if peer.store == "postgresql":
            _settle(arena, peer)
        workers = [command.also("work", place.url)] * processes
        found = drain(arena.bench, Plan(workers, tasks, DRAIN_SECONDS), place.left)
    return {**asdict(found), "bulk": filled["tasks"] / filled["seconds"]}


def picked_up(arena: Arena, peer: Peer, command: Command) -> Entry:
    """Add tasks one by one with nobody there, then one at a time to an idle worker."""
    singles, samples = arena.scaled(peer.singles, 50), arena.scaled(SAMPLES, 20)
    with ground(arena, peer, command, singles) as place:
        alone = json.loads(ask(command.also("single", place.url, str(singles)), FILL_SECONDS))
        with team(command.also("work", place.url)) as workers:
            wait_until(
                lambda: workers.checked().runs >= singles,
                patience=DRAIN_SECONDS,
                what="the tasks before the first pickup",
            )
            wait_until(lambda: not place.left(), patience=30, what="their acknowledgement", pause=0.05)
            words = ("pickup", place.url, str(workers.folder), str(samples))
            waits = json.loads(ask(command.also(*words), 60 + samples))["milliseconds"]
    return {
        "single": alone["tasks"] / alone["seconds"],
        "p50": percentile(waits, 0.5),
        "p99": percentile(waits, 0.99),
        "milliseconds": sorted(round(wait, 3) for wait in waits),
    }


SCENARIOS: dict[str, Callable[[Arena, Peer, Command], Entry]] = {
    "one": lambda arena, peer, command: drained(arena, peer, command, 1),
    "two": lambda arena, peer, command: drained(arena, peer, command, 2),
    "pickup": picked_up,
}

LIMITS: dict[str, Callable[[Bench], float]] = {
    "bare 500": lambda bench: limits.bare_loop(bench, 500),
    "bare 100": lambda bench: limits.bare_loop(bench, 100),
    "pgbench 1": lambda bench: limits.claim_and_delete(bench, 1),
    "pgbench 2": lambda bench: limits.claim_and_delete(bench, 2),
    "pgbench insert": limits.single_insert,
}
"""What is no queue, but what a queue cannot pass."""


def _settle(arena: Arena, peer: Peer) -> None:
    with psycopg.connect(arena.bench.server.url_of(f"bench_{peer.name}"), autocommit=True) as conn:
        conn.execute("VACUUM (ANALYZE)")
        conn.execute("CHECKPOINT")
