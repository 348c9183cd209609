"""Which rule says how long a row of history is kept."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskrunner.keeping import Keeping, Rule, described
from taskrunner.settings import values
from taskrunner.states import HISTORY

DAY = timedelta(days=1)
KEEPING = Keeping(30 * DAY, {"*/ignored": DAY, "mail": 7 * DAY, "mail/ignored": 90 * DAY})


def may_go(keeping: Keeping, age: timedelta, queue: str, state: str) -> bool:
    """As the database decides: the first rule that fits."""
    return next(
        rule.may_go for rule in keeping.rules(age) if rule.queue in (None, queue) and rule.state in (None, state)
    )


@pytest.mark.parametrize(
    ("queue", "state", "days"),
    [("default", "succeeded", 30), ("default", "ignored", 1), ("mail", "succeeded", 7), ("mail", "ignored", 90)],
)
def test_the_most_exact_rule_counts(queue: str, state: str, days: int) -> None:
    """SPEC HIS 52: a state in a queue before a queue before a state."""
    assert may_go(KEEPING, days * DAY, queue, state)
    assert not may_go(KEEPING, days * DAY - timedelta(seconds=1), queue, state)


def test_without_rules_of_their_own_all_are_kept_alike() -> None:
    assert Keeping(DAY).rules(2 * DAY) == [Rule(None, None, True)]
    assert (Keeping(DAY).shortest, Keeping(DAY).longest) == (DAY, DAY)
    assert (KEEPING.shortest, KEEPING.longest) == (DAY, 90 * DAY)


def test_rules_read_as_a_line() -> None:
    assert described(KEEPING.rules(8 * DAY)) == "mail/ignored=stay mail/*=go */ignored=go */*=stay"


def test_the_settings_know_the_states_of_history() -> None:
    for state in HISTORY:
        assert values.read_keep(f"*/{state.value}:1d") == {f"*/{state.value}": DAY}
        assert state.value in values._STATES_SAID
