"""A supervisor's child: a runner, a scheduler or the API in a fresh process, `python -m taskrunner.child KIND FD LOOP`.

It drains at SIGTERM or SIGINT, and when its supervisor is gone; a second signal makes it leave at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from taskrunner import access, logs, redaction, traces
from taskrunner.control import Line
from taskrunner.db import use_schema
from taskrunner.errors import TaskrunnerError
from taskrunner.recorder import Recorder
from taskrunner.registry import Registry, discover
from taskrunner.settings import Settings

log = logging.getLogger("taskrunner.child")


class Service(Protocol):
    """What a child does for a living."""

    async def run(self) -> int:
        """Work until stopped; returns the number of threads that nothing can end."""

    def stop(self) -> None:
        """Drain; a second call: leave at once."""

    def heed(self, message: dict[str, Any]) -> None:
        """Take a message of the supervisor's."""


def main(kind: str, handle: int, loop: str) -> int:
    """Run the service `kind` with the supervisor at the other end of socket `handle`; returns the exit code.

    On uvloop if `loop` says so and it is installed, else on asyncio's own event loop.
    """
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        return runner.run(_talk(kind, socket.socket(fileno=handle)))


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop != "uvloop":
        return None
    try:
        import uvloop
    except ImportError:  # where there is no build of it: Windows, PyPy, a very new Python
        return None
    return uvloop.new_event_loop


async def _talk(kind: str, end: socket.socket) -> int:
    line = await Line.over(end)
    messages = line.messages()
    hello = await anext(messages)
    settings = Settings(**hello["settings"])
    settings.remember(hello["origins"])
    use_schema(hello["schema"])
    redaction.use(settings.redact)
    traces.use(settings.traces)
    logs.configure(settings.log_level, settings.log_format, keep=settings.task_log if kind == "runner" else None)
    try:
        registry = discover(settings.project, settings.tasks)
        settle_memory()
        with access.database(settings) as way:
            service = _SERVICES[kind](settings, registry, way.url, _Tie(line, hello))
            strays = await _serve(service, messages)
    except TaskrunnerError as error:
        log.error("%s: %s", kind, error)
        return error.exit_code
    if strays:
        _leave_now(strays)
    return 0


def settle_memory() -> None:
    """What has been imported stays: to look through it for garbage cost a fifth of a busy runner's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _serve(service: Service, messages: Any) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    listening = asyncio.create_task(_heed_supervisor(service, messages))
    try:
        return await service.run()
    finally:
        listening.cancel()


async def _heed_supervisor(service: Service, messages: Any) -> None:
    async for message in messages:
        service.heed(message)
    log.warning("the supervisor is gone: draining")
    service.stop()


def _leave_now(strays: int) -> None:
    """Threads of released tasks still run; they must not, once the tasks may run elsewhere."""
    log.warning("leaving at once: threads of stopped tasks still run (%d)", strays)
    logging.shutdown()
    os._exit(0)


@dataclass(frozen=True, slots=True)
class _Tie:
    line: Line
    hello: dict[str, Any]


class _RunnerService:
    def __init__(self, settings: Settings, registry: Registry, url: str, tie: _Tie) -> None:
        from taskrunner.runner import Runner, Ties

        self._line, self._settings, self._place = tie.line, settings, tie.hello["place"]
        ties = Ties(
            runner_id=UUID(tie.hello["runner_id"]),
            recorder=Recorder(Path(tie.hello["recorder"]), tie.hello["slots"]),
            beaten=True,
            rejoined=lambda id_: tie.line.say("joined", id=str(id_)),
        )
        self._runner = Runner(url, registry, settings, ties)
        self.stop: Callable[[], None] = self._runner.stop

    async def run(self) -> int:
        telling = asyncio.create_task(self._tell())
        try:
            with self._metered():
                strays = await self._runner.run()
            self._line.say("drained", ended=self._runner.drained.ended, released=self._runner.drained.released)
            return strays
        finally:
            telling.cancel()

    def _metered(self) -> AbstractContextManager[object]:
        if self._settings.metrics_port is None:
            return nullcontext()
        from taskrunner.meter import metered

        return metered(self._runner, self._settings, self._place)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            pulse = self._runner.pulse()
            self._line.say("pulse", running=pulse.running, strays=pulse.strays)

    def heed(self, message: dict[str, Any]) -> None:
        if message.get("id") != str(self._runner.id):
            return  # it speaks of an earlier life
        if message["kind"] == "beat":
            self._runner.lease.extended(message["asked_at"])
        elif message["kind"] == "lost":
            self._runner.lose_lease()


class _SchedulerService:
    def __init__(self, settings: Settings, registry: Registry, url: str, tie: _Tie) -> None:
        from taskrunner.scheduler import Scheduler

        self._scheduler = Scheduler(url, registry, settings)
        self._line = tie.line
        self.stop: Callable[[], None] = self._scheduler.stop

    async def run(self) -> int:
        self._line.say("joined", id=None)
        await self._scheduler.run()
        return 0

    def heed(self, message: dict[str, Any]) -> None:
        del message  # a scheduler beats by itself


class _ApiService:
    def __init__(self, settings: Settings, registry: Registry, url: str, tie: _Tie) -> None:
        from taskrunner.api.server import serve

        self._stop = asyncio.Event()
        self._serving: Coroutine[Any, Any, None] = serve(
            settings, registry, url, self._stop, listening=lambda _: tie.line.say("joined", id=None)
        )

    async def run(self) -> int:
        await self._serving
        return 0

    def stop(self) -> None:
        self._stop.set()

    def heed(self, message: dict[str, Any]) -> None:
        del message  # the API holds no lease


_SERVICES: dict[str, Callable[[Settings, Registry, str, _Tie], Service]] = {
    "runner": _RunnerService,
    "scheduler": _SchedulerService,
    "api": _ApiService,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
