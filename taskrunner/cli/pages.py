"""A list for a person: page after page, until it is long enough, at its end, or has taken too long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from taskrunner.cli.session import Session, talk

if TYPE_CHECKING:
    from taskrunner.db import Steps
    from taskrunner.reads import Page, TaskFilter, TaskView

T = TypeVar("T", bound="TaskView")

PATIENCE = 20.0  # s
MOST = 2_000_000  # rows that one page looks at: some 300 ms
GROWTH = 4


class Lister(Protocol[T]):
    """A read that gives one page."""

    def __call__(self, wanted: TaskFilter, *, room: int) -> Steps[Page[T]]:
        """Return a page that has looked at `room` rows at most."""
        ...


def listed(session: Session, lister: Lister[T], wanted: TaskFilter) -> list[T]:
    """Return up to `limit` tasks, and say where to go on when there may be more."""
    from taskrunner.reads import ROOM

    found: list[T] = []
    room, end = ROOM, time.monotonic() + PATIENCE
    while True:
        page = session.run(lister(wanted, room=room))
        found += page.items
        missing = wanted.limit - len(page.items)
        if page.next is None:
            return found
        if not missing:
            talk(f"there may be more: --after {page.next}")
            return found
        if time.monotonic() > end:
            talk(f"not all was looked at in {PATIENCE:g} s, go on with: --after {page.next}")
            return found
        wanted = wanted.model_copy(update={"after": page.next, "limit": missing})
        room = min(room * GROWTH, MOST)
