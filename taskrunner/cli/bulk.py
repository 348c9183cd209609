"""`taskrunner tasks bulk`: one action on all tasks that a search finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from taskrunner.cli.options import AsJson, At, ByTenant, Delay, Yes

if TYPE_CHECKING:
    from taskrunner.bulk import Outcome, Preview

SOON = 2.0
"""Seconds after which a bar shows how far it is."""


class Doing(StrEnum):
    """What can be done to many tasks at once."""

    CANCEL = "cancel"
    RETRY = "retry"
    RESCHEDULE = "reschedule"
    REQUEUE = "requeue"
    DELETE = "delete"


Wanted = Annotated[
    list[str], typer.Argument(metavar="SEARCH...", help="As of `tasks list`: type:SendEmail state:dead.")
]
Look = Annotated[bool, typer.Option("--preview", help="Only say how many there are, and show some.")]


def bulk(
    action: Annotated[Doing, typer.Argument(help="What to do.")],
    search: Wanted,
    delay: Delay = None,
    at: At = None,
    tenant: ByTenant = None,
    preview: Look = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Do one thing to all tasks that a search finds.

    cancel is for what waits or runs; retry makes pending tasks due now and requeues dead ones; reschedule gives
    pending ones a new maturity (--delay or --at); requeue and delete are for dead letters.

    It asks with the exact number first, and leaves alone what comes later. It cannot be undone.
    """
    from datetime import timedelta

    from taskrunner import bulk as engine
    from taskrunner import reads
    from taskrunner.cli.options import duration, instant, searched
    from taskrunner.cli.session import actor, confirm, session, tell
    from taskrunner.errors import InvalidArgument
    from taskrunner.store.bulk import When

    if (action is Doing.RESCHEDULE) != ((delay is None) != (at is None)):
        raise InvalidArgument("reschedule takes one of --delay and --at, and the others take neither")
    when = When(instant(at, "--at"), duration(delay, "--delay") or timedelta(0))
    with session(tenant=tenant) as opened:
        now = opened.run(reads.now())
        wanted = searched(search, now, tenant=tenant)
        order = engine.Order(str(action), wanted, now, when, patience=timedelta(seconds=30))
        found = engine.drive(lambda make: opened.run(make()), engine.preview(order))
        if preview or not found.count:
            tell(found, as_json, _words(found))
            return
        confirm(_question(found), yes=yes)
        with _bar(found.count) as told:
            pieces = engine.apply(order, actor(), expected=found.count, progress=told)
            outcome = engine.drive(lambda make: opened.run(make()), pieces)
    tell(outcome, as_json, _told(outcome))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int, int], None]]:
    """Lend what is told of progress: nothing is seen of it for the first two seconds, or without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=total)
    began = time.monotonic()
    with ExitStack() as shown:

        def told(met: int, _: int) -> None:
            if not bar.live.is_started and time.monotonic() - began > SOON:
                shown.enter_context(bar)
            bar.update(task, completed=met)

        yield told


def _count(found: Preview) -> str:
    number = f"{found.count:,} task" + ("" if found.count == 1 else "s")
    return number if found.exact else f"at least {number}"


def _question(found: Preview) -> str:
    return f"{found.action.capitalize()} {_count(found)} ({found.filter})?"


def _words(found: Preview) -> str:
    lines = [f"{found.action}: {_count(found)} ({found.filter})"]
    lines += [f"  {task.id}  {task.state:9}  {task.type}" for task in found.sample]
    if found.count > len(found.sample) > 0:
        lines.append("  …")
    return "\n".join(lines)


_DONE = {
    "cancel": "cancelled",
    "retry": "retried",
    "reschedule": "rescheduled",
    "requeue": "requeued",
    "delete": "deleted",
}
_WHY = {
    "changed": "had changed by then",
    "locked": "are locked by somebody's transaction: try again",
    "key taken": "have a key that a live task has",
}


def _told(outcome: Outcome) -> str:
    parts = [f"{outcome.done:,} {_DONE[outcome.action]}"]
    if outcome.requested:
        parts.append(f"{outcome.requested:,} running asked to stop")
    parts += [f"{number:,} {_WHY[why]}" for why, number in sorted(outcome.skipped.items())]
    return ", ".join(parts)
