"""What listens by LISTEN has in common: to ask a server that may have fallen silent, and to leave it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from taskrunner import db

log = logging.getLogger("taskrunner.channel")

CHECK = 7.0
"""Seconds between two signs of life that a listener asks for; as long again until silence counts as death."""

ALIVE = SQL("SELECT 1")


def listen(channel: str) -> Composed:
    """Return the statement that listens to a channel of the schema that this process works in."""
    return SQL("LISTEN {}").format(Identifier(db.in_schema(channel)))


async def ask(conn: psycopg.AsyncConnection[Any], query: SQL | Composed) -> None:
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


async def shut(closing: Awaitable[None]) -> None:
    """A half-open connection may not let itself be closed: it is left to the garbage collector then."""
    try:
        await asyncio.wait_for(closing, 1.0)
    except (TimeoutError, psycopg.Error):
        log.debug("a LISTEN connection could not be closed in time")
