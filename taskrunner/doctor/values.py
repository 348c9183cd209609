"""What an examination finds, as values for the command line, the API and the dashboard."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Finding(BaseModel):
    """Something that is wrong, or worth knowing; `id` is a stable name, as in `xmin-pinned`."""

    id: str
    severity: Severity
    summary: str
    """What is the matter, in one sentence."""
    evidence: list[str] = []
    """What was seen: names, figures, ages; a line each."""
    consequence: str
    """What comes of it."""
    remedy: str
    """What to do, in one sentence."""
    commands: list[str] = []
    """What mends it, to be typed as it is."""


class Unseen(BaseModel):
    """A check that could not be made, or saw only a part, and why."""

    check: str
    reason: str


class Report(BaseModel):
    """One examination; `healthy` unless something is an error or a warning."""

    healthy: bool
    examined_at: datetime
    """By the clock of the machine that examined."""
    seconds: float
    findings: list[Finding]
    """The worst first."""
    checks: list[str]
    """Every check that was made."""
    unseen: list[Unseen]
