"""The parent of runners, schedulers and the API: it runs no user code, so nothing a task does can stop it.

It starts its children fresh (never by fork), sends the heartbeats of those that live and are not stopped, rescues
what a dead one has left at once, restarts it with growing pauses, and passes signals on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
from uuid_utils.compat import uuid7

from taskrunner.backoff import Backoff
from taskrunner.control import Line, settings_to_json
from taskrunner.db import Link, schema_name
from taskrunner.errors import ConfigError, TaskrunnerError
from taskrunner.leases import Rescuer, rescue_of
from taskrunner.parting import Drained, part
from taskrunner.recorder import Recorder
from taskrunner.settings import Settings
from taskrunner.store import runner as store
from taskrunner.store import task as task_store
from taskrunner.store.runner import Pulse

log = logging.getLogger("taskrunner.supervisor")

_FAILURES = (TaskrunnerError, psycopg.Error, OSError)
_NEVER_READY = 3  # deaths in a row before a child was ready: it never will be
_DEATHS, _WITHIN = 10, 60.0  # so many deaths in so many seconds: something is wrong with more than a task
_REPEAT = 0.3  # seconds: a signal that comes twice so soon came to the group and by `make`, not from a person
_LAST_RESORT = 15.0  # seconds beyond all of these until a drain that does not end is ended
_OVERTIME = 5.0  # seconds a child gets beyond the grace period before it is killed


class Child:
    """One child process of one kind, through all its lives."""

    def __init__(self, kind: str, place: int, settings: Settings, folder: Path) -> None:
        self.kind, self.place, self.name = kind, place, f"{kind} {place}" if place else kind
        self._settings = settings
        self._recorder_path = folder / f"{kind}-{place}"
        self.process: asyncio.subprocess.Process | None = None
        self.line: Line | None = None
        self.runner_id: UUID | None = None
        self.ready = False
        self.pulse = Pulse(UUID(int=0))
        self.drained = Drained()
        self.recorder: Recorder | None = None

    async def start(self) -> None:
        """Start a fresh process and tell it how to run. Raises: OSError when the system has no room for it."""
        self.ready, self.runner_id, self.drained = False, None, Drained()
        ours, theirs = socket.socketpair()
        with theirs:
            loop = "uvloop" if self._settings.uvloop else "asyncio"
            command = [sys.executable, "-m", "taskrunner.child", self.kind, str(theirs.fileno()), loop]
            # A session of its own: the terminal's Ctrl-C comes to the supervisor alone, which passes it on once.
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], start_new_session=True, stdin=asyncio.subprocess.DEVNULL
                )
            except BaseException:
                ours.close()
                raise
        self.line = await Line.over(ours)
        hello: dict[str, Any] = {
            "settings": settings_to_json(self._settings),
            "origins": self._settings.origins(),
            "schema": schema_name(),
            "place": self.place,
        }
        if self.kind == "runner":
            self.runner_id, slots = uuid7(), self._settings.concurrency + self._settings.stray_limit
            self.recorder = Recorder(self._recorder_path, slots)
            self.recorder.clear()
            hello |= {"runner_id": str(self.runner_id), "recorder": str(self._recorder_path), "slots": slots}
        self.line.say("hello", **hello)
        log.debug("%s started as pid %d", self.name, self.process.pid)

    async def listen(self) -> None:
        """Take the child's messages until it hangs up."""
        assert self.line is not None  # noqa: S101 - called after start
        async for message in self.line.messages():
            if message["kind"] == "joined":
                self.ready = True
                if message["id"] is not None:
                    self.runner_id = UUID(message["id"])
            elif message["kind"] == "pulse" and self.runner_id is not None:
                self.pulse = Pulse(self.runner_id, message["running"], message["strays"])
            elif message["kind"] == "drained":
                self.drained = Drained(message["ended"], message["released"])

    def beats(self) -> bool:
        """Whether its heart is to be beaten for: a runner that has joined, lives and is not stopped."""
        if self.kind != "runner" or not self.ready or self.process is None:
            return False
        try:
            status = psutil.Process(self.process.pid).status()
        except psutil.Error:
            return False
        return status not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)

    def send(self, number: int) -> None:
        """Pass a signal on, if the process is there."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def hang_up(self) -> None:
        """Close what belonged to the process that ended."""
        if self.line is not None:
            self.line.close()


class Supervisor:
    """Keeps children of the given kinds alive until a signal comes, or one of them cannot be kept alive."""

    def __init__(self, kinds: Iterable[str], settings: Settings, url: str) -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="taskrunner-"))
        self._children = [
            Child(kind, place, settings, self._folder)
            for kind in kinds
            for place in range(settings.processes if kind == "runner" else 1)
        ]
        self._link = Link(url, name="taskrunner supervisor", prepare=settings.prepare)
        self._aside = Link(url, name="taskrunner supervisor rescue", prepare=settings.prepare)
        self._stopping = asyncio.Event()
        self._asked_at = 0.0
        self._forced = False
        self._died = asyncio.Event()  # a child has died, or somebody's lease has ended, as a heartbeat has told
        self._code = 0

    async def run(self) -> int:
        """Start the children, keep them, drain them; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        helpers = [asyncio.create_task(self._beat_on())]
        if any(child.kind == "runner" for child in self._children):
            helpers.append(asyncio.create_task(self._rescue_on()))
        try:
            await asyncio.gather(*(self._keep(child) for child in self._children))
            self._tell_drained()
        finally:
            await part(helpers)
            await self._link.close()
            await self._aside.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # all is drained: one that comes now must not spoil the exit code
        return self._code

    def stop(self) -> None:
        """Drain the children; when asked again, make them leave at once."""
        now = time.monotonic()
        if self._stopping.is_set():
            if now - self._asked_at < _REPEAT:
                return
            self._forced = True
        else:
            log.info("draining; a second signal releases the running tasks at once")
            asyncio.get_running_loop().call_later(self._settings.grace.total_seconds() + _LAST_RESORT, _leave_stuck)
        self._asked_at = now
        self._stopping.set()
        for child in self._children:
            child.send(signal.SIGTERM)

    def _tell_drained(self) -> None:
        runners = [child for child in self._children if child.kind == "runner"]
        total = Drained(sum(one.drained.ended for one in runners), sum(one.drained.released for one in runners))
        log.info("drained: %s" if runners else "drained", *([total] if runners else []))

    def _give_up(self, code: int) -> None:
        self._code = self._code or code
        if not self._stopping.is_set():
            self.stop()

    # ── one child ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, child: Child) -> None:
        """Start the child again and again, until we stop or it dies too often."""
        backoff, stillborn, deaths = Backoff(0.1, 30.0), 0, deque[float](maxlen=_DEATHS)
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(child)
            if self._stopping.is_set():
                break
            if time.monotonic() - began > _WITHIN:
                backoff.reset()
            stillborn = 0 if child.ready else stillborn + 1
            deaths.append(time.monotonic())
            if self._hopeless(code, stillborn, deaths):
                verb = "cannot start" if stillborn else "keeps dying"
                log.error("%s %s (%s): stopping", child.name, verb, _manner(code))
                self._give_up(1)
                break
            pause = 0.0 if code == 0 else backoff.pause()
            log.warning("%s ended (%s); starting it again in %.1f s", child.name, _manner(code), pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _hopeless(self, code: int, stillborn: int, deaths: deque[float]) -> bool:
        if code == ConfigError.exit_code and stillborn:
            return True
        often = len(deaths) == _DEATHS and time.monotonic() - deaths[0] < _WITHIN
        return stillborn >= _NEVER_READY or often

    async def _live(self, child: Child) -> int:
        """One life of a child, from its start to the rescue of what it left."""
        try:
            await child.start()
        except OSError as error:
            child.send(signal.SIGKILL)
            child.hang_up()
            log.error("%s cannot be started: %s; raise the limit it names, or start fewer processes", child.name, error)
            return 1
        if self._stopping.is_set():  # the signal came while it was being started
            child.send(signal.SIGTERM)
        listening = asyncio.create_task(child.listen())
        code = await self._wait(child)
        with suppress(TimeoutError):  # what it said last; a grandchild may hold the line open
            await asyncio.wait_for(listening, 0.2)
        child.hang_up()
        await self._clear_up(child, code)
        return code

    async def _wait(self, child: Child) -> int:
        """Wait for its end; once we stop, no longer than the grace period and some seconds."""
        assert child.process is not None  # noqa: S101 - called after start
        ended = asyncio.create_task(child.process.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=0.1 if self._stopping.is_set() else 1.0)
            if self._stopping.is_set() and not ended.done() and time.monotonic() > self._patience():
                log.warning("%s does not end: killing it", child.name)
                child.send(signal.SIGKILL)
                await ended
        return ended.result()

    def _patience(self) -> float:
        grace = 0.0 if self._forced else self._settings.grace.total_seconds()
        return self._asked_at + grace + (0.9 if self._forced else _OVERTIME)

    async def _clear_up(self, child: Child, code: int) -> None:
        """Rescue at once what a dead runner has left; one that we killed at the end of a drain is not to blame."""
        if child.runner_id is None or not child.ready:
            return
        started = child.recorder.running() if child.recorder is not None else []
        with suppress(*_FAILURES, TimeoutError):
            async with asyncio.timeout(0.5 if self._stopping.is_set() else 5.0):
                if self._stopping.is_set() and code != 0:
                    released = await self._link.run(task_store.release_unknown(child.runner_id, ()))
                    child.drained = child.drained.plus(0, len(released))
                await rescue_of(self._link.run, child.runner_id, started, self._settings.crash_limit)
                self._died.set()  # a claim of the child's may still be on its way

    # ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _beat_on(self) -> None:
        """Beat for all children in one statement; sooner again after a failure, since the leases go on running out."""
        every = self._settings.heartbeat.total_seconds()
        while True:
            try:
                await self._beat()
                await asyncio.sleep(every)
            except _FAILURES as error:
                log.warning("heartbeat failed: %s", error)
                await asyncio.sleep(min(1.0, every))

    async def _beat(self) -> None:
        children = {child.runner_id: child for child in self._children if child.runner_id and child.beats()}
        if not children:
            return
        asked_at = time.monotonic()
        pulses = [child.pulse._replace(id=id_) for id_, child in children.items()]
        beaten = await self._link.run(store.beat(pulses, self._settings.lease))
        if beaten.died:
            self._died.set()
        for id_, child in children.items():
            if child.line is not None:
                kind = "beat" if id_ in beaten.alive else "lost"
                child.line.say(kind, id=str(id_), asked_at=asked_at)

    async def _rescue_on(self) -> None:
        """Take back what other supervisors' dead runners have left, when a heartbeat has told that there is any.

        On a connection of its own, made for it: a heartbeat must not wait for a long rescue.
        """
        rescuer = Rescuer(self._aside.run, self._settings.crash_limit)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._died.wait(), self._settings.heartbeat.total_seconds())
            died = self._died.is_set()
            self._died.clear()
            try:
                await rescuer.round(died=died)
                await self._aside.close()
            except _FAILURES as error:
                log.debug("rescue failed: %s", error)


def _leave_stuck() -> None:
    """Say where a drain hangs that should have ended long ago, and leave: the children are gone or orphans by now."""
    stacks = [task.get_stack(limit=1) for task in asyncio.all_tasks()]
    places = [f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" for frames in stacks if frames]
    log.error("the drain does not end, leaving; it waits at %s", ", ".join(places))
    logging.shutdown()
    os._exit(1)


def _manner(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def supervise(kinds: Iterable[str], settings: Settings, url: str) -> int:
    """Run children of these kinds (`runner`, `scheduler`, `api`) until a signal comes; returns the exit code.

    The settings' `processes` says how many runners. 0: drained; 1: a child could not be kept alive.
    """
    return asyncio.run(Supervisor(kinds, settings, url).run())
