"""`self.context` in a child process: plain values of its run, and a line to the runner for the rest."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from taskrunner import events
from taskrunner.durations import as_delay
from taskrunner.errors import LeaseLost, TaskrunnerError
from taskrunner.executors.childlink import Link, RequestRefused
from taskrunner.once import called, checked_key, on_a_loop, written
from taskrunner.outcome import Succeeded, classify
from taskrunner.progress import checked
from taskrunner.runlog import FieldLogger
from taskrunner.task import Parent
from taskrunner.veil import NONE


class ChildContext:
    """The Context of a task in a child process; once the run has ended, it says nothing more to the runner.

    From `info`: `id`, `queue`, `tenant`, `priority`, `claim_no`, and if known `deadline`, `started_at`, `meta`, `type`.
    """

    cancelled = False  # a cancelled child is killed: it never gets to look

    def __init__(self, info: Mapping[str, Any], link: Link) -> None:
        self.id: UUID = info["id"]
        self.queue: str = info["queue"]
        self.tenant: str = info["tenant"]
        self.priority: int = info["priority"]
        self.claim_no: int = info["claim_no"]
        self.deadline: datetime | None = info.get("deadline")
        self.meta: dict[str, Any] = dict(info.get("meta") or {})
        self._type = info.get("type", "")
        self._tries: int = info.get("tries", 0)
        self.veil = NONE  # over the task's secrets, if it has any
        self._started_at: datetime = info.get("started_at") or datetime.now(UTC)
        self._began = time.monotonic()
        self._link = link
        self._ended = False
        self._unit: Any = None

    @cached_property
    def logger(self) -> logging.LoggerAdapter[Any]:
        """A logger whose records carry the task's id and type."""
        extra = {"task_id": str(self.id), "task_type": self._type, "task_try": self._tries + 1}
        return FieldLogger(logging.getLogger("taskrunner.task"), extra)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show people how far the task is."""
        self._tell("progress", checked(done, total, message))

    def extend(self, delay: timedelta | float) -> None:
        """Move the deadline: the task has this much time from now on."""
        more = as_delay(delay, "extend")
        # By the clock that the deadline goes by, so now is the start as the runner saw it and the time since.
        now = self._started_at + timedelta(seconds=time.monotonic() - self._began)
        self._tell("extend", {"seconds": more.total_seconds()})
        self.deadline = now + more

    def run_once(self, key: str, fn: Callable[[], Any]) -> Any:
        """Return what `fn` returned when it first succeeded under this key; in `async def run`, what to await."""
        checked_key(key)
        return self._once_on_loop(key, fn) if on_a_loop() else self._once_here(key, fn)

    async def _once_on_loop(self, key: str, fn: Callable[[], Any]) -> Any:
        unit = self._inside
        kept = _read(await unit.kept(key), key) if unit else await asyncio.to_thread(self._look, key)
        if kept["done"]:
            return kept["value"]
        events.fail_point("before_effect")
        value = fn()
        if inspect.isawaitable(value):
            value = await value
        text = written(key, value)
        events.fail_point("after_effect")
        if unit:
            _must_hold(await unit.keep(key, text), key)
        else:
            await asyncio.to_thread(self._keep, key, text)
        events.fail_point("effect_kept")
        return json.loads(text)

    def _once_here(self, key: str, fn: Callable[[], Any]) -> Any:
        unit = self._inside
        kept = _read(unit.kept(key), key) if unit else self._look(key)
        if kept["done"]:
            return kept["value"]
        events.fail_point("before_effect")
        text = written(key, called(key, fn))
        events.fail_point("after_effect")
        if unit:
            _must_hold(unit.keep(key, text), key)
        else:
            self._keep(key, text)
        events.fail_point("effect_kept")
        return json.loads(text)

    def _look(self, key: str) -> Any:
        return self._ask("effect", {"key": key})

    def _keep(self, key: str, text: str) -> None:
        self._ask("effect_done", {"key": key, "value": json.loads(text)})

    @property
    def _inside(self) -> Any:
        """The session that the run is inside of, if it is."""
        return self._unit if self._unit is not None and self._unit.inside else None

    def session(self) -> Any:
        """Return the run's own session, on a connection of this process; always the same one."""
        if self._unit is None:
            told = self._ask("session", {})
            # Named by the runner: here nothing is known of databases.
            opened = importlib.import_module(told["module"]).ChildUnit
            self._unit = opened(told, self.id, self.claim_no, on_loop=on_a_loop())
        return self._unit.session

    def parents(self) -> Any:
        """Return what the task's parents came to, by their ids; on a loop what to await for it."""
        return self._await_parents() if on_a_loop() else self._parents()

    async def _await_parents(self) -> dict[UUID, Parent]:
        return await asyncio.to_thread(self._parents)

    def _parents(self) -> dict[UUID, Parent]:
        return {UUID(id_): Parent(state, result) for id_, state, result in self._ask("parents", {})}

    def settle(self, value: object) -> None:
        """End the session as the run did that returned this value, and tell the runner how."""
        if (unit := self._unit) is None:
            return
        came_to = classify(value)
        if isinstance(came_to, Succeeded) and unit.used:
            result = self._covered(came_to.result_json)
            self._tell("session", asdict(unit.finish(result, time.monotonic() - self._began)))
        else:
            unit.undo()

    async def settled(self, run: Coroutine[Any, Any, object]) -> object:
        """Await the run and do the same, on its own event loop, where an `AsyncSession` belongs."""
        try:
            value = await run
        except BaseException:
            if self._unit is not None:
                await self._unit.undo()
            raise
        if (unit := self._unit) is not None:
            came_to = classify(value)
            if isinstance(came_to, Succeeded) and unit.used:
                verdict = await unit.finish(self._covered(came_to.result_json), time.monotonic() - self._began)
                self._tell("session", asdict(verdict))
            else:
                await unit.undo()
        return value

    def _covered(self, result: str | None) -> str | None:
        return self.veil.json(result) if result is not None and self.veil else result

    def end(self) -> None:
        """Fall silent: a thread that the task left behind must not speak for the next one."""
        self._ended = True
        if self._unit is not None and not self._unit.on_loop:
            self._unit.undo()
        self._link.settle()

    def _tell(self, kind: str, data: Mapping[str, object]) -> None:
        if not self._ended:
            self._link.tell(kind, data)

    def _ask(self, kind: str, data: Mapping[str, object]) -> Any:
        if self._ended:
            raise TaskrunnerError("the task has ended")
        try:
            return self._link.ask(kind, data)
        except RequestRefused as refused:
            if str(refused).startswith(LeaseLost.__name__):
                raise LeaseLost(str(refused).partition(": ")[2]) from None
            raise


def _read(kept: Any, key: str) -> dict[str, Any]:
    """Read what a session found out of a key, as the runner would have put it."""
    _must_hold(kept.ours, key)
    return {"done": kept.value is not None, "value": None if kept.value is None else json.loads(kept.value)}


def _must_hold(ours: bool, key: str) -> None:
    if not ours:
        raise LeaseLost(f"run_once({key!r}): the claim is no longer this runner's, nothing is stored")
