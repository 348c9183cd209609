"""What a measurement found, its target beside it, and the file that keeps it."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.processes import ROOT

FOLDER = ROOT / ".bench"
"""Environments and results; git ignores it."""

State = Literal["measured", "failed", "not built yet"]


@dataclass(frozen=True)
class Figure:
    """One line of the table: a value a round, and what it has to reach; `reached` is None where nothing is asked."""

    what: str
    values: Sequence[float]
    unit: str = ""
    target: str = ""
    reached: bool | None = None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values) if self.values else math.nan


@dataclass(frozen=True)
class Row:
    """One row of the table of targets; `details` is whatever else the measurement saw."""

    number: int
    title: str
    state: State
    figures: Sequence[Figure] = ()
    reason: str = ""
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


def at_least(what: str, values: Sequence[float], target: float, unit: str = "", *, like: str = "") -> Figure:
    """Return a figure whose median must reach `target`; `like` is the target in words."""
    return Figure(what, values, unit, like or f"≥ {show(target, unit)}", _median(values) >= target)


def at_most(what: str, values: Sequence[float], target: float, unit: str = "", *, like: str = "") -> Figure:
    """Return a figure whose median may not pass `target`."""
    return Figure(what, values, unit, like or f"≤ {show(target, unit)}", _median(values) <= target)


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the quotients of two series, round by round, in per cent: neighbours in time are compared."""
    return [value / other * 100 for value, other in zip(values, others, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not pass (nearest rank); nan without any."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def show(value: float, unit: str = "") -> str:
    """Return a number as people write it: three figures that count, thousands apart."""
    if math.isnan(value):
        return "?"
    digits = 0 if value == 0 else min(max(2 - math.floor(math.log10(abs(value))), 0), 4)
    shown = f"{value:,.{digits}f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return f"{shown} {unit}".strip() if unit not in ("%", "×", "/s") else f"{shown}{unit}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """Return median, minimum and maximum."""
    if not values:
        return "?"
    middle = show(_median(values), unit)
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}–{show(max(values))})"


def machine() -> dict[str, str]:
    """Describe where this runs."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpus": str(cpus),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


class Store:
    """A JSON file that is written after every step, so that a run can be resumed and a crash loses nothing."""

    def __init__(self, name: str, *, resume: bool, options: Mapping[str, Any]) -> None:
        """`options` are what makes two runs comparable; a file of others is not resumed but kept as `…-before`."""
        self.path = FOLDER / f"{name}.json"
        self.data: dict[str, Any] = {"options": dict(options), "machine": machine(), "entries": {}}
        FOLDER.mkdir(exist_ok=True)
        if not self.path.exists():
            return
        earlier = json.loads(self.path.read_text(encoding="utf-8"))
        if resume and earlier.get("options") == json.loads(json.dumps(self.data["options"])):
            self.data = earlier
        else:
            self.path.replace(self.path.with_name(f"{name}-before.json"))

    def get(self, key: str) -> Any:
        """Return an entry of this or of the resumed run; None without one."""
        return self.data["entries"].get(key)

    def put(self, key: str, entry: Any) -> None:
        """Keep an entry, on disk at once."""
        self.data["entries"][key] = entry
        self.save()

    def save(self) -> None:
        """Write the file beside its place, then rename it there."""
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(self.data, indent=1, ensure_ascii=False), encoding="utf-8")
        beside.replace(self.path)


def to_json(row: Row) -> dict[str, Any]:
    """Return the row as plain data."""
    return asdict(row)


def from_json(data: Mapping[str, Any]) -> Row:
    """Return the row that `to_json` made the data of."""
    figures = tuple(Figure(**figure) for figure in data["figures"])
    return Row(**{**data, "figures": figures})


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
