"""Retry policies."""

from datetime import timedelta

import pytest

from taskrunner import retry
from taskrunner.errors import InvalidArgument

SECOND = timedelta(seconds=1)


def test_exponential_doubles_up_to_its_cap():
    policy = retry.exponential(jitter="none")
    assert [policy(tries) / SECOND for tries in range(9)] == [5, 10, 20, 40, 80, 160, 320, 640, 900]


def test_full_jitter_spreads_over_the_whole_delay():
    delays = [retry.exponential(10)(0) / SECOND for _ in range(1000)]
    assert 0 <= min(delays) < 1
    assert 9 < max(delays) <= 10


@pytest.mark.parametrize("policy", [retry.exponential(jitter="none"), retry.exponential(factor=1e300, jitter="none")])
def test_a_million_tries_overflow_nothing(policy):
    assert policy(10**6) == timedelta(minutes=15)


def test_a_base_of_zero_stays_zero():
    assert retry.exponential(0, jitter="none")(10**6) == timedelta(0)
    assert retry.linear(0)(10**6) == timedelta(0)


def test_linear_rises_by_its_step_up_to_its_cap():
    policy = retry.linear(timedelta(seconds=30), cap=100)
    assert [policy(tries) / SECOND for tries in (0, 1, 2, 3, 10**6)] == [30, 60, 90, 100, 100]


def test_constant_is_constant():
    assert retry.constant(2)(0) == retry.constant(2)(10**6) == timedelta(seconds=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: retry.exponential(-1),
        lambda: retry.exponential(factor=0.5),
        lambda: retry.exponential(factor=float("nan")),
        lambda: retry.exponential(jitter="some"),
        lambda: retry.exponential(cap=float("inf")),
        lambda: retry.linear("5"),
        lambda: retry.constant(float("nan")),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(make):
    with pytest.raises(InvalidArgument):
        make()


def test_the_longest_delay_is_a_century():
    assert retry.normalise(36525 * 86400) == timedelta(days=36525)
    with pytest.raises(InvalidArgument, match="100 years"):
        retry.normalise(36525 * 86400 + 1)
