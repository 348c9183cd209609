"""The pytest plugin that users get: what is due runs, clocks move, and assertions say what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from taskrunner import Snooze, Task, TaskQueue, TaskStatus, constant, register_task
from taskrunner.errors import InvalidArgument, UnknownType, WaitTimeout
from taskrunner.registry import Registry, isolated
from taskrunner.testing import plugin
from taskrunner.testing.database import Database
from taskrunner.testing.plugin import AssertEnqueued, RefuteEnqueued, RunDue

MINUTE = timedelta(minutes=1)

taskrunner_db = plugin.taskrunner_db  # what users get, not the quicker one of the other tests


class Greet(Task):
    name: str
    at: datetime | None = None

    async def run(self) -> str:
        return f"Hello, {self.name}!"


class Flaky(Task):
    """Fails twice, then succeeds."""

    def run(self) -> int:
        if self.tries < 2:
            raise ValueError(f"try {self.tries}")
        return self.tries

    def next_try(self) -> timedelta:
        return constant(MINUTE)(self.tries)


class Hopeless(Task):
    def run(self) -> TaskStatus:
        return TaskStatus.FAILURE

    def next_try(self) -> None:
        return None


class Parent(Task):
    """Adds a task to a queue that no type declares."""

    def run(self) -> None:
        with TaskQueue.connect() as queue:
            queue.add(Greet(name="child"), queue="unheard-of")


class Restless(Task):
    async def run(self) -> Snooze:
        return Snooze(0)


class Patient(Task):
    async def run(self) -> None:
        await asyncio.Event().wait()


TYPES = (Greet, Flaky, Hopeless, Parent, Restless, Patient)


@pytest.fixture(autouse=True)
def types() -> Iterator[Registry]:
    with isolated() as registry:
        for cls in TYPES:
            register_task(cls.__name__, aliases=(f"Old{cls.__name__}",))(cls)
        yield registry


def test_what_is_due_runs_to_its_end_and_is_returned_in_the_order_of_its_end(
    taskrunner_queue: TaskQueue, run_due: RunDue
) -> None:
    first = taskrunner_queue.add(Greet(name="Ann"), priority=300)
    ended = run_due()
    second = taskrunner_queue.add(Hopeless())
    ended += run_due()
    assert [(task.id, task.state, task.result) for task in ended] == [
        (first.id, "succeeded", "Hello, Ann!"),
        (second.id, "dead", None),
    ]


def test_a_door_that_the_code_under_test_opens_leads_to_the_tests_database(taskrunner_queue: TaskQueue) -> None:
    with TaskQueue.connect() as door:
        added = door.add(Greet(name="Ann"))
    assert taskrunner_queue.get(added.id).payload["name"] == "Ann"


def test_retries_wait_for_the_clock_and_run_after_a_journey(
    taskrunner_queue: TaskQueue, taskrunner_db: Database, run_due: RunDue
) -> None:
    added = taskrunner_queue.add(Flaky())
    assert run_due() == []
    assert taskrunner_queue.get(added.id).tries == 1
    taskrunner_db.travel(MINUTE)
    assert run_due() == []
    taskrunner_db.travel(MINUTE - timedelta(seconds=30))
    assert run_due() == []
    taskrunner_db.travel(timedelta(seconds=31))
    (ended,) = run_due()
    assert (ended.state, ended.result) == ("succeeded", 2)
    assert [error["message"] for error in ended.errors] == ["ValueError: try 0", "ValueError: try 1"]


def test_a_delayed_task_runs_once_its_time_has_come(
    taskrunner_queue: TaskQueue, taskrunner_db: Database, run_due: RunDue
) -> None:
    taskrunner_queue.add(Greet(name="later"), delay=timedelta(days=3))
    assert run_due() == []
    taskrunner_db.travel(timedelta(days=3))
    assert [task.result for task in run_due()] == ["Hello, later!"]


def test_tasks_that_a_task_adds_run_too_in_whatever_queue(taskrunner_queue: TaskQueue, run_due: RunDue) -> None:
    taskrunner_queue.add(Parent())
    assert [task.type for task in run_due()] == ["Parent", "Greet"]


def test_a_paused_queue_stays_paused(
    taskrunner_queue: TaskQueue, taskrunner_db: Database, run_due: RunDue, assert_enqueued: AssertEnqueued
) -> None:
    with taskrunner_db.connect() as conn:
        conn.execute("INSERT INTO taskrunner.queue_settings (queue, paused) VALUES ('default', true)")
    taskrunner_queue.add(Greet(name="Ann"))
    assert run_due() == []
    assert_enqueued(Greet, name="Ann")


@pytest.mark.parametrize("cls", [Restless, Patient])
def test_a_task_that_does_not_end_is_named_when_the_time_is_up(
    cls: type[Task], taskrunner_queue: TaskQueue, run_due: RunDue
) -> None:
    added = taskrunner_queue.add(cls())
    with pytest.raises(WaitTimeout, match=str(added.id)):
        run_due(timeout=0.5)
    assert taskrunner_queue.get(added.id).state == "pending"


def test_nothing_is_left_behind(taskrunner_queue: TaskQueue, taskrunner_db: Database, run_due: RunDue) -> None:
    taskrunner_queue.add(Greet(name="Ann"))
    run_due()
    with taskrunner_db.connect() as conn:
        assert conn.execute("SELECT count(*) FROM taskrunner.runner").fetchone() == (0,)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asynchronous_tests_run_what_is_due_in_a_thread(taskrunner_queue: TaskQueue, run_due: RunDue) -> None:
    taskrunner_queue.add(Greet(name="Ann"))
    (ended,) = await asyncio.to_thread(run_due)
    assert ended.result == "Hello, Ann!"


def test_an_enqueued_task_is_found_by_class_name_alias_and_fields_as_the_task_has_them(
    taskrunner_queue: TaskQueue, assert_enqueued: AssertEnqueued, refute_enqueued: RefuteEnqueued
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    added = taskrunner_queue.add(Greet(name="Ann", at=noon))
    assert assert_enqueued(Greet, name="Ann", at=noon).id == added.id
    assert assert_enqueued("Greet").id == assert_enqueued("OldGreet", name="Ann").id == added.id
    refute_enqueued(Greet, name="Bob")
    refute_enqueued(Hopeless)


def test_the_newest_of_several_is_returned(taskrunner_queue: TaskQueue, assert_enqueued: AssertEnqueued) -> None:
    taskrunner_queue.add(Greet(name="Ann"))
    newest = taskrunner_queue.add(Greet(name="Ann"), delay=60)
    assert assert_enqueued(Greet, name="Ann").id == newest.id


def test_a_failed_assertion_lists_what_there_is(
    taskrunner_queue: TaskQueue, assert_enqueued: AssertEnqueued, refute_enqueued: RefuteEnqueued
) -> None:
    with pytest.raises(AssertionError, match=r"no Greet\(name='Ann'\) is enqueued; there is no live Greet at all"):
        assert_enqueued(Greet, name="Ann")
    added = taskrunner_queue.add(Greet(name="Bob"))
    with pytest.raises(AssertionError, match=f"(?s)no Greet.*{added.id} pending .*Bob"):
        assert_enqueued(Greet, name="Ann")
    with pytest.raises(AssertionError, match=f"(?s)should not be enqueued.*{added.id}"):
        refute_enqueued(Greet)


def test_what_has_run_is_enqueued_no_more(
    taskrunner_queue: TaskQueue, run_due: RunDue, refute_enqueued: RefuteEnqueued
) -> None:
    taskrunner_queue.add(Greet(name="Ann"))
    run_due()
    refute_enqueued(Greet)


def test_misspelt_fields_and_types_are_errors_not_answers(
    assert_enqueued: AssertEnqueued, refute_enqueued: RefuteEnqueued
) -> None:
    with pytest.raises(InvalidArgument, match="no field 'nam'; did you mean 'name'"):
        refute_enqueued(Greet, nam="Ann")
    with pytest.raises(UnknownType, match="'Greet'"):
        assert_enqueued("Gret")
