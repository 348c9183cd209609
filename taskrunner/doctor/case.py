"""What the checks of one examination share: whose database it is, how patient they are, and how they speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def statement(sql: str) -> str:
    """Return the command that says this to the database."""
    return f'psql "$DATABASE_URL" -c "{sql}"'
