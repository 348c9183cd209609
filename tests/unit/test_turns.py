"""Who is next of those that a runner holds: tenants of fair queues take turns, whatever was claimed first."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock
from uuid import UUID

from taskrunner.attempt import Attempt
from taskrunner.crew import _in_turn
from taskrunner.store.fair import in_turn
from taskrunner.store.task import Claimed, Turn

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def claim(tenant: str, number: int = 0, priority: int = 100, queue: str = "default") -> Claimed:
    return Claimed(UUID(int=number), 1, tenant, queue, "T", priority, "{}", NOW, 0, 0, 3, None, None, False)


def held(words: str, **weights: int) -> deque[Attempt]:
    """Return attempts as `A3` says: of tenant A, with priority 3; small letters are of an ordinary queue."""
    made: deque[Attempt] = deque()
    for word in words.split():
        host: Any = Mock()
        attempt = Attempt(claim(word[0], priority=int(word[1:] or 0)), host)
        attempt.weight = weights.get(word[0], 1) if word[0].isupper() else 0
        made.append(attempt)
    return made


def shown(attempts: deque[Attempt]) -> str:
    return " ".join(f"{one.claim.tenant}{one.claim.priority or ''}" for one in attempts)


def test_a_newcomer_is_put_behind_the_first_of_those_that_wait() -> None:
    assert shown(_in_turn(held("A A A A B B C"))) == "A B C A B A A"


def test_who_weighs_more_has_more_of_each_turn() -> None:
    assert shown(_in_turn(held("A A A A B B", A=2))) == "A A B A A B"


def test_tasks_of_ordinary_queues_keep_their_places() -> None:
    assert shown(_in_turn(held("A x A y B"))) == "A x B y A"


def test_a_tenants_urgent_task_comes_first_of_its_own_and_not_of_all() -> None:
    assert shown(_in_turn(held("A1 A1 B1 B9 C5"))) == "A1 B9 C5 A1 B1"


def test_claims_begin_with_the_tenant_behind_the_last_one_and_go_round() -> None:
    claims = [claim(tenant, number) for number, tenant in enumerate("AABBCCDD")]
    assert "".join(one.tenant for one in in_turn(claims, {}, Turn("C", 0))) == "BADCBADC"
    assert "".join(one.tenant for one in in_turn(claims, {"C": 3}, Turn("C", 1))) == "CBADCBAD"
