"""The contestants on a terminal of 80 columns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from benchmarks.harness.results import show, spread
from benchmarks.harness.table import WIDTH
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.scenarios import LIMITS


def series(run: Mapping[str, Any], name: str, scenario: str, field: str) -> list[float]:
    """Return one field of all rounds of a contestant's scenario, without those that failed."""
    keys = (f"{name}/{scenario}/{number}" for number in range(1, run["options"]["rounds"] + 1))
    return [entry[field] for entry in (run["entries"].get(key, {}) for key in keys) if field in entry]


def peers_table(run: Mapping[str, Any]) -> Table:
    """Show medians of the rounds, the drain's with its spread."""
    shown = Table(title=f"tasks/s, medians of {run['options']['rounds']} rounds", width=WIDTH, pad_edge=False)
    shown.add_column("", ratio=3)
    shown.add_column("drain, 1 process", justify="right", ratio=4)
    shown.add_column("2", justify="right", ratio=2)
    shown.add_column("bulk", justify="right", ratio=2)
    shown.add_column("single", justify="right", ratio=2)
    shown.add_column("p50 / p99 ms", justify="right", ratio=3)
    for peer in PEERS:
        known = run.get("contestants", {}).get(peer.name)
        if known is None:
            continue
        if "missing" in known:
            shown.add_row(peer.title, f"missing: {known['missing']}", "", "", "", "")
            continue
        shown.add_row(peer.title, *_cells(run, peer.name))
    for name in LIMITS:
        rates = series(run, f"limit {name}", "one", "rate")
        if rates:
            shown.add_row(name, spread(rates), "", "", "", "")
    return shown


def _cells(run: Mapping[str, Any], name: str) -> tuple[str, ...]:
    def middle(scenario: str, field: str) -> str:
        values = series(run, name, scenario, field)
        return show(statistics.median(values)) if values else "failed"

    one = series(run, name, "one", "rate")
    latency = f"{middle('pickup', 'p50')} / {middle('pickup', 'p99')}"
    return (
        spread(one) if one else "failed",
        middle("two", "rate"),
        middle("one", "bulk"),
        middle("pickup", "single"),
        latency,
    )
