"""What the checks of one examination share: whose database it is, how patient they are, and how they speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from taskrunner.db import Steps
from taskrunner.doctor.values import Finding, Unseen
from taskrunner.settings import Settings

SHOWN = 5
"""Lines of evidence of one kind: what else there is, is counted."""

OVERDUE = timedelta(seconds=30)
"""How late a tick or a rescue is at least before it counts as missing: a scheduler looks every second or two."""


@dataclass
class Case:
    """One examination."""

    settings: Settings
    url: str
    patience: timedelta = timedelta(minutes=5)
    """How long a transaction, a pause or a wait may take before it is worth a word."""
    overdue: timedelta = OVERDUE
    unseen: list[Unseen] = field(default_factory=list)

    @property
    def patient_seconds(self) -> float:
        """The patience, in seconds."""
        return self.patience.total_seconds()


class Check(NamedTuple):
    """One question: `look` yields statements of one transaction and returns what is wrong.

    Without `schema` it is asked also where the schema is missing or too old.
    """

    name: str
    look: Callable[[Case], Steps[list[Finding]]]
    schema: bool = True


def shown(lines: Iterable[str]) -> list[str]:
    """Return the first lines, and how many there are more."""
    every = list(lines)
    more = len(every) - SHOWN
    return [*every[:SHOWN], f"and {more} more"] if more > 0 else every


def span(seconds: float | None) -> str:
    """Say how long something takes: `12 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds is None:
        return "an unknown time"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if abs(seconds) < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if abs(seconds) >= 10 else f"{seconds:.1f} s"


def some(count: int, noun: str, plural: str = "", *, bound: int | None = None) -> str:
    """Say how many of something there are; a count that was bounded is one of at least so many."""
    least = "at least " if bound is not None and count >= bound else ""
    return f"{least}{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in a line, the first few."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def statement(sql: str) -> str:
    """Return the command that says this to the database."""
    return f'psql "$DATABASE_URL" -c "{sql}"'
