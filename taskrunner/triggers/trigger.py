"""What every kind of trigger offers."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Trigger(Protocol):
    """A rule that yields due times; equal triggers have equal texts and zones."""

    @property
    def timezone(self) -> str: ...

    def first_after(self, instant: datetime) -> datetime | None:
        """Return the first due time of a schedule that is new at `instant`.

        An interval fires at once, so that is `instant` itself; all others answer later, or None if nothing is left.
        """

    def next_after(self, previous: datetime, instant: datetime) -> datetime | None:
        """Return the first due time later than both, on the grid that the due time `previous` lies on."""

    def text(self) -> str:
        """Return the canonical text, which `parse_text` reads back into an equal trigger."""

    def describe(self) -> str:
        """Return the rule for people."""
