"""The base class of tasks: cheap instances, rows bound to them, names that cannot be hidden."""

import copy
import warnings
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, PrivateAttr, ValidationError

from taskrunner.errors import RegistrationError, TaskrunnerError
from taskrunner.outcome import GiveUp, Nonsense, RetryIn
from taskrunner.task import RunInfo, Task, ask_next_try, bind

Item = TypeVar("Item")


class Mail(Task):
    to: str
    subject: str = "Hello"


def row(**changes: Any) -> RunInfo:
    values = {
        "id": uuid4(),
        "tries": 2,
        "crashes": 1,
        "max_retries": 7,
        "priority": 5,
        "queue": "mail",
        "tenant": "acme",
        "errors": ({"message": "boom"},),
        "context": None,
    }
    return RunInfo(**(values | changes))


def test_an_id_is_a_uuid_of_version_7_and_stays_the_same():
    task = Mail(to="a@b.c")
    assert type(task.id) is UUID
    assert task.id.version == 7
    assert task.id == task.id


def test_ids_made_one_after_the_other_are_in_order():
    ids = [Mail(to="x").id for _ in range(100)]
    assert ids == sorted(ids)


def test_a_copy_is_another_task_and_gets_an_id_of_its_own():
    task = Mail(to="x")
    first = task.id
    assert copy.copy(task).id != first
    assert task.model_copy(update={"to": "y"}).id != first
    assert copy.copy(task) == task


def test_a_task_that_has_no_row_shows_the_defaults():
    task = Mail(to="x")
    shown = (task.tries, task.crashes, task.max_retries, task.priority, task.queue, task.tenant, task.errors)
    assert shown == (0, 0, 3, 100, "default", "default", ())


def test_a_bound_task_shows_its_row():
    task, run = Mail(to="x"), row()
    bind(task, run)
    assert task.id == run.id
    shown = (task.tries, task.crashes, task.max_retries, task.priority, task.queue, task.tenant, task.errors)
    assert shown == (2, 1, 7, 5, "mail", "acme", ({"message": "boom"},))


def test_the_row_is_no_part_of_the_payload():
    """SPEC ENQ 9."""
    task = Mail(to="x")
    bind(task, row())
    assert task.model_dump() == {"to": "x", "subject": "Hello"}


def test_the_row_survives_an_assignment_to_a_field():
    task, run = Mail(to="x"), row()
    bind(task, run)
    task.to = "y"
    assert task.id == run.id


def test_context_outside_a_run_is_an_error_that_says_so():
    with pytest.raises(TaskrunnerError, match=r"Mail\.context is there only while a runner calls run"):
        _ = Mail(to="x").context


def test_the_columns_cannot_be_assigned():
    with pytest.raises(AttributeError):
        Mail(to="x").tries = 5  # type: ignore[misc]  # that it is refused is the test


@pytest.mark.parametrize("fields", [{}, {"to": 5}, {"to": "x", "cc": "y"}, {"to": "x", "tries": 3}])
def test_a_wrong_or_unknown_field_is_refused_where_it_is_written(fields):
    """SPEC ENQ 8."""
    with pytest.raises(ValidationError):
        Mail(**fields)


def test_an_assignment_is_checked_too():
    task = Mail(to="x")
    with pytest.raises(ValidationError):
        task.to = 5  # type: ignore[assignment]  # that it is refused is the test


@pytest.mark.parametrize(
    "name",
    [
        *("id", "tries", "crashes", "max_retries", "priority", "queue", "tenant", "context", "errors"),
        *("run", "next_try", "json", "copy", "dict", "schema", "model_dump", "model_fields", "_task_id"),
    ],
)
def test_a_field_may_not_hide_a_member_of_task(name):
    """SPEC REG 4."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RegistrationError, match=rf"class .*\.Hiding: '{name}' is the name of a member of Task"):
            type("Hiding", (Task,), {"__annotations__": {name: str}, "__module__": __name__})


def test_a_class_variable_or_a_method_may_not_hide_a_column_either():
    with pytest.raises(RegistrationError, match=r"@register_task\(…, priority=…\)"):

        class Annotated(Task):
            priority: ClassVar[int] = 5  # type: ignore[misc]  # that it is refused is the test

    with pytest.raises(RegistrationError, match="'queue'"):

        class Assigned(Task):
            queue = "mail"  # type: ignore[assignment]  # that it is refused is the test

    with pytest.raises(RegistrationError, match="'run'"):

        class NoMethod(Task):
            run = 5  # type: ignore[assignment]  # that it is refused is the test

    with pytest.raises(RegistrationError, match="'id'"):

        class Method(Task):
            def id(self): ...  # type: ignore[override]  # that it is refused is the test


def test_a_field_inherited_from_another_model_may_not_hide_a_member_either():
    class Numbered(BaseModel):
        id: int

    with pytest.raises(RegistrationError, match="'id'"):

        class Hiding(Numbered, Task): ...  # type: ignore[misc]  # that it is refused is the test


def test_fields_that_only_begin_like_members_of_pydantic_are_allowed_without_a_warning():
    class Training(Task):
        model_dump_path: str = ""
        model_name: str = ""

    assert Training(model_name="x").model_name == "x"


def test_mixins_generics_and_private_attributes_work():
    class Addressed(BaseModel):
        to: str = "x"

    class Both(Addressed, Task):
        _cache: dict[str, int] = PrivateAttr(default_factory=dict)

    class Boxed(Task, Generic[Item]):
        item: Item

    task = Both()
    task._cache["a"] = 1
    assert task.id != Boxed[int](item=3).id
    assert task.to == "x"


def test_the_base_policy_waits_at_most_5_10_20_seconds_and_gives_up_after_max_retries():
    """SPEC RUN 25."""
    task = Mail(to="x")
    for tries, most in [(0, 5), (1, 10), (2, 20)]:
        bind(task, row(tries=tries, max_retries=3))
        delays = [task.next_try() for _ in range(200)]
        assert all(timedelta(0) <= delay <= timedelta(seconds=most) for delay in delays)
        assert max(delays) > timedelta(seconds=most / 2)
    bind(task, row(tries=3, max_retries=3))
    assert task.next_try() is None


def test_a_hundred_tasks_that_fail_together_do_not_come_back_in_one_second():
    """SPEC RTY 32."""
    delays = [ask_next_try(Mail(to="x")).delay for _ in range(100)]
    assert max(delays) - min(delays) > timedelta(seconds=1)


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        (0, RetryIn(timedelta(0))),
        (1.5, RetryIn(timedelta(seconds=1.5))),
        (timedelta(minutes=1), RetryIn(timedelta(minutes=1))),
        (None, GiveUp()),
        (-1, GiveUp()),
        (timedelta(seconds=-1), GiveUp()),
    ],
)
def test_an_answer_of_next_try_is_read(answer, meant):
    class Answering(Task):
        def next_try(self):
            return answer

    assert ask_next_try(Answering()) == meant


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), "5", True, 10**400, [], timedelta.max])
def test_an_answer_that_is_no_delay_is_nonsense(answer):
    """SPEC RUN 26."""

    class Answering(Task):
        def next_try(self):
            return answer

    meant = ask_next_try(Answering())
    assert isinstance(meant, Nonsense)
    assert "next_try()" in meant.error["message"]


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt(), RecursionError()])
def test_a_next_try_that_raises_is_nonsense_with_its_traceback_and_is_asked_once(error):
    """SPEC RUN 26, RUN 27."""
    asked = []

    class Raising(Task):
        def next_try(self):
            asked.append(1)
            raise error

    meant = ask_next_try(Raising())
    assert isinstance(meant, Nonsense)
    assert type(error).__name__ in meant.error["message"]
    assert "in next_try" in meant.error["traceback"]
    assert asked == [1]
