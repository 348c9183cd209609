"""Work in pieces, each a transaction of its own: a generator says what is next, `drive` or `adrive` executes it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from typing import Any, TypeVar

import psycopg

from taskrunner.db import Steps, Work

T = TypeVar("T")

Make = Callable[[], Work[Any]]
Pieces = Generator[Make, Any, T]
"""Works that are executed one by one; what one raises comes back into it."""


class TooSlow(Exception):
    """The statements of a batch have taken their time together."""


# What a transaction gives up, and may be tried again with less.
GIVEN_UP = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, TooSlow)

# What makes a run stop: it is still to say how far it has come.
STOPS = (Exception, KeyboardInterrupt)


def drive(run: Callable[[Make], Any], pieces: Pieces[T]) -> T:
    """Execute the pieces by what executes one."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            make = pieces.throw(error) if error is not None else pieces.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        try:
            value, error = run(make), None
        except STOPS as raised:
            error = raised


async def adrive(run: Callable[[Make], Awaitable[Any]], pieces: Pieces[T]) -> T:
    """Execute the pieces by what executes one."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            make = pieces.throw(error) if error is not None else pieces.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        try:
            value, error = await run(make), None
        except Exception as raised:
            error = raised


def within(limit: timedelta, work: Steps[T]) -> Steps[T]:
    """Do the work; raise `TooSlow` between two statements when the time is up."""
    until = time.monotonic() + limit.total_seconds()
    value: Any = None
    while True:
        try:
            op = work.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration.value is untyped
        if time.monotonic() > until:
            raise TooSlow
        value = yield op


def tried(make: Make) -> Pieces[Any]:
    """Return what the work brings; None where the server gave it up."""
    try:
        return (yield make)
    except GIVEN_UP:
        return None
