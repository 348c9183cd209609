"""`make bench-peers`: install other queues in environments of their own and measure them beside this one.

All run in turn, A, B, C …, A, B, C …, on one server with the same settings and the same payload. Who cannot be
installed, fails or takes too long says so and leaves the others alone; results go to .bench/peers.json as they come,
and `--resume` goes on where a run was stopped. A whole run writes docs/benchmarks.md with its plot.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.harness.processes import BenchError, Command
from benchmarks.harness.results import Store
from benchmarks.harness.server import SETTINGS, running
from benchmarks.harness.table import WIDTH
from benchmarks.peers import redis
from benchmarks.peers.catalogue import BY_NAME, OURS, PEERS, Peer
from benchmarks.peers.environments import command_of, versions_of
from benchmarks.peers.scenarios import LIMITS, SCENARIOS, Arena, Entry
from benchmarks.peers.table import peers_table

PATIENCE = 240.0  # seconds for one contestant's turn in one scenario


class TimedOut(Exception):
    """A turn took too long."""


def main() -> None:
    """Parse, install, measure, print, write the page; exit 1 when somebody failed."""
    given = _parse()
    options = {"rounds": given.rounds, "scale": given.scale}
    store = Store("peers", resume=given.resume, options=options)
    console = Console(stderr=True)
    commands = install([BY_NAME[name] for name in given.only], store, console)
    with ExitStack() as stack:
        bench = stack.enter_context(running())
        store.data.update(server=bench.version, settings=SETTINGS)
        fast = stack.enter_context(redis.running()) if _has_redis(store) else None
        compete(store, Arena(bench, fast, given.scale), commands, given.rounds, console)
    if given.json:
        print(json.dumps(store.data, ensure_ascii=False))
    else:
        Console(width=WIDTH if not sys.stdout.isatty() else None).print(peers_table(store.data))
    whole = not given.no_page and given.scale == 1 and set(given.only) == set(BY_NAME)
    if whole:
        from benchmarks.page import write

        write()
    else:
        print("docs/benchmarks.md is written by a whole run only: all contestants, scale 1", file=sys.stderr)
    sys.exit(any("failed" in entry for entry in store.data["entries"].values()))


def install(peers: Sequence[Peer], store: Store, console: Console) -> dict[str, Command]:
    """Make the environments; who is missing is noted, with the reason."""
    commands: dict[str, Command] = {}
    known = store.data.setdefault("contestants", {})
    for peer in peers:
        with console.status(f"installing {peer.title}"):
            try:
                commands[peer.name] = command_of(peer)
                versions = versions_of(peer, commands[peer.name])
                versions += f"; {redis.version()}" if peer.store == "redis" else ""
                known[peer.name] = {"versions": versions}
            except BenchError as error:
                commands.pop(peer.name, None)
                known[peer.name] = {"missing": str(error)}
                console.print(f"{peer.title} is left out: {error}", highlight=False)
    store.save()
    return commands


def compete(store: Store, arena: Arena, commands: Mapping[str, Command], rounds: int, console: Console) -> None:
    """Let everybody take their turns, round by round."""
    turns = list(_turns(arena, commands, rounds))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(turns))
        for key, title, turn in turns:
            progress.update(bar, description=title[:40])
            earlier = store.get(key)
            if earlier is None or "failed" in earlier:
                entry = carry_out(turn)
                store.put(key, entry)
                said = entry.get("failed") or _summary(entry)
                progress.console.print(f"{title}: {said}", highlight=False)
            progress.advance(bar)


def carry_out(turn: Callable[[], Entry]) -> Entry:
    """Do one turn, whatever happens in it."""
    try:
        with _time_out(PATIENCE):
            return turn()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


Turn = tuple[str, str, Callable[[], Entry]]


def _turns(arena: Arena, commands: Mapping[str, Command], rounds: int) -> Iterator[Turn]:
    for number in range(1, rounds + 1):
        for scenario, measure in SCENARIOS.items():
            for peer in PEERS:
                if peer.name in commands:
                    title = f"{number}/{rounds} {scenario}: {peer.title}"
                    yield f"{peer.name}/{scenario}/{number}", title, _bound(measure, arena, peer, commands[peer.name])
        for name, limit in LIMITS.items() if OURS.name in commands else ():
            yield f"limit {name}/one/{number}", f"{number}/{rounds} {name}", _limit(limit, arena)


def _bound(measure: Callable[..., Entry], *given: Any) -> Callable[[], Entry]:
    return lambda: measure(*given)


def _limit(limit: Callable[..., float], arena: Arena) -> Callable[[], Entry]:
    return lambda: {"rate": limit(arena.bench)}


def _summary(entry: Entry) -> str:
    parts = {"rate": "{:,.0f}/s", "bulk": "bulk {:,.0f}/s", "single": "single {:,.0f}/s", "p50": "p50 {:.1f} ms"}
    parts |= {"p99": "p99 {:.1f} ms", "client_us": "client {:.0f} µs", "server_us": "server {:.0f} µs"}
    return ", ".join(text.format(entry[name]) for name, text in parts.items() if name in entry)


def _has_redis(store: Store) -> bool:
    return any(
        "versions" in entry and BY_NAME[name].store == "redis" for name, entry in store.data["contestants"].items()
    )


@contextmanager
def _time_out(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimedOut(f"not done after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", type=_names, default=list(BY_NAME), metavar="A,B", help="contestants to measure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 runs a tenth of the tasks: a quick look")
    parser.add_argument("--resume", action="store_true", help="go on where the last run with these options stopped")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - BY_NAME.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"no contestant {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    return names


if __name__ == "__main__":
    main()
