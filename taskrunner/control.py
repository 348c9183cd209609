"""The line between a supervisor and its child: JSON messages over a socket pair, one a line.

Down go `hello` (how to run), `beat` (the lease was extended) and `lost` (it was not); up go `joined` (a runner's id)
and `pulse` (how busy it is). The end of the line means the other side is dead.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from taskrunner.settings import Settings
from taskrunner.settings.tokens import Token

_LONGEST = 1 << 20


class Line:
    """One end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """Take over one end of a socket pair."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LONGEST))

    def say(self, kind: str, **values: Any) -> None:
        """Send a message; what cannot be sent any more is dropped, since the other side is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **values}).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages until the other side is gone."""
        while True:
            try:
                line = await self._reader.readline()
            except OSError:
                return
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Return the settings as a child can rebuild them; secrets are in clear, for a private socket only."""
    return {name: _plain(getattr(settings, name)) for name in type(settings).model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Token):
        return f"{value.name}:{value.scope}:{value.secret.get_secret_value()}"
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
