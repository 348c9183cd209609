"""The answer to why a task is not running, and the task as it is asked about."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from taskrunner.states import State


class Why(BaseModel):
    """The answer for one task; `reason` is a stable name, as in `queue-paused`."""

    id: UUID
    state: State
    reason: str
    answer: str
    """One sentence."""
    facts: dict[str, Any] = {}
    """What the answer rests on."""
    commands: list[str] = []
    """What to do next, to be typed as it is; none where there is nothing to be done."""


class Task(NamedTuple):
    """A live task as the database sees it now; spans in seconds."""

    id: UUID
    type: str
    queue: str
    tenant: str
    state: str
    priority: int
    tries: int
    crashes: int
    max_retries: int
    maturity_at: datetime
    due_in: float
    claimed_ago: float | None
    started_ago: float | None
    deadline_in: float | None
    cancel_ago: float | None
    runner_id: UUID | None
    tick_at: datetime | None
    waits_for: int | None
    progress: Any
    fair: bool
    successor_id: UUID | None
    last_error: str | None

    def because(self, reason: str, answer: str, *commands: str, **facts: Any) -> Why:
        """Make the answer for this task; facts that are None are left out."""
        known = {"type": self.type, "queue": self.queue, **facts}
        kept = {name: value for name, value in known.items() if value is not None}
        return Why(
            id=self.id, state=State(self.state), reason=reason, answer=answer, facts=kept, commands=list(commands)
        )
