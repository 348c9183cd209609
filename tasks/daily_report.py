"""What the last 24 hours brought, as a Markdown file a day."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from taskrunner import Task, TaskQueue, register_task


@register_task("DailyReport", "0 6 * * *", unique=True)
class DailyReport(Task):
    """Write `<date>.md` into the folder REPORTS (default `reports`); the same day's second run replaces it."""

    def run(self) -> dict[str, str]:
        with TaskQueue.connect() as queue:
            counts = queue.stats()
        now = datetime.now(UTC)
        folder = Path(os.environ.get("REPORTS", "reports"))
        folder.mkdir(parents=True, exist_ok=True)
        page, draft = folder / f"{now:%Y-%m-%d}.md", folder / f".{self.id}.part"
        draft.write_text(render(counts, now), encoding="utf-8")
        draft.replace(page)
        return {"report": str(page)}


def render(counts: Mapping[str, int], now: datetime) -> str:
    """Return the report: what ended within 24 hours, what waits, what needs a person."""
    ended = sum(counts[state] for state in ("succeeded", "ignored", "cancelled"))
    verdict = f"{counts['dead']} dead letters need a person." if counts["dead"] else "Nothing needs a person."
    rows = "".join(f"| {state} | {count:,} |\n" for state, count in counts.items())
    return (
        f"# Tasks on {now:%A, %d %B %Y}\n\n"
        f"{ended:,} tasks ended in the 24 hours before {now:%H:%M} UTC. {verdict}\n\n"
        f"| state | tasks |\n|---|---:|\n{rows}"
    )
