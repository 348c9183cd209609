"""The web server, inside an event loop and a process that somebody else runs."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from taskrunner.api.app import create_app
from taskrunner.errors import ConfigError
from taskrunner.registry import Registry
from taskrunner.settings import Settings

log = logging.getLogger("taskrunner.api")


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the process it is in, and says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._listening()


async def serve(
    settings: Settings,
    registry: Registry,
    url: str,
    stop: asyncio.Event,
    *,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Serve the API until `stop` is set; requests then under way get the grace period.

    `listening` is called with the address, as in `http://127.0.0.1:8000`, once it answers.
    Raises: `ConfigError` when the address cannot be had.
    """
    sock = _bind(settings.api_host, settings.api_port)
    address = _address(sock)

    def tell() -> None:
        log.info("the API listens on %s", address)
        if listening is not None:
            listening(address)

    app = create_app(settings, registry, url)
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace.total_seconds())),
    )
    await _run(_Server(config, tell), sock, stop, app.state.pulse.end)


async def _run(server: _Server, sock: socket.socket, stop: asyncio.Event, hush: Callable[[], None]) -> None:
    stopping = asyncio.create_task(_obey(server, stop, hush))
    try:
        await server.serve(sockets=[sock])
    finally:
        stopping.cancel()
        sock.close()


async def _obey(server: _Server, stop: asyncio.Event, hush: Callable[[], None]) -> None:
    """`hush` ends the responses that would not end by themselves."""
    await stop.wait()
    server.should_exit = True
    hush()


def _bind(host: str, port: int) -> socket.socket:
    """uvicorn would leave by SystemExit where the port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)  # localhost: 127.0.0.1
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(place[:2], family=family, backlog=2048, dualstack_ipv6=dual)
    except OSError as error:
        raise ConfigError(f"the API cannot listen on {host} port {port}: {_remedied(error)}") from error


def _remedied(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "it is taken, perhaps by another `taskrunner start`: choose another by --port or TASKRUNNER_API_PORT"
    reason = (error.strerror or str(error)).partition(" (while ")[0]  # what create_server adds names it again
    return f"{reason}: set TASKRUNNER_API_HOST and TASKRUNNER_API_PORT"


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
