"""`/ui/`: what waits and runs now, and what ended over a time of one's choice, from `task_stats` alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import reads
from taskrunner.api.door import door_of
from taskrunner.api.kept import kept
from taskrunner.api.ui.frame import page
from taskrunner.api.ui.pictures import Split, pictures, share
from taskrunner.errors import InvalidArgument
from taskrunner.reads import RANGES, Chart, ChartFilter, Status
from taskrunner.reads.live import longest

SPLITS: tuple[Split, ...] = ("outcome", "type", "queue")


class Choice(NamedTuple):
    """What the address asks for."""

    wanted: ChartFilter
    split: Split
    given: dict[str, str]

    def url(self, **changes: str) -> str:
        """Return the address of the same with something changed; an empty text takes it away."""
        words = {name: value for name, value in {**self.given, **changes}.items() if value}
        return "/ui/" + (f"?{urlencode(words)}" if words else "")


async def overview(request: Request) -> Response:
    """Return the page."""
    choice = chosen(dict(request.query_params))
    door = door_of(request)
    status: Status = await kept(request, "status", lambda: door.run(reads.status))
    chart: Chart = await kept(
        request, choice.wanted.model_dump_json(), lambda: door.run(lambda: reads.chart(choice.wanted))
    )  # fmt: skip
    return page(
        request, "overview.html", title="Overview", now=await door.run(reads.now), tasks=status.tasks, chart=chart,
        choice=choice, ranges=RANGES, splits=SPLITS, pictures=pictures(chart, choice.split), share=share,
        **_glance(status, chart, choice.split),
    )  # fmt: skip


def chosen(query: dict[str, str]) -> Choice:
    """Read an address. Raises: `InvalidArgument` naming what cannot be read."""
    known = ("range", "since", "until", "split", "type", "queue")
    given = {name: query[name] for name in known if query.get(name)}
    split = given.get("split", "outcome")
    if split not in SPLITS:
        raise InvalidArgument(f"split is {', '.join(SPLITS)}, not {split!r}")
    if given.get("range", "1h") not in RANGES:
        raise InvalidArgument(f"range is {', '.join(RANGES)}, not {given['range']!r}")
    wanted = ChartFilter(
        range=given.get("range", "1h"),
        since=_instant("since", given),
        until=_instant("until", given),
        by="queue" if split == "queue" else "type",
        type=given.get("type"),
        queue=given.get("queue"),
    )
    return Choice(wanted, split, given)


def _instant(name: str, given: dict[str, str]) -> datetime | None:
    if name not in given:
        return None
    try:
        read = datetime.fromisoformat(given[name])
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{name} is a time as in 2026-03-01T12:00, not {given[name]!r}") from None


def _glance(status: Status, chart: Chart, split: Split) -> dict[str, Any]:
    """Return the figures at the top, and what deserves a word."""
    alive = [runner for runner in status.runners if runner.alive]
    oldest = None
    for counts in status.types:
        oldest = longest(oldest, counts.oldest_due_seconds)
    ticks = [counts.next_tick_at for counts in status.types if counts.next_tick_at]
    known = sorted({name for runner in alive for name in runner.types})
    tasks = status.tasks.model_dump()
    return {
        "runners": [runner for runner in alive if runner.kind == "runner"],
        "oldest": oldest,
        "next_tick": min(ticks, default=None),
        "lost": [counts.type for counts in status.types if counts.unregistered and counts.pending],
        "paused": [queue.name for queue in status.queues if queue.paused],
        "waiting": {queue.name: queue for queue in status.queues}
        if split == "queue"
        else {counts.type: counts for counts in status.types},
        "fresh": not any(tasks.values()) and not chart.total.counts,
        "known": known,
    }
