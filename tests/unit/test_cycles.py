"""When a cycle is sent: each of the two lanes has its share, and little things wait, though not for long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from taskrunner import cycles, prospects
from taskrunner.cycles import Cycles
from taskrunner.prospects import Plan, Prospects
from taskrunner.settings import Settings
from taskrunner.store.task import Hint

pytestmark = pytest.mark.anyio

LATE = 0.1
"""Seconds after which nothing waits for a reply any more."""


class Clock:
    """Monotonic time that a test sets forward; each look is a microsecond later than the last."""

    now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (cycles, prospects):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


class Paper(list[int]):
    """An outbox with so many letters, and a crew with so much room."""

    def __init__(self, capacity: int, free: int | None = None) -> None:
        super().__init__()
        self.slots, self.free = capacity, capacity if free is None else free
        self.outbox, self.held, self.active = self, 1, set[Any]()

    def capacity(self) -> int:
        return self.slots

    def room(self) -> int:
        return self.free

    def ready(self) -> bool:
        return bool(self)


class Flights(Cycles):
    """Cycles that take off and never reply; `asked` is what each asked for."""

    def __init__(self, crew: Paper) -> None:
        self.known = Prospects({"default": 1}, ["T"])
        self.asked: list[int] = []
        super().__init__(
            "postgresql:///nowhere",
            Settings(),
            self.known,
            crew,  # type: ignore[arg-type]  # what it has of a crew's
            claim_is_start=True,
            may_start=lambda: True,
            changed=lambda: None,
        )
        self.known.survey_at = float("inf")
        self.hear()

    def hear(self) -> None:
        self.known.heard(Hint("default", "T", 100, 0.0))

    def step(self) -> bool:
        return self.take_off(uuid4(), self.room())

    async def _cycle(self, lane: Any, runner_id: UUID, plan: Plan | None, room: int) -> None:
        self.asked.append(room)
        self._asked_for += room
        self._leaving = False
        self._crew.outbox.clear()  # type: ignore[attr-defined]
        await asyncio.Event().wait()


async def sent(flights: Flights) -> list[int]:
    """Let what has taken off take its letters."""
    await asyncio.sleep(0)
    return flights.asked


@pytest.mark.parametrize(
    ("capacity", "shares"),
    [(1, [1]), (2, [1, 1]), (3, [2]), (100, [50, 50]), (999, [500]), (1000, [500, 500]), (5000, [500, 500])],
)
async def test_each_lane_asks_for_its_share_and_no_more(capacity: int, shares: list[int]) -> None:
    flights = Flights(Paper(capacity))
    assert flights.step()
    await sent(flights)
    flights.hear()
    assert flights.step() == (len(shares) == 2)
    assert await sent(flights) == shares
    assert not flights.step()


async def test_beside_a_cycle_in_flight_less_than_a_share_waits_until_the_reply_is_late(clock: Clock) -> None:
    crew = Paper(100, free=40)
    flights = Flights(crew)
    assert flights.step()
    await sent(flights)
    crew.free = 60  # so that 20 are left of what the first may bring
    flights.hear()
    assert not flights.step()
    pause = flights.idle_seconds(flights.room())
    assert 0 < pause <= LATE + 0.001  # and no longer, though the queue is being asked
    clock.now += LATE + 0.001
    assert flights.step()
    assert await sent(flights) == [40, 20]


async def test_so_do_endings() -> None:
    crew = Paper(100, free=0)
    crew.append(1)
    flights = Flights(crew)
    assert flights.step()
    await sent(flights)
    crew.append(1)
    assert not flights.step()
    assert 0 < flights.idle_seconds(0) <= LATE + 0.001
    crew.extend([1] * 49)
    assert flights.step()  # a share


async def test_who_has_nothing_in_flight_waits_a_moment_for_more_and_a_quiet_one_does_not(clock: Clock) -> None:
    crew = Paper(100, free=1)
    flights = Flights(crew)
    assert flights.step()
    await sent(flights)
    flights._idle = list(flights._lanes)  # the reply has come
    flights._asked_for = 0
    flights.known.failed(Plan("default", [], [], 0.0))
    flights.known.survey_at = float("inf")
    flights.hear()
    assert not flights.step()
    assert 0 < flights.idle_seconds(1) < LATE / 10
    clock.now += LATE / 10
    assert flights.step()
