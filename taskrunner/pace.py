"""How fast a runner's tasks end, and so how many claims it takes ahead of need."""

from __future__ import annotations

import time

_LEAD = 0.03  # seconds of work that is claimed ahead: a few round trips, so that the claim is off the tasks' path
_ENOUGH = 1000  # claims in our hands, beyond which none is taken ahead: two full cycles keep runner and server busy
_SAMPLE = 0.01  # seconds between two samples, at least
_MEMORY = 0.05  # seconds in which a rate is forgotten


class Pace:
    """Counts endings; exponentially smoothed rate over the last 50 ms."""

    def __init__(self) -> None:
        self._count = 0
        self._since = time.monotonic()
        self._rate = 0.0

    def ended(self) -> None:
        """Note that a run has ended."""
        self._count += 1

    def ahead(self, slots: int) -> int:
        """Return how many claims more than slots end in `_LEAD` at the present rate: none where tasks are long."""
        now = time.monotonic()
        span = now - self._since
        if span >= _SAMPLE:
            self._rate += (self._count / span - self._rate) * min(1.0, span / _MEMORY)
            self._count, self._since = 0, now
        return max(0, min(_ENOUGH - slots, int(self._rate * _LEAD)))
