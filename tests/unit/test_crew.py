"""The crew: slots are kept, suspects run one at a time, and nothing that waits is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskrunner import Task
from taskrunner.attempt import Attempt, Stop
from taskrunner.crew import Crew
from taskrunner.effects import Effects
from taskrunner.outcome import Finish, Release
from taskrunner.recorder import Recorder
from taskrunner.registry import isolated, register_task
from taskrunner.settings import Settings
from taskrunner.store.task import Claimed

pytestmark = pytest.mark.anyio


class Marks:
    """Stores the starts of suspects, when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, attempt: Attempt) -> bool:
        await self.go.wait()
        return True


def claim(crashes: int = 0, priority: int = 100) -> Claimed:
    now = datetime.now(UTC)
    return Claimed(uuid7(), 1, "default", "default", "Held", priority, "{}", now, 0, crashes, 3, None, None, False)


@asynccontextmanager
async def crew(folder: Any, slots: int) -> AsyncIterator[tuple[Crew, Marks]]:
    """A crew under a supervisor, of tasks that run until they are stopped."""
    with isolated() as registry:

        @register_task("Held")
        class Held(Task):
            async def run(self) -> None:
                await asyncio.Event().wait()

        marks = Marks()
        made = Crew(
            registry,
            Settings(concurrency=slots),
            recorder=Recorder(folder / "record", slots),
            effects=Effects("", Settings(), lambda: UUID(int=0)),  # no task here asks for any
            mark_suspect=marks,
            changed=lambda: None,
            overrun=lambda: None,
        )
        await made.open()
        try:
            yield made, marks
        finally:
            made.stop(Stop.RELEASE)
            await made.close()


def decided(made: Crew) -> dict[UUID, object]:
    letters = [*made.outbox._finishes.values(), *made.outbox._others.values()]
    return {letter.attempt.claim.id: letter.transition for letter in letters}


async def until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - the loop's own turns are waited for
            await asyncio.sleep(0)


async def test_a_suspect_that_was_claimed_ahead_waits_for_a_slot(tmp_path: Any) -> None:
    """SPEC CON 47: never more than N running."""
    async with crew(tmp_path, 2) as (made, marks):
        marks.go.set()
        made.take([claim(), claim(), claim(crashes=1), claim(crashes=1), claim()])
        assert {attempt.claim.crashes for attempt in made.active} <= {0, 1}
        for _ in range(3):
            assert len(made.active) == 2
            assert sum(attempt.claim.crashes for attempt in made.active) <= 1, "one suspect at a time"
            before = set(made.active)
            next(iter(before)).stop(Stop.RELEASE)
            await until(lambda before=before: set(made.active) != before)


async def test_a_suspect_that_is_stopped_before_its_marking_begins_does_not_stay(tmp_path: Any) -> None:
    async with crew(tmp_path, 2) as (made, _):
        made.take([claim(crashes=1), claim(crashes=1)])
        made.stop(Stop.LOST)
        await until(lambda: not made.active)
        assert made.held == 0


async def test_what_waits_goes_back_when_nothing_is_to_be_started_any_more(tmp_path: Any) -> None:
    """SPEC SHU 44."""
    async with crew(tmp_path, 1) as (made, _):
        claims = [claim(), claim(), claim()]
        made.take(claims)
        made.give_back(Release())
        assert decided(made) == {claims[1].id: Release(), claims[2].id: Release()}


async def test_a_claim_that_waits_for_a_slot_can_be_cancelled(tmp_path: Any) -> None:
    """SPEC OPS 48."""
    async with crew(tmp_path, 1) as (made, _):
        claims = [claim(), claim(), claim(crashes=1)]
        made.take(claims[:1])
        made.take(claims[1:])
        for one in claims[1:]:
            made.cancel(one.id)
        assert decided(made) == {claims[1].id: Finish("cancelled"), claims[2].id: Finish("cancelled")}


async def test_the_urgent_are_started_first_among_what_is_claimed_ahead(tmp_path: Any) -> None:
    async with crew(tmp_path, 1) as (made, _):
        urgent = claim(priority=900)
        made.take([claim(), claim()])
        made.take([urgent])
        next(iter(made.active)).stop(Stop.RELEASE)
        await until(lambda: [attempt.claim.id for attempt in made.active] == [urgent.id])
