"""How long history is kept: one time for all, others for a queue, a state, or a state in a queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

ANY = "*"


class Rule(NamedTuple):
    """Rows of a queue and a state, None for every one, and whether they may go."""

    queue: str | None
    state: str | None
    may_go: bool


@dataclass(frozen=True)
class Keeping:
    """What the settings say: `others` by selector, as in `mail`, `mail/ignored` and `*/ignored`."""

    usual: timedelta
    others: Mapping[str, timedelta] = field(default_factory=dict)

    @property
    def shortest(self) -> timedelta:
        """The age up to which nothing may go."""
        return min([self.usual, *self.others.values()])

    @property
    def longest(self) -> timedelta:
        """The age from which everything may go."""
        return max([self.usual, *self.others.values()])

    def rules(self, age: timedelta) -> list[Rule]:
        """Say what may go of rows of this age or older; the first rule that fits a row counts, the last fits all."""
        chosen = [Rule(*_parts(selector), may_go=age >= kept) for selector, kept in self.others.items()]
        # A state in a queue before a queue before a state.
        chosen.sort(key=lambda rule: (rule.queue is None, rule.state is None))
        return [*chosen, Rule(None, None, age >= self.usual)]


def _parts(selector: str) -> tuple[str | None, str | None]:
    queue, _, state = selector.partition("/")
    return None if queue == ANY else queue, state or None


def described(rules: list[Rule]) -> str:
    """Return the rules as a line; equal lines mean the same."""
    return " ".join(f"{rule.queue or ANY}/{rule.state or ANY}={'go' if rule.may_go else 'stay'}" for rule in rules)
