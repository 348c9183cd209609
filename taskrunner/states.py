"""The life of a task as data: every state, and every transition that is allowed between them.

The database's CHECK, the documentation's diagram and the tests are made from, or compared with, these tables.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a task is; the first three are live, the others terminal."""

    PENDING = "pending"
    RUNNING = "running"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    IGNORED = "ignored"
    CANCELLED = "cancelled"
    DEAD = "dead"


LIVE = (State.PENDING, State.RUNNING, State.BLOCKED)
HISTORY = (State.SUCCEEDED, State.IGNORED, State.CANCELLED)
TERMINAL = (*HISTORY, State.DEAD)


class Transition(NamedTuple):
    """One arrow of the diagram: `event` is what makes it happen, `effect` what it changes besides the state."""

    source: State
    event: str
    target: State
    effect: str = ""


TRANSITIONS = (
    Transition(State.PENDING, "claim", State.RUNNING, "claim_no + 1"),
    Transition(State.PENDING, "cancel", State.CANCELLED),
    Transition(State.BLOCKED, "parents succeeded", State.PENDING),
    Transition(State.BLOCKED, "cancel, or a parent is cancelled", State.CANCELLED),
    Transition(State.BLOCKED, "a parent is dead", State.DEAD),
    Transition(State.RUNNING, "succeed", State.SUCCEEDED),
    Transition(State.RUNNING, "ignore", State.IGNORED),
    Transition(State.RUNNING, "cancel", State.CANCELLED),
    Transition(State.RUNNING, "retry", State.PENDING, "tries + 1"),
    Transition(State.RUNNING, "snooze", State.PENDING),
    Transition(State.RUNNING, "release", State.PENDING),
    Transition(State.RUNNING, "rescue", State.PENDING, "crashes + 1 if it had started"),
    Transition(State.RUNNING, "out of retries", State.DEAD),
    Transition(State.RUNNING, "third crash", State.DEAD),
)


def diagram() -> str:
    """Return the transitions as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> pending: enqueue", "    [*] --> blocked: enqueue after others"]
    for source, event, target, effect in TRANSITIONS:
        lines.append(f"    {source} --> {target}: {event}" + (f" ({effect})" if effect else ""))
    lines += [f"    {state} --> [*]" for state in TERMINAL]
    return "\n".join(lines) + "\n"
