"""Wakes the browsers when something has changed: one look for all of them, and one LISTEN, while somebody watches.

A notification tells of work that has become pending, not of each end: so a cheap stamp is looked at too, every `TICK`.
Whoever is told asks for his page again. Nobody watching costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg

from taskrunner import channel, db
from taskrunner.api.door import Door
from taskrunner.backoff import Backoff
from taskrunner.db import Op, scalar
from taskrunner.errors import TaskrunnerError
from taskrunner.statements.pulse import STAMP
from taskrunner.store.task import CHANNEL

log = logging.getLogger("taskrunner.api")

TICK = 2.0
"""Seconds between two looks of a dashboard that nothing wakes."""

GAP = 1.0
"""Seconds between two words to the browsers at least, however much happens."""

MOST = 500
"""Browsers that are told at a time."""

_LOOK: Op[str] = Op(STAMP, {}, scalar)
_AWAY = "the database is away"
_FAILURES = (TaskrunnerError, psycopg.Error, TimeoutError, OSError)


class Pulse:
    """One a process; to be used from its loop alone."""

    def __init__(self, door: Door, url: str, *, listen: bool) -> None:
        """`listen` off: by looks alone, up to `TICK` seconds late."""
        self._door, self._url, self._listen = door, url, listen
        self._watchers: set[asyncio.Event] = set()
        self._bell = asyncio.Event()
        self._works: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._seen = ""  # the stamp of the last look, while somebody watches
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether there are as many watchers as there may be."""
        return len(self._watchers) >= MOST

    async def changes(self) -> AsyncIterator[None]:
        """Yield when something has changed, and once at first: nobody knows what has happened since the page was made.

        It ends with the pulse.
        """
        with self._watching() as told:
            while not self._closed:
                await told.wait()
                told.clear()
                if not self._closed:
                    yield

    def end(self) -> None:
        """Send the watchers away, at once and for good: a server waits for its responses before it stops."""
        self._closed = True
        self._tell()

    async def close(self) -> None:
        """Stop looking and listening."""
        self.end()
        self._rest()
        await asyncio.gather(*self._ending, return_exceptions=True)

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        told = asyncio.Event()
        self._watchers.add(told)
        if self._seen or self._closed:
            told.set()
        elif not self._works:
            self._start()
        try:
            yield told
        finally:
            self._watchers.discard(told)
            if not self._watchers:
                self._rest()

    def _start(self) -> None:
        works = [self._look_on(), self._hear()] if self._listen else [self._look_on()]
        self._works = [asyncio.create_task(work, name="taskrunner pulse") for work in works]

    def _rest(self) -> None:
        for task in self._works:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()
        self._works, self._seen = [], ""

    def _tell(self) -> None:
        for told in self._watchers:
            told.set()

    async def _look_on(self) -> None:
        """Tell of each change; that the database goes away is one, and that it comes back."""
        while True:
            woken, before = self._bell.is_set(), self._seen
            self._bell.clear()
            self._seen = await self._stamp()
            if woken or self._seen != before:
                self._tell()
            await asyncio.sleep(GAP)
            await _rung(self._bell, TICK - GAP)

    async def _stamp(self) -> str:
        try:
            return await self._door.run(lambda: _LOOK)
        except _FAILURES as error:
            log.debug("no look at what has changed: %s", error)
            return _AWAY
        except Exception:  # whoever watches must not be left without a word
            log.exception("no look at what has changed")
            return _AWAY

    async def _hear(self) -> None:
        backoff = Backoff()
        while True:
            with contextlib.suppress(*_FAILURES):  # looks go on
                await self._session(backoff)
            await asyncio.sleep(backoff.pause())

    async def _session(self, backoff: Backoff) -> None:
        conn = await db.aconnect(self._url, name="taskrunner api listen", prepare=False)
        try:
            await channel.ask(conn, channel.listen(CHANNEL))
            backoff.reset()
            while True:
                async for _ in conn.notifies(timeout=channel.CHECK):
                    self._bell.set()
                await channel.ask(conn, channel.ALIVE)
        finally:
            await channel.shut(conn.close())


async def _rung(bell: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
