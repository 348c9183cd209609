"""What a runner knows of its queues: fronts, floors, and whose turn it is."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from taskrunner.prospects import Plan, Prospects
from taskrunner.store.task import NO_FLOOR, Claimed, Floor, Hint, Prospect, Turn

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def prospects(**weights: int) -> Prospects:
    return Prospects(weights or {"default": 1}, ("T", "U"))


def hint(queue: str = "default", type_: str | None = "T", priority: int = 100, due_in: float = 0.0) -> Hint:
    return Hint(queue, type_, priority, due_in)


def found(at: datetime = NOON, **fields: Any) -> Prospect:
    return Prospect(
        **{
            "queue": "default",
            "type": "T",
            "priority": 100,
            "maturity_at": at,
            "id": uuid7(),
            "due_in": -1.0,
            **fields,
        }
    )


def claims(*seconds: int, priority: int = 100) -> list[Claimed]:
    return [
        Claimed(uuid7(), 1, "default", "default", "T", priority, "{}", NOON + timedelta(seconds=second),
                0, 0, 3, None, None, False)
        for second in seconds
    ]  # fmt: skip


def plan(known: Prospects) -> Plan:
    taken = known.take()
    assert taken is not None
    return taken


def settle(known: Prospects, *prospects: Prospect) -> None:
    known.surveyed(time.monotonic(), prospects, every=1.0)


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_queues_take_turns_by_weight_and_a_silent_one_costs_nothing() -> None:
    """DESIGN 5."""
    known = prospects(mail=2, default=1, silent=5)
    for queue in ("mail", "default"):
        known.heard(hint(queue))
    taken = []
    for _ in range(9):
        taken.append(plan(known))
        known.claimed(taken[-1], claims(1), 1)
    assert [one.queue for one in taken].count("mail") == 6
    assert [one.queue for one in taken].count("default") == 3
    assert known.wait() == 0


def test_a_queue_is_due_when_its_first_task_matures() -> None:
    known = prospects(a=1, b=1)
    known.heard(hint("a", due_in=60))
    known.heard(hint("a", due_in=120))
    assert known.take() is None
    assert 59 < known.wait() <= 60


def test_other_queues_and_types_that_nobody_here_knows_wake_nobody() -> None:
    known = prospects()
    settle(known)
    known.heard(hint("elsewhere"))
    known.heard(hint(type_="Foreign"))
    assert known.take() is None
    assert known.wait() == float("inf")


def test_a_hint_that_names_no_type_asks_for_a_survey() -> None:
    known = prospects()
    settle(known)
    assert known.survey_at > time.monotonic()
    known.heard(hint(type_=None))
    assert known.survey_at <= time.monotonic()


def test_the_urgent_fronts_come_first_and_immature_ones_are_not_asked() -> None:
    known = prospects()
    settle(known, found(priority=1), found(priority=200), found(priority=900, due_in=60.0))
    assert [front.priority for front in plan(known).fronts] == [200, 1]


# ── one claim beside another ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_queue_that_is_being_asked_is_asked_again_only_if_it_gave_all_or_was_heard_of_since() -> None:
    known = prospects()
    settle(known, found())
    first = plan(known)
    assert known.take() is None, "its answer is on the way"
    known.heard(hint())
    second = plan(known)
    known.claimed(second, claims(1, 2), 2)
    assert known.take() is not None, "it gave all that was asked"
    known.claimed(first, claims(3), 2)


def test_a_claim_that_came_short_ends_the_asking_but_not_for_what_was_heard_of_meanwhile() -> None:
    known = prospects()
    settle(known, found(), found(type="U"))
    asked = plan(known)
    known.heard(hint(type_="U"))
    known.claimed(asked, [], 5)
    assert [front.type for front in plan(known).fronts] == ["U"]
    assert known.survey_at < time.monotonic() + 0.2, "what matures next is to be found out soon"


def test_of_a_fair_queue_the_next_claim_begins_where_the_last_one_ended() -> None:
    known = prospects()
    settle(known, found(fair=True))
    first = plan(known)
    assert first.turn == Turn()
    known.heard(hint())
    assert known.take() is None, "nobody knows yet where it will end"
    known.went_round(first, Turn("acme", 2), got=True, more=True)
    assert plan(known).turn == Turn("acme", 2)
    assert known.take() is None


def test_of_many_tenants_two_claims_are_on_their_way() -> None:
    known = prospects()
    settle(known, found(fair=True))
    known.went_round(plan(known), Turn("acme", 0, wide=True), got=True, more=True)
    assert plan(known).turn == plan(known).turn == Turn("acme", 0, wide=True)


def test_claims_that_find_nothing_among_very_many_tenants_leave_the_database_time_for_others() -> None:
    known = prospects()
    settle(known, found(fair=True))
    for _ in range(8):
        known.went_round(plan(known), Turn("acme", 0, wide=True), got=False, more=True)
    took_a_second = replace(plan(known), asked_at=time.monotonic() - 1.0)
    known.went_round(took_a_second, Turn("acme", 0, wide=True), got=False, more=True)
    assert known.take() is None
    assert known.wait() > 3

    again = prospects()
    settle(again, found(fair=True))
    for number in range(50):
        taken = replace(plan(again), asked_at=time.monotonic() - 1.0)
        again.went_round(taken, Turn("acme", 0, wide=True), got=number % 8 == 0, more=True)
    assert again.take() is not None, "who finds something now and then does not rest"


def test_strays_of_a_fair_queue_are_looked_for_once_a_second() -> None:
    known = prospects()
    settle(known, found(fair=True))
    looks = []
    for _ in range(5):
        taken = plan(known)
        looks.append(taken.strays)
        known.went_round(taken, Turn(), got=True, more=True)
    assert looks == [True, False, False, False, False]


def test_the_survey_moves_the_floors_of_a_fair_queue_both_ways() -> None:
    known = prospects()
    for at in (NOON, NOON + timedelta(hours=1), NOON - timedelta(hours=1)):
        settle(known, found(at, fair=True))
        taken = plan(known)
        assert taken.fronts[0].floor.maturity_at == at
        known.went_round(taken, Turn(), got=True, more=True)


# ── floors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def floor(known: Prospects) -> Floor:
    taken = plan(known)
    known.claimed(taken, [], 0)
    return taken.fronts[0].floor


def test_the_floor_moves_to_the_first_task_claimed() -> None:
    known = prospects()
    settle(known, found())
    taken = claims(10, 11, 12)
    known.claimed(plan(known), taken, 3)
    assert floor(known) == Floor(taken[0].maturity_at, taken[0].id)


def test_what_comes_back_from_the_past_and_claims_that_fail_drop_the_floors() -> None:
    for mishap in ("hint", "hint without a type", "failure", "distrust"):
        known = prospects()
        settle(known, found())
        known.claimed(plan(known), claims(10), 1)
        if mishap == "failure":
            known.failed(plan(known))
        elif mishap == "distrust":
            known.distrust()
        else:
            known.heard(hint(type_=None if "without" in mishap else "T", due_in=-5.0))
        assert floor(known) == NO_FLOOR, mishap


def test_a_hint_of_a_task_that_is_due_now_leaves_the_floor_alone() -> None:
    known = prospects()
    settle(known, found())
    known.claimed(plan(known), claims(10), 1)
    known.heard(hint(due_in=-0.01))
    assert floor(known) != NO_FLOOR


def test_a_due_task_beneath_the_floor_lowers_it_once_no_claim_can_be_the_reason() -> None:
    known = prospects()
    settle(known, found())
    known.claimed(plan(known), claims(10), 1)
    late = found(NOON + timedelta(seconds=5))
    in_flight = plan(known)
    settle(known, late)
    known.claimed(in_flight, claims(11), 1)
    assert floor(known).maturity_at == NOON + timedelta(seconds=11), "it may have been claimed that moment"
    in_flight = plan(known)
    settle(known, late)
    known.claimed(in_flight, [], 0)
    assert floor(known) == Floor(late.maturity_at, late.id), "it is still there"


def test_with_no_claim_in_flight_one_look_is_enough() -> None:
    known = prospects()
    settle(known, found())
    known.claimed(plan(known), claims(10), 1)
    late = found(NOON + timedelta(seconds=5))
    settle(known, late)
    assert floor(known) == Floor(late.maturity_at, late.id)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_however_many_priorities_there_are_a_claim_asks_sixty_four_and_few_are_remembered() -> None:
    known = prospects()
    settle(known)
    for priority in range(1000):
        known.heard(hint(priority=priority))
    assert known.survey_at <= time.monotonic(), "the survey finds the rest"
    asked = plan(known)
    assert len(asked.fronts) == 64
    known.claimed(asked, [], 1)
    settle(known, *(found(priority=priority) for priority in range(64)))
    assert [front.priority for front in plan(known).fronts] == list(range(63, -1, -1))


def test_a_survey_that_takes_long_comes_seldom() -> None:
    known = prospects()
    known.surveyed(time.monotonic() - 2.0, [], every=1.0)
    assert known.survey_at > time.monotonic() + 35


def test_the_ids_of_equal_maturities_order_the_floor() -> None:
    """Ten thousand tasks of one `add_many` mature at one instant: the floor moves among them all the same."""
    assert Floor(NOON, UUID(int=1)) < Floor(NOON, UUID(int=2))
