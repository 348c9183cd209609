"""What the last run of `python -m benchmarks.peers` found, for the rows whose targets are ratios to the peers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.harness.results import FOLDER, Figure, at_least, ratios

OURS = "taskrunner"
BESIDE: Mapping[int, tuple[str, Mapping[str, float]]] = {
    1: ("one", {"graphile": 1.2, "pgqueuer": 3, "procrastinate": 40, "celery": 40}),
    2: ("two", {"graphile": 1.0}),
}
"""The rows with such targets: the scenario of the peers' run, and how many times as fast we want to be."""

SOURCE = "(peers' run)"
TITLES = {
    "taskrunner": "taskrunner",
    "graphile": "Graphile Worker",
    "pgqueuer": "PgQueuer",
    "procrastinate": "Procrastinate",
    "celery": "Celery + Redis",
    "oban": "oban-py",
    "awa": "awa-pg",
}


def peers_run() -> dict[str, Any] | None:
    """Return the whole run; None if there is none."""
    path = FOLDER / "peers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rates(run: Mapping[str, Any], name: str, scenario: str) -> list[float]:
    """Return a contestant's rates in a scenario, a round each; empty if it was not there or failed."""
    keys = (f"{name}/{scenario}/{number}" for number in range(1, run["options"]["rounds"] + 1))
    found = (run["entries"].get(key, {}) for key in keys)
    return [entry["rate"] for entry in found if "rate" in entry]


def against_peers(row: int) -> list[Figure]:
    """Return a figure for each peer: our rate over its, round by round of the last run that measured both."""
    if row not in BESIDE:
        return []
    scenario, factors = BESIDE[row]
    run = peers_run()
    if run is None:
        return [Figure("beside the peers: run make bench-peers first", (), "", "see there")]
    figures = []
    own = rates(run, OURS, scenario)
    for name, factor in factors.items():
        theirs = rates(run, name, scenario)
        what = f"of {TITLES[name]} {SOURCE}"
        if own and len(own) == len(theirs):
            quotients = [ratio / 100 for ratio in ratios(own, theirs)]
            figures.append(at_least(what, quotients, factor, "×"))
        else:
            figures.append(Figure(f"{what}: not measured", (), "×", f"≥ {factor:g}×"))
    return figures
