"""What a run came to, and what becomes of its task."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from taskrunner import outcome
from taskrunner.errors import InvalidArgument
from taskrunner.outcome import (
    Bury,
    Cancelled,
    Failed,
    Finish,
    GiveUp,
    Ignored,
    Interrupted,
    Nonsense,
    Release,
    Retry,
    RetryIn,
    Snooze,
    SnoozeFor,
    TaskStatus,
    Unfit,
    classify,
    decide,
    needs_answer,
)

FIRST = {"message": "first", "traceback": ""}
SECOND = {"message": "second", "traceback": ""}


class Report(BaseModel):
    made_at: datetime
    rows: int


@dataclass
class Point:
    x: int


@pytest.mark.parametrize("value", [None, TaskStatus.SUCCESS])
def test_success_and_none_succeed_without_a_result(value):
    """SPEC RUN 24."""
    assert decide(classify(value)) == Finish("succeeded", None)


@pytest.mark.parametrize("value", [0, False, "", "success", [], {}, {"a": [1, 2.5, None, "ü"]}, 10**30])
def test_any_other_json_value_is_the_result(value):
    """SPEC RUN 24."""
    step = decide(classify(value))
    assert isinstance(step, Finish)
    assert step.state == "succeeded"
    assert json.loads(step.result_json) == value


def test_a_tuple_is_kept_as_a_list_and_a_model_as_its_json():
    assert classify((1, (2, 3))).result_json == "[1,[2,3]]"
    report = Report(made_at=datetime(2026, 1, 2, tzinfo=UTC), rows=3)
    assert json.loads(classify(report).result_json) == {"made_at": "2026-01-02T00:00:00Z", "rows": 3}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "object"),
        (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
        (Point(1), "Point"),
        ({1, 2}, "set"),
        ({"a": [float("nan")]}, r"result\.a\[0\]: nan"),
        ({1: 2}, "key must be text"),
        ("\0", "NUL"),
        ("\ud800", "surrogate"),
        (b"bytes", "bytes"),
    ],
)
def test_a_value_that_is_no_json_is_a_failure_that_says_so(value, said):
    """SPEC RUN 24."""
    meant = classify(value)
    assert isinstance(meant, Failed)
    assert needs_answer(meant)
    assert re.search(said, meant.error["message"])


def test_ignored_ends_the_task_and_next_try_is_not_asked():
    """SPEC RUN 25."""
    meant = classify(TaskStatus.IGNORED)
    assert meant == Ignored()
    assert not needs_answer(meant)
    assert decide(meant) == Finish("ignored")


def test_a_snooze_is_another_maturity_uncounted():
    """SPEC RUN 24."""
    meant = classify(Snooze(90))
    assert not needs_answer(meant)
    assert decide(meant) == SnoozeFor(timedelta(seconds=90))
    assert Snooze(timedelta(minutes=1)).delay == Snooze(60).delay


@pytest.mark.parametrize("delay", [-1, timedelta(seconds=-1), float("nan"), float("inf"), "5", True, None, 1e300])
def test_a_snooze_of_no_delay_is_refused(delay):
    with pytest.raises(InvalidArgument):
        Snooze(delay)


@pytest.mark.parametrize(
    "failure",
    [
        classify(TaskStatus.FAILURE),
        outcome.raised(ValueError("boom")),
        outcome.raised(SystemExit(1)),
        outcome.timed_out(timedelta(seconds=30)),
    ],
)
def test_every_failure_goes_by_the_answer_of_next_try(failure):
    """SPEC RUN 25, RUN 26, RUN 27, RTY 30."""
    assert needs_answer(failure)
    assert decide(failure, RetryIn(timedelta(0))) == Retry(timedelta(0), failure.error)
    assert decide(failure, GiveUp()) == Bury((failure.error,))
    assert decide(failure, Nonsense(SECOND)) == Bury((failure.error, SECOND))


def test_a_failure_says_what_happened():
    """SPEC RUN 28."""
    assert outcome.timed_out(timedelta(seconds=30)).error["message"] == "timed out after 30 s"
    assert outcome.timed_out(timedelta(milliseconds=250)).error["message"] == "timed out after 0.25 s"
    assert outcome.raised(ValueError("boom")).error["message"] == "ValueError: boom"
    assert "FAILURE" in classify(TaskStatus.FAILURE).error["message"]


def test_deciding_a_failure_without_an_answer_is_a_bug_of_the_caller():
    with pytest.raises(AssertionError):
        decide(Failed(FIRST))


def test_a_task_that_cannot_be_run_is_buried_with_the_reason():
    """SPEC ENQ 9."""
    step = decide(Unfit("Mail: to: Field required"))
    assert isinstance(step, Bury)
    assert [error["message"] for error in step.errors] == ["Mail: to: Field required"]


def test_cancelled_and_interrupted_runs_ask_nobody():
    assert decide(Cancelled()) == Finish("cancelled")
    assert decide(Interrupted()) == Release()
    assert not needs_answer(Cancelled())
    assert not needs_answer(Interrupted())
