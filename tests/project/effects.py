"""Tasks with effects in a ledger table, on the loop, in a thread and in child processes: `ledger(task, what)`.

The ledger has no unique constraint: an effect that happens twice is two rows. `url` is where `run_once` effects are
written to, by a connection of their own, as an effect outside the task's transaction would be.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, ClassVar

import psycopg
from sqlalchemy import text

from taskrunner import Snooze, Task, TaskStatus, register_task
from taskrunner.errors import LeaseLost

LEDGER = "CREATE TABLE ledger (task uuid NOT NULL, what text NOT NULL); CREATE TABLE go (now int)"
GO = text("SELECT count(*) FROM go")
DELAY = float(os.environ.get("EFFECTS_DELAY", "0"))  # seconds until the next try
WAITS = {"slow": 60, "doze": 6, "nap": 0.05}  # seconds
NOTE = text("INSERT INTO ledger (task, what) VALUES (:task, :what)")


class Outside(Task):
    """Two effects by `run_once`, a failure between them as often as told."""

    url: str
    fails: int = 0
    stolen_by: str = ""

    def next_try(self) -> float | None:
        return DELAY if self.tries < 50 else None

    def note(self, what: str) -> Any:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute("INSERT INTO ledger (task, what) VALUES (%s, %s)", (self.id, what))
            if self.stolen_by and what == "first":
                conn.execute("UPDATE taskrunner.task SET claim_no = claim_no + 1, runner_id = %s", (self.stolen_by,))
        return {"what": what, "try": self.tries}

    async def anote(self, what: str) -> Any:
        await asyncio.sleep(0)
        return self.note(what)

    def fail(self) -> None:
        if self.tries < self.fails:
            raise RuntimeError("between the effects")


class OutsideHere(Outside):
    def run(self) -> Any:
        try:
            first = self.context.run_once("first", lambda: self.note("first"))
        except LeaseLost as error:
            return self.note(f"refused: {error}")
        self.fail()
        return [first, self.context.run_once("second", lambda: self.note("second"))]


class OutsideLoop(Outside):
    async def run(self) -> Any:
        try:
            first = await self.context.run_once("first", lambda: self.note("first"))
        except LeaseLost as error:
            return self.note(f"refused: {error}")
        self.fail()
        return [first, await self.context.run_once("second", lambda: self.anote("second"))]


class Inside(Task):
    """An effect of the session, one by `run_once` in it, and an end as told."""

    end: str = "success"
    timed: ClassVar[bool] = False

    def next_try(self) -> float | None:
        return DELAY if self.tries < 50 and self.end not in WAITS else None

    def value(self) -> Any:
        ends = {"ignored": TaskStatus.IGNORED, "failure": TaskStatus.FAILURE, "result": {"a": [1]}}
        if self.end == "raise" and self.tries < 2:
            raise RuntimeError("after the work")
        if self.end == "failure" and self.tries >= 2:
            return None
        if self.end == "snooze" and self.context.claim_no < 3:
            return Snooze(0)
        return ends.get(self.end)

    def hurry(self) -> None:
        """A timed one has little time from here on, inside its session."""
        if self.timed:
            self.context.extend(0.3)

    def row(self, what: str) -> dict[str, str]:
        return {"task": str(self.id), "what": what}


class InsideHere(Inside):
    def run(self) -> Any:
        with self.context.session() as session:
            session.execute(NOTE, self.row("plain"))
            told = self.context.run_once("key", lambda: self.effect(session))
            assert told == {"rows": 1}
            session.execute(NOTE, self.row("last"))
            if self.end == "commit":
                session.commit()
            while self.end == "wait" and session.scalar(GO) == 0:
                time.sleep(0.01)
            self.hurry()
            time.sleep(WAITS.get(self.end, 0))
        return self.value()

    def effect(self, session: Any) -> dict[str, int]:
        return {"rows": session.execute(NOTE, self.row("once")).rowcount}


class InsideLoop(Inside):
    async def run(self) -> Any:
        async with self.context.session() as session:
            await session.execute(NOTE, self.row("plain"))
            told = await self.context.run_once("key", lambda: self.effect(session))
            assert told == {"rows": 1}
            await session.execute(NOTE, self.row("last"))
            if self.end == "commit":
                await session.commit()
            while self.end == "wait" and await session.scalar(GO) == 0:  # noqa: ASYNC110 - the test makes it
                await asyncio.sleep(0.01)
            self.hurry()
            await asyncio.sleep(WAITS.get(self.end, 0))
        return self.value()

    async def effect(self, session: Any) -> dict[str, int]:
        return {"rows": (await session.execute(NOTE, self.row("once"))).rowcount}


@register_task("outside.loop")
class OutsideOnLoop(OutsideLoop): ...


@register_task("outside.thread")
class OutsideInThread(OutsideHere): ...


@register_task("outside.child", executor="process")
class OutsideInChild(OutsideHere): ...


@register_task("outside.child-loop", executor="process")
class OutsideOnChildLoop(OutsideLoop): ...


@register_task("inside.loop")
class InsideOnLoop(InsideLoop): ...


@register_task("inside.thread")
class InsideInThread(InsideHere): ...


@register_task("inside.child", executor="process")
class InsideInChild(InsideHere): ...


@register_task("inside.child-loop", executor="process")
class InsideOnChildLoop(InsideLoop): ...


@register_task("inside.loop.timed", timeout=120)
class TimedOnLoop(InsideLoop):
    timed = True


@register_task("inside.thread.timed", timeout=120)
class TimedInThread(InsideHere):
    timed = True


@register_task("inside.child.timed", executor="process", timeout=120)
class TimedInChild(InsideHere):
    timed = True


@register_task("inside.child-loop.timed", executor="process", timeout=120)
class TimedOnChildLoop(InsideLoop):
    timed = True


TIMED = {"loop": TimedOnLoop, "thread": TimedInThread, "child": TimedInChild, "child-loop": TimedOnChildLoop}
WAYS = {
    "loop": (OutsideOnLoop, InsideOnLoop),
    "thread": (OutsideInThread, InsideInThread),
    "child": (OutsideInChild, InsideInChild),
    "child-loop": (OutsideOnChildLoop, InsideOnChildLoop),
}
