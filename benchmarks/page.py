"""Writes docs/benchmarks.md, its plot and the figures of the README: `python -m benchmarks.page`.

The numbers are those of the last two runs, .bench/bench.json and .bench/peers.json; nothing is left out.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import ROOT, BenchError
from benchmarks.harness.results import FOLDER, Row, from_json, show, spread
from benchmarks.peers.catalogue import BY_NAME, PEERS, Peer
from benchmarks.peers.environments import PLOT, python_with
from benchmarks.peers.scenarios import SAMPLES
from benchmarks.peers.table import series
from benchmarks.published import SOURCE, against_peers

DOCS = ROOT / "docs"
PAGE, README = DOCS / "benchmarks.md", ROOT / "README.md"
METHOD, BOUNDS = Path(__file__).with_name("method.md"), Path(__file__).with_name("bounds.md")
PICTURES = (DOCS / "benchmarks.png", DOCS / "benchmarks.svg")
BLOCK = re.compile(r"(?<=<!-- bench:begin -->\n).*?(?=<!-- bench:end -->)", re.S)

LIMIT_TITLES = {
    "bare 500": "bare loop of our SQL statement, batches of 500",
    "bare 100": "bare loop of our SQL statement, batches of 100",
    "pgbench 1": "pgbench: claim and delete, 500 at a time, no history",
    "pgbench 2": "the same with two clients",
    "pgbench insert": "pgbench: single INSERT, a commit each",
}
DRAINS = ("bare 500", "bare 100", "pgbench 1", "pgbench 2")

Run = Mapping[str, Any]


def write() -> None:
    """Write all of it; without a run of the peers there is nothing to write."""
    peers, bench = _load("peers"), _load("bench")
    if peers is None:
        raise BenchError("there is no run of the peers yet: make bench-peers")
    plot(peers)
    PAGE.write_text("\n".join(page(peers, bench)) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    block = "\n".join(readme(peers)) + "\n"
    README.write_text(BLOCK.sub(lambda _: block, text), encoding="utf-8")


def plot(peers: Run) -> None:
    """Draw the drains of one process."""
    bars = [{"name": peer.title, "rates": rates, "kind": _kind(peer)} for peer, rates in _drains(peers)]
    bars += [
        {"name": LIMIT_TITLES[name].partition(",")[0], "rates": rates, "kind": "limit"}
        for name in ("bare 500", "pgbench 1")
        if (rates := series(peers, f"limit {name}", "one", "rate"))
    ]
    title = f"No-op tasks drained by one worker process; {_where(peers)}"
    given = {"title": title, "bars": bars, "files": list(map(str, PICTURES))}
    python = python_with("plot", PLOT)
    script = Path(__file__).with_name("plot.py")
    done = subprocess.run(
        [str(python), str(script)], input=json.dumps(given), text=True, capture_output=True, check=False, timeout=120
    )
    if done.returncode:
        raise BenchError(f"the plot could not be drawn: {done.stderr[-400:]}")
    picture = PICTURES[1]
    lines = (line.rstrip() for line in picture.read_text(encoding="utf-8").splitlines())
    picture.write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(peers: Run, bench: Run | None) -> Iterator[str]:
    """Yield the lines of docs/benchmarks.md."""
    yield "# Benchmarks"
    yield ""
    machine, rounds = peers["machine"], peers["options"]["rounds"]
    yield f"<!-- Written by `make bench-peers` from the run of {machine['at']}: python -m benchmarks.page -->"
    yield ""
    yield f"Measured {machine['at'][:10]} on {_where(peers)} ({machine['processor']}, {machine['system']}), client and"
    yield "server on the same cores. `fsync`, `synchronous_commit` and `full_page_writes` are on. Every figure is the"
    yield f"median of {rounds} rounds, with minimum and maximum where there is room."
    yield ""
    yield "Compare figures of one run with each other, not with those of another machine or another day."
    yield ""
    yield "## Beside other queues"
    yield ""
    yield 'No-op tasks with the payload `{"n": 1}`, in tasks a second; CPU is worker + server, in microseconds a task.'
    yield ""
    yield "![Tasks a second, drained by one worker process](benchmarks.svg)"
    yield ""
    yield "| | drain, one process | two processes | CPU | bulk enqueue | one by one | pickup p50 / p99, ms |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    yield from (_peer_line(peers, peer) for peer in PEERS if peer.name in peers["contestants"])
    yield ""
    yield "What they were, how they were set, and what they keep of a finished task:"
    yield ""
    yield "| | versions | settings | keeps |"
    yield "|---|---|---|---|"
    yield from (_settings_line(peers, peer) for peer in PEERS if peer.name in peers["contestants"])
    yield ""
    yield "What the server gives at most, with nothing of a queue around the SQL, rows a second:"
    yield ""
    yield "| | |"
    yield "|---|---:|"
    for name, title in LIMIT_TITLES.items():
        yield f"| {title} | {_rates(peers, f'limit {name}', 'one', 'rate')} |"
    yield ""
    yield from _targets(bench)
    yield from METHOD.read_text(encoding="utf-8").format(samples=SAMPLES).rstrip().splitlines()


def readme(peers: Run) -> Iterator[str]:
    """Yield the lines of the README's block."""
    rounds = peers["options"]["rounds"]
    yield f"No-op tasks a second, drained by one worker process; {_where(peers)}, shared by client and server,"
    yield f"`fsync` and `synchronous_commit` on; median of {rounds} rounds run in turn (minimum–maximum):"
    yield ""
    yield "| | tasks/s | keeps of a finished task |"
    yield "|---|---:|---|"
    for peer, rates in sorted(_drains(peers), key=lambda pair: -statistics.median(pair[1])):
        name = f"**{peer.title}**" if peer.kind == "ours" else peer.title
        yield f"| {name} | {spread(rates)} | {peer.keeps.partition(':')[0].partition(';')[0]} |"
    yield ""
    yield "All figures, versions, settings and the method: [benchmarks](docs/benchmarks.md). Measure on your machine:"
    yield ""
    yield from ("```console", "$ make bench", "$ make bench-peers", "```")


def _targets(bench: Run | None) -> Iterator[str]:
    yield "## Targets"
    yield ""
    if bench is None:
        yield "Not measured: `make bench` has not been run."
        yield ""
        return
    rounds, day = bench["options"]["rounds"], bench["machine"]["at"][:10]
    yield f"The targets that this project sets itself, {bench['server']}, {rounds} rounds, run of {day}."
    yield "What is compared is run in turn; a ratio is taken round by round."
    yield ""
    yield "| # | | figure | target | |"
    yield "|---:|---|---:|---|---|"
    rows = [from_json(entry) for entry in bench["entries"].values()]
    for row in sorted(rows, key=lambda row: row.number):
        yield from _target_lines(row)
    yield ""
    yield from BOUNDS.read_text(encoding="utf-8").splitlines()


def _target_lines(row: Row) -> Iterator[str]:
    said = "" if row.state == "measured" else _cell(f"{row.state}: {row.reason}")
    yield f"| {row.number} | **{row.title}** | {said} | | |"
    for figure in (*(one for one in row.figures if SOURCE not in one.what), *against_peers(row.number)):
        mark = {None: "", True: "yes", False: "**no**"}[figure.reached]
        yield f"| | {_cell(figure.what)} | {spread(figure.values, figure.unit)} | {figure.target} | {mark} |"


def _peer_line(run: Run, peer: Peer) -> str:
    known = run["contestants"][peer.name]
    if "missing" in known:
        return f"| {peer.title} | not measured: {known['missing']} | | | | | |"
    client, server = (_middle(run, peer.name, "one", field) for field in ("client_us", "server_us"))
    cells = (
        _rates(run, peer.name, "one", "rate"),
        _rates(run, peer.name, "two", "rate"),
        f"{client} + {server}" if peer.store == "postgresql" else client,
        _middle(run, peer.name, "one", "bulk"),
        _middle(run, peer.name, "pickup", "single"),
        f"{_middle(run, peer.name, 'pickup', 'p50')} / {_middle(run, peer.name, 'pickup', 'p99')}",
    )
    name = f"**{peer.title}**" if peer.kind == "ours" else peer.title
    return f"| {name} | {' | '.join(cells)} |"


def _settings_line(run: Run, peer: Peer) -> str:
    known = run["contestants"][peer.name]
    return f"| {peer.title} | {known.get('versions', 'missing')} | {peer.settings} | {peer.keeps} |"


def _rates(run: Run, name: str, scenario: str, field: str) -> str:
    values = series(run, name, scenario, field)
    return spread(values) if values else f"failed: {_failure(run, name, scenario)}"


def _middle(run: Run, name: str, scenario: str, field: str) -> str:
    values = series(run, name, scenario, field)
    return show(statistics.median(values)) if values else "failed"


def _failure(run: Run, name: str, scenario: str) -> str:
    entries = (entry for key, entry in run["entries"].items() if key.startswith(f"{name}/{scenario}/"))
    return next((_cell(entry["failed"]) for entry in entries if "failed" in entry), "not run")[:120]


def _cell(text: str) -> str:
    """Return a text as one cell of a table takes it."""
    return text.strip().replace("|", "\\|").replace("\n", " ")


def _drains(run: Run) -> Sequence[tuple[Peer, list[float]]]:
    found = ((peer, series(run, peer.name, "one", "rate")) for peer in PEERS)
    return [(peer, rates) for peer, rates in found if rates]


def _kind(peer: Peer) -> str:
    return "ours" if peer is BY_NAME["taskrunner"] else "theirs"


def _where(run: Run) -> str:
    return f"{run['machine']['cpus']} cores, {run['server']}"


def _load(name: str) -> Run | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    write()
