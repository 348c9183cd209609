"""What a run came to, and what becomes of its task: values in, a value out, nothing is read or written here.

The caller runs the task, turns what happened into an `Outcome`, asks `next_try()` once if `needs_answer(outcome)`,
and obeys the `Transition` that `decide` returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from pydantic import BaseModel

from taskrunner.durations import as_delay, spell
from taskrunner.errors import PayloadInvalid
from taskrunner.errortext import error_entry
from taskrunner.jsonvalue import dump_json

ErrorEntry: TypeAlias = dict[str, str]


class TaskStatus(StrEnum):
    """What `run()` may return to say how it went."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, init=False)
class Snooze:
    """Returned by `run()`: run the task again after this delay (a timedelta or seconds), not counted as a try.

    Raises InvalidArgument for a negative delay, NaN, and more than a century.
    """

    delay: timedelta

    def __init__(self, delay: timedelta | float) -> None:
        object.__setattr__(self, "delay", as_delay(delay, "Snooze"))


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The work is done; the result is JSON text, None for none."""

    result_json: str | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """The task found that there was nothing to do."""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The task asked to be run again later."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Failed:
    """The try failed; `next_try()` has the next word."""

    error: ErrorEntry


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The task was stopped because somebody had asked for its cancelling."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """The task cannot be run at all: its payload does not fit its class, or the class cannot be had."""

    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The runner had to stop before the task ended; nothing is counted."""


Outcome: TypeAlias = Succeeded | Ignored | Snoozed | Failed | Cancelled | Unfit | Interrupted


@dataclass(frozen=True, slots=True)
class RetryIn:
    """`next_try()` wants another try after this delay."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """`next_try()` wants no other try."""


@dataclass(frozen=True, slots=True)
class Nonsense:
    """`next_try()` raised, or returned what is no delay."""

    error: ErrorEntry


NextTry: TypeAlias = RetryIn | GiveUp | Nonsense


@dataclass(frozen=True, slots=True)
class Finish:
    """Into history."""

    state: Literal["succeeded", "ignored", "cancelled"]
    result_json: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Back to pending with one more try and one more error."""

    delay: timedelta
    error: ErrorEntry


@dataclass(frozen=True, slots=True)
class SnoozeFor:
    """Back to pending, uncounted."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Bury:
    """To the dead letters, these errors added to those that the task has."""

    errors: tuple[ErrorEntry, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Back to pending, unchanged."""


Transition: TypeAlias = Finish | Retry | SnoozeFor | Bury | Release

# What most tasks come to: frozen values, made once.
_SUCCEEDED = Succeeded()
_FINISH = Finish("succeeded")


def classify(value: object) -> Succeeded | Ignored | Snoozed | Failed:
    """Say what the value returned by `run()` means.

    SUCCESS and None succeed without a result; a JSON value (tuples as lists) or a pydantic model, as its JSON, is the
    result. Anything else, a dataclass or a datetime for instance, is a failure that names what is no JSON.
    """
    if value is None or value is TaskStatus.SUCCESS:
        return _SUCCEEDED
    if value is TaskStatus.IGNORED:
        return Ignored()
    if value is TaskStatus.FAILURE:
        return Failed(error_entry("run() returned TaskStatus.FAILURE"))
    if isinstance(value, Snooze):
        return Snoozed(value.delay)
    return _result(value)


def raised(error: BaseException) -> Failed:
    """Say what an exception out of `run()` means; nothing of the exception but text is kept."""
    return Failed(error_entry(error))


def timed_out(after: timedelta) -> Failed:
    """Say what the end of the time means; `after` is the time that the task had, extensions included."""
    return Failed(error_entry(f"timed out after {spell(after)}"))


def needs_answer(outcome: Outcome) -> bool:
    """Whether `next_try()` is to be asked, once: after failures only."""
    return isinstance(outcome, Failed)


def outcome_of(transition: Transition) -> str:
    """Name what becomes of a claim as the figures do; what they do not count is `snoozed` or `released`."""
    match transition:
        case Finish(state):
            return state
        case Retry():
            return "retried"
        case Bury():
            return "dead"
        case SnoozeFor():
            return "snoozed"
        case Release():
            return "released"


def decide(outcome: Outcome, answer: NextTry | None = None) -> Transition:
    """Return what becomes of the task; `answer` is what `next_try()` said, for failures. The same in, the same out."""
    match outcome:
        case Succeeded(None):
            return _FINISH
        case Succeeded(result_json):
            return Finish("succeeded", result_json)
        case Ignored():
            return Finish("ignored")
        case Snoozed(delay):
            return SnoozeFor(delay)
        case Failed(error):
            return _after_failure(error, answer)
        case Cancelled():
            return Finish("cancelled")
        case Unfit(reason):
            return Bury((error_entry(reason),))
        case Interrupted():
            return Release()


def _after_failure(error: ErrorEntry, answer: NextTry | None) -> Retry | Bury:
    match answer:
        case RetryIn(delay):
            return Retry(delay, error)
        case Nonsense(second):
            return Bury((error, second))
        case GiveUp():
            return Bury((error,))
        case None:
            raise AssertionError("a failure is decided with the answer of next_try()")


def _result(value: object) -> Succeeded | Failed:
    try:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        return Succeeded(dump_json(value, "result"))
    except PayloadInvalid as error:
        return Failed(error_entry(f"run() returned what cannot be kept as its result: {error}"))
    except Exception as error:  # a model's own serializer may raise anything
        return Failed(error_entry(error))
