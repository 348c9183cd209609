"""A network that swallows everything without closing anything: the half-open connection of a vanished peer."""

from __future__ import annotations

import asyncio
import socket

import psycopg


class Silencer:
    """A proxy before the server that can swallow everything without closing anything, until somebody gives up."""

    def __init__(self, url: str) -> None:
        told = psycopg.conninfo.conninfo_to_dict(url)
        self._host, self._port = str(told["host"]), told.get("port", "5432")
        self._told = told
        self.silent = False
        self.connections = 0
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        address = self._server.sockets[0].getsockname()
        return psycopg.conninfo.make_conninfo(**{**self._told, "host": address[0], "port": address[1]})

    async def __aenter__(self) -> Silencer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, family=socket.AF_INET)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._host.startswith("/"):
            path = f"{self._host}/.s.PGSQL.{self._port}"
            there = await asyncio.open_unix_connection(path)
        else:
            there = await asyncio.open_connection(self._host, int(str(self._port)))
        for source, target in ((reader, there[1]), (there[0], writer)):
            pipe = asyncio.create_task(self._pump(source, target))
            self._pipes.add(pipe)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.silent:
                    target.write(data)
                    await target.drain()
            self.silent = False
        finally:
            target.close()
