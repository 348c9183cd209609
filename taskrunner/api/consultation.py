"""The doctor's report for those who ask by HTTP: made in a thread, and kept for a while, however many ask."""

from __future__ import annotations

import asyncio
import time

from taskrunner.doctor import Report, examine
from taskrunner.settings import Settings

KEPT = 10.0
"""Seconds that a report is good for: it takes some thirty statements and three connections."""


class Consultation:
    """One report at a time; who asks meanwhile is given the same."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url, self._settings = url, settings
        self._turn = asyncio.Lock()
        self._report: Report | None = None
        self._made_at = 0.0

    async def report(self, *, fresh: bool = False) -> Report:
        """Return a report that is no older than `KEPT`; a `fresh` one is made after the question."""
        asked_at = time.monotonic()
        async with self._turn:
            good_from = asked_at if fresh else asked_at - KEPT
            if self._report is None or self._made_at < good_from:
                self._made_at = time.monotonic()
                self._report = await asyncio.to_thread(examine, self._url, self._settings)
            return self._report
