"""A TCP proxy before a server that reads PostgreSQL's protocol, so that it can cut where it hurts.

Protocol 3.0 (https://www.postgresql.org/docs/current/protocol-message-formats.html): after one message without a type,
each has a type byte and a length. A faulty connection is chosen by the client's `application_name` and the text of its
statements. Clients connect with `sslmode=disable gssencmode=disable`, so that what passes can be read.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Self

Manner = Literal["before", "during", "after", "swallow", "late"]


@dataclass
class Rule:
    """What to do to which statements: `app` and `sql` are patterns, `share` the part of the matches that is hit, up to
    `most` of them.

    `before` cuts when the statement comes, `during` as soon as the server has it, `after` when the server has done it
    and says so (the reply is dropped), `swallow` lets nothing pass any more in either direction and cuts nothing,
    `late` cuts the client off and keeps the statement back until `Proxy.let_go()`, when the server gets it after all.
    """

    app: str
    sql: str
    manner: Manner
    share: float = 1.0
    most: float = float("inf")
    hits: int = 0

    def meets(self, app: str, sql: str, chance: Random) -> bool:
        """Whether this statement is to be hit."""
        if self.hits >= self.most or not re.search(self.app, app) or not re.search(self.sql, sql):
            return False
        if chance.random() >= self.share:
            return False
        self.hits += 1
        return True


@dataclass
class Pair:
    """One client's connection and the one to the server behind it."""

    client: StreamWriter
    server: StreamWriter
    app: str = ""
    prepared: dict[bytes, str] = field(default_factory=dict)
    silent: bool = False
    doomed: Manner | None = None
    kept: bytes = b""

    def cut(self) -> None:
        """Break both connections off, without a word to either side."""
        for end in (self.client, self.server):
            end.transport.abort()


class Proxy:
    """Listens on a free port of the loopback in a thread of its own; rules may change at any time."""

    def __init__(self, port: int | str, seed: int = 0) -> None:
        """Stand before the server that listens on `port` of the loopback, or on a socket of this path."""
        self.rules: list[Rule] = []
        self.port = 0
        self._to = port
        self._chance = Random(seed)  # noqa: S311 - no secret depends on it
        self._meetings: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._late = asyncio.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def hits(self) -> int:
        """Return how often a rule has struck."""
        return sum(rule.hits for rule in self.rules)

    def let_go(self) -> None:
        """Let the server have the statement that came late, and wait until it has done with it."""
        self._loop.call_soon_threadsafe(self._late.set)
        if not self._done.wait(30):
            raise TimeoutError("the server has not done with the late statement")

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for meeting in self._meetings:
            meeting.cancel()
        await asyncio.gather(*self._meetings, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._meetings.add(asyncio.create_task(self._meet(reader, writer)))

    async def _meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            from_server, to_server = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        pair = Pair(writer, to_server)
        both = [asyncio.ensure_future(self._up(reader, pair)), asyncio.ensure_future(self._down(from_server, pair))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            pair.cut()
            await asyncio.gather(*both, return_exceptions=True)

    async def _connect(self) -> tuple[StreamReader, StreamWriter]:
        if isinstance(self._to, str):
            return await asyncio.open_unix_connection(self._to)
        return await asyncio.open_connection("127.0.0.1", self._to)

    # ── client to server ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _up(self, reader: StreamReader, pair: Pair) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            length = await reader.readexactly(4)
            opening = await reader.readexactly(struct.unpack("!I", length)[0] - 4)
            pair.app = _application(opening)
            pair.server.write(length + opening)
            while True:
                kind, whole = await _message(reader)
                if not self._passes(kind, whole, pair):
                    return
                if pair.silent:
                    continue
                if pair.doomed == "late":
                    await self._keep_back(kind, whole, pair)
                    continue
                pair.server.write(whole)
                if pair.doomed == "during" and kind in (b"S", b"Q"):
                    await pair.server.drain()
                    return

    async def _keep_back(self, kind: bytes, whole: bytes, pair: Pair) -> None:
        pair.kept += whole
        if kind in (b"S", b"Q"):
            pair.client.transport.abort()
            await self._late.wait()
            pair.server.write(pair.kept)
            await asyncio.Event().wait()  # until `_down` has seen the reply

    def _passes(self, kind: bytes, whole: bytes, pair: Pair) -> bool:
        sql = _statement(kind, whole[5:], pair)
        for rule in self.rules if sql is not None and not pair.silent else ():
            if rule.meets(pair.app, sql or "", self._chance):
                match rule.manner:
                    case "before":
                        return False
                    case "swallow":
                        pair.silent = True
                    case manner:
                        pair.doomed = manner
        return True

    # ── server to client ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _down(self, reader: StreamReader, pair: Pair) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, whole = await _message(reader)
                if pair.silent:
                    continue
                if pair.doomed:
                    # ReadyForQuery is sent when the statement's effect is there, committed unless in a transaction.
                    if kind == b"Z":
                        if pair.doomed == "late":
                            self._done.set()
                        return
                    continue
                pair.client.write(whole)


async def _message(reader: StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


def _application(opening: bytes) -> str:
    words = opening[4:].split(b"\0")
    names = dict(zip(words[::2], words[1::2], strict=False))
    return names.get(b"application_name", b"").decode()


def _statement(kind: bytes, body: bytes, pair: Pair) -> str | None:
    """Return the text of the statement that this message asks the server to execute, if it does."""
    match kind:
        case b"Q":
            return body.rstrip(b"\0").decode()
        case b"P":
            name, sql, _ = body.split(b"\0", 2)
            pair.prepared[name] = sql.decode()
        case b"B":
            _, name, _ = body.split(b"\0", 2)
            return pair.prepared.get(name, "")
    return None
