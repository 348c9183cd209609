"""The plot of docs/benchmarks.md, drawn by matplotlib in an environment of its own: JSON on standard input.

`{"title": …, "bars": [{"name", "rates", "ours"}], "files": […]}`; it imports nothing of this project.
"""

from __future__ import annotations

import json
import statistics
import sys

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "taskrunner"  # the same picture is the same file
mpl.rcParams["font.family"] = "sans-serif"
from matplotlib import pyplot as plt  # noqa: E402 - after the backend

OURS, THEIRS, LIMIT, INK = "#1f6f5c", "#9aa5b1", "#d9dee4", "#2b2f36"


def draw(given: dict[str, object]) -> None:
    """Draw bars of medians with their spread, the fastest on top."""
    bars = sorted(given["bars"], key=lambda bar: statistics.median(bar["rates"]))  # type: ignore[call-overload]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(bars) + 1.1))
    for place, bar in enumerate(bars):
        middle = statistics.median(bar["rates"])
        low, high = min(bar["rates"]), max(bar["rates"])
        colour = {"ours": OURS, "theirs": THEIRS, "limit": LIMIT}[bar["kind"]]
        axes.barh(place, middle, color=colour, height=0.68)
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], color=INK, capsize=2, linewidth=0.8)
        axes.text(high * 1.06, place, f"{middle:,.0f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(bars)), [bar["name"] for bar in bars], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(min(bar["rates"]) for bar in bars) * 0.6, max(max(bar["rates"]) for bar in bars) * 2.2)
    axes.set_xlabel("tasks a second, one worker process, logarithmic", fontsize=9)
    axes.set_title(given["title"], fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.tight_layout()
    for path in given["files"]:  # type: ignore[attr-defined]
        svg = str(path).endswith(".svg")
        figure.savefig(path, dpi=160, metadata={"Date": None} if svg else None)


draw(json.load(sys.stdin))
