"""The pauses between attempts to reach a database that is away: growing, bounded, and spread by chance."""

from __future__ import annotations

import random


class Backoff:
    """Pauses from `first` to `cap` seconds, doubled each time, with full jitter over the upper half.

    The jitter keeps thirty processes that lost one server from coming back in one instant.
    """

    def __init__(self, first: float = 0.1, cap: float = 5.0) -> None:
        self._first, self._cap = first, cap
        self._next = first

    def pause(self) -> float:
        """Return the next pause in seconds."""
        pause, self._next = self._next, min(self._next * 2, self._cap)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it

    def reset(self) -> None:
        """Start again from the first pause: the database answered."""
        self._next = self._first
