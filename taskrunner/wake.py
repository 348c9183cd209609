"""What tells a runner that there may be work, or that a task is to be stopped: NOTIFY on a connection of its own.

NOTIFY is a hint, never required: the runner polls as well. A connection that dies, or goes silent without dying, is
noticed within `channel.CHECK` seconds, because the listener asks the server something that often. The connection bears
the runner's id in its name, so that `doctor` sees which runner has none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

import psycopg
from psycopg.sql import SQL

from taskrunner import channel, db, events
from taskrunner.backoff import Backoff
from taskrunner.errors import TaskrunnerError
from taskrunner.store.steering import CANCEL_CHANNEL
from taskrunner.store.task import CHANNEL, Hint, hint

log = logging.getLogger("taskrunner.wake")

# The sign of life.
_NAME = SQL("SET application_name = {}")


class Listener:
    """Listens until cancelled, reconnecting with growing pauses; calls back on the loop."""

    def __init__(
        self, url: str, *, who: Callable[[], UUID], on_due: Callable[[Hint], None], on_cancel: Callable[[UUID], None]
    ) -> None:
        """`on_due(hint)`: a task is pending, see `Hint`; `on_cancel(id)`: stop this task; `who()`: the runner's id."""
        self._url, self._who, self._on_due, self._on_cancel = url, who, on_due, on_cancel
        self.connected = asyncio.Event()

    async def listen(self) -> None:
        """Listen for ever."""
        backoff = Backoff()
        while True:
            try:
                await self._session(backoff.reset)
            except (TaskrunnerError, psycopg.Error, TimeoutError, OSError) as error:
                log.warning("the LISTEN connection was lost (%s): polling until it is back", error)
            finally:
                self.connected.clear()
            await asyncio.sleep(backoff.pause())

    async def _session(self, connected: Callable[[], None]) -> None:
        conn = await db.aconnect(self._url, name=f"taskrunner listen {self._who()}", prepare=False)
        try:
            for name in (CHANNEL, CANCEL_CHANNEL):
                await channel.ask(conn, channel.listen(name))
            connected()
            self.connected.set()
            events.emit(events.Listening, conn.info.backend_pid)
            while True:
                async for notify in conn.notifies(timeout=channel.CHECK):
                    self._heed(notify)
                await channel.ask(conn, _NAME.format(f"taskrunner listen {self._who()}"))  # it may have joined anew
        finally:
            await channel.shut(conn.close())

    def _heed(self, notify: psycopg.Notify) -> None:
        """A payload that we cannot read is somebody else's: it only says that something may have happened."""
        try:
            if notify.channel == db.in_schema(CANCEL_CHANNEL):
                self._on_cancel(UUID(notify.payload))
            else:
                self._on_due(hint(notify.payload))
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("a notification on %s cannot be read: %.80r", notify.channel, notify.payload)
