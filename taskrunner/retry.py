"""When to try again: the usual policies, and the reading of what `next_try()` returned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import Literal, TypeAlias

from taskrunner.durations import as_delay, as_duration
from taskrunner.errors import InvalidArgument

Delay: TypeAlias = timedelta | float
Policy: TypeAlias = Callable[[int], timedelta]

BASE, CAP = timedelta(seconds=5), timedelta(minutes=15)


def exponential(
    base: Delay = BASE, factor: float = 2.0, cap: Delay = CAP, jitter: Literal["full", "none"] = "full"
) -> Policy:
    """Wait base * factor**tries, at most `cap`; with full jitter a random part of that, from 0 to all of it.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    start, most = as_delay(base, "base").total_seconds(), as_delay(cap, "cap").total_seconds()
    if not 1 <= factor < inf:
        raise InvalidArgument(f"factor must be finite and 1 or more, not {factor}")
    if jitter not in ("full", "none"):
        raise InvalidArgument(f"jitter must be 'full' or 'none', not {jitter!r}")

    def policy(tries: int) -> timedelta:
        try:
            ceiling = min(most, start * float(factor) ** tries)
        except OverflowError:
            ceiling = most if start else 0.0
        return timedelta(seconds=_part_of(ceiling) if jitter == "full" else ceiling)

    return policy


def _part_of(ceiling: float) -> float:
    from random import uniform  # needed after a failure; declaring a task need not wait for it

    return uniform(0, ceiling)  # noqa: S311 - spreads load, no secret


def linear(step: Delay, cap: Delay = CAP) -> Policy:
    """Wait `step` after the first failure, twice that after the second, and so on, at most `cap`."""
    rise, most = as_delay(step, "step"), as_delay(cap, "cap")

    def policy(tries: int) -> timedelta:
        return most if rise and tries + 1 > most / rise else rise * (tries + 1)

    return policy


def constant(delay: Delay) -> Policy:
    """Wait the same time after every failure."""
    wait = as_delay(delay, "delay")
    return lambda _tries: wait


def normalise(value: object) -> timedelta | None:
    """Read what `next_try()` returned: a delay; None, also for a negative one, gives up; raises InvalidArgument."""
    if value is None:
        return None
    delay = as_duration(value, "what next_try() returns")
    return delay if delay >= timedelta(0) else None
