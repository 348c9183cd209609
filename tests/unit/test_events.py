"""Events are heard by those who listen and cost the others nothing; fail points break where they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

import pytest

from taskrunner import events
from taskrunner.events import Joined, Settled


def test_an_event_reaches_every_callback_of_its_kind_and_no_other() -> None:
    heard: list[object] = []
    task_id = uuid4()
    with events.on(Settled, heard.append), events.on(Settled, heard.append), events.on(Joined, heard.append):
        events.emit(Settled, task_id, 7)
    assert heard == [Settled(task_id, 7), Settled(task_id, 7)]


def test_nothing_is_heard_any_more_once_the_listener_has_left() -> None:
    heard: list[object] = []
    with events.on(Settled, heard.append):
        pass
    events.emit(Settled, uuid4(), 1)
    assert heard == []


def test_an_event_that_nobody_hears_is_not_even_made() -> None:
    made: list[int] = []
    events.emit(made.append, 1)
    assert made == []


def test_a_callback_that_raises_hurts_neither_the_others_nor_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[object] = []

    def fail(event: Settled) -> None:
        raise ValueError("mine")

    with events.on(Settled, fail), events.on(Settled, heard.append):
        events.emit(Settled, uuid4(), 1)
    assert len(heard) == 1
    assert "Settled" in caplog.text
    assert "mine" in caplog.text


SCRIPT = """
from taskrunner import events
events.fail_point("elsewhere")
for _ in range(3):
    print("before", flush=True)
    events.fail_point("here")
print("survived")
"""


def run(fail_point: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, events.FAIL_POINT: fail_point},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_armed_fail_point_kills_the_process_at_the_pass_it_was_told() -> None:
    assert run("here:kill").returncode == -9
    third = run("here:exit:3")
    assert (third.returncode, third.stdout.split()) == (70, ["before"] * 3)


def test_a_fail_point_that_is_not_armed_does_nothing() -> None:
    done = run("nowhere:kill")
    assert done.returncode == 0
    assert done.stdout.endswith("survived\n")


@pytest.mark.parametrize("text", ["here", "here:dance", "here:kill:0", "here:kill:x", ":kill"])
def test_a_fail_point_that_cannot_be_meant_is_refused_with_the_shape_that_can(text: str) -> None:
    done = run(text)
    assert done.returncode == 1
    assert "name:action" in done.stderr
