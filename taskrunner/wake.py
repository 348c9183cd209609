"""What tells a runner that there may be work, or that a task is to be stopped: NOTIFY on a connection of its own.

NOTIFY is a hint, never required: the runner polls as well. A connection that dies, or goes silent without dying, is
noticed within `CHECK` seconds, because the listener asks the server something that often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg

from taskrunner import db, events
from taskrunner.backoff import Backoff
from taskrunner.errors import TaskrunnerError
from taskrunner.store.steering import CANCEL_CHANNEL
from taskrunner.store.task import CHANNEL, Hint, hint

log = logging.getLogger("taskrunner.wake")

CHECK = 7.0
"""Seconds between two signs of life that the listener asks for; as long again until silence counts as death."""


class Listener:
    """Listens until cancelled, reconnecting with growing pauses; calls back on the loop."""

    def __init__(self, url: str, *, on_due: Callable[[Hint], None], on_cancel: Callable[[UUID], None]) -> None:
        """`on_due(hint)`: a task is pending, see `Hint`; `on_cancel(id)`: stop this task."""
        self._url, self._on_due, self._on_cancel = url, on_due, on_cancel
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
        conn = await db.aconnect(self._url, name="taskrunner listen", prepare=False)
        try:
            for channel in (CHANNEL, CANCEL_CHANNEL):
                await _ask(conn, psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(db.in_schema(channel))))
            connected()
            self.connected.set()
            events.emit(events.Listening, conn.info.backend_pid)
            while True:
                async for notify in conn.notifies(timeout=CHECK):
                    self._heed(notify)
                await _ask(conn, psycopg.sql.SQL("SELECT 1"))
        finally:
            await _shut(conn.close())

    def _heed(self, notify: psycopg.Notify) -> None:
        """A payload that we cannot read is somebody else's: it only says that something may have happened."""
        try:
            if notify.channel == db.in_schema(CANCEL_CHANNEL):
                self._on_cancel(UUID(notify.payload))
            else:
                self._on_due(hint(notify.payload))
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("a notification on %s cannot be read: %.80r", notify.channel, notify.payload)


async def _ask(conn: psycopg.AsyncConnection[Any], query: psycopg.sql.SQL | psycopg.sql.Composed) -> None:
    """Execute; a server that does not answer within `CHECK` is hung up on, and the statement fails.

    To cancel it instead would make psycopg wait 5 s more, for the silent server's word on the cancel.
    """
    asking = asyncio.ensure_future(conn.execute(query))
    try:
        await asyncio.wait({asking}, timeout=CHECK)
    finally:
        if not asking.done():
            db.hang_up(conn)
        await asyncio.gather(asking, return_exceptions=True)  # its error is known, also where a cancel is what we raise
    await asking


async def _shut(closing: Awaitable[None]) -> None:
    """A half-open connection may not let itself be closed: it is left to the garbage collector then."""
    try:
        await asyncio.wait_for(closing, 1.0)
    except (TimeoutError, psycopg.Error):
        log.debug("a LISTEN connection could not be closed in time")
