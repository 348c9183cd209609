"""Declaring task types, finding them in a project, and their unique keys."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.interval import IntervalTrigger

from taskrunner.errors import DiscoveryError, DuplicateName, InvalidArgument, RegistrationError, UnknownType
from taskrunner.registry import Registry, discover, isolated, register_task, registry, unique_key
from taskrunner.task import Task


@pytest.fixture(autouse=True)
def types():
    """Every test has the registry to itself."""
    with isolated() as fresh:
        yield fresh


def make(*args: Any, body: dict[str, Any] | None = None, **arguments: Any) -> type[Task]:
    """Declare a task type whose class has this body."""

    def run(self):
        return None

    cls = type("Made", (Task,), {"run": run, "__module__": __name__, **(body or {})})
    return register_task(*args, **arguments)(cls)


def with_field(**extra: Any) -> dict[str, Any]:
    return {"__annotations__": {"to": str}, **extra}


async def async_run(self): ...


# Declaring


def test_the_defaults_are_those_of_the_documentation(types):
    cls = make("Mail")
    found = types.get("Mail")
    assert (found.cls, found.queue, found.priority, found.max_retries) == (cls, "default", 100, 3)
    assert (found.frequency, found.unique, found.unique_for, found.timeout) == (None, False, None, None)
    assert (found.timezone, found.catch_up, found.jitter, found.aliases) == ("UTC", "latest", None, ())
    assert (found.module, Path(found.file).name) == (__name__, "test_registry.py")


def test_an_unsaved_task_shows_what_its_type_was_registered_with():
    cls = make("Mail", queue="mail", priority=7, max_retries=9)
    task = cls()
    assert (task.queue, task.priority, task.max_retries) == ("mail", 7, 9)


@pytest.mark.parametrize(
    ("run", "executor", "resolved"),
    [
        (None, "auto", "thread"),
        (None, "thread", "thread"),
        (async_run, "auto", "loop"),
        (async_run, "loop", "loop"),
    ],
)
def test_the_executor_follows_from_run(types, run, executor, resolved):
    make("Mail", executor=executor, body={"run": run} if run else {})
    assert types.get("Mail").executor == resolved


def test_both_kinds_of_run_may_go_to_a_process(types):
    make("Sync", executor="process", body={"__qualname__": "Sync"})
    make("Async", executor="process", body={"__qualname__": "Async", "run": async_run})
    assert {found.executor for found in types.all()} == {"process"}


@pytest.mark.parametrize(
    "frequency", [5, 0.5, timedelta(days=30), "*/5 * * * *", "@daily", IntervalTrigger(seconds=30)]
)
def test_every_kind_of_frequency_is_accepted(types, frequency):
    """SPEC REG 5."""
    make("Beat", frequency)
    assert types.get("Beat").frequency.first_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize(
    "frequency", [0, -1, timedelta(0), float("nan"), float("inf"), "often", "0 0 31 2 *", "* * * * * *", [], True]
)
def test_a_frequency_that_never_fires_is_an_error_that_names_the_task(types, frequency):
    """SPEC REG 3."""
    with pytest.raises(RegistrationError, match=r"task type 'Beat' \(class .*Made\)"):
        make("Beat", frequency)
    assert len(types) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"unique": "to"}, r"unique=\('to',\)"),
        ({"unique": ("cc",)}, "'cc', which is no field"),
        ({"unique": ()}, "unique must be"),
        ({"unique_for": 5}, "does nothing without unique"),
        ({"unique": True, "unique_for": 0}, "more than zero"),
        ({"queue": ""}, "queue"),
        ({"queue": "a,b"}, "commas"),
        ({"queue": "a:2"}, "colons"),
        ({"queue": 5}, "queue must be text"),
        ({"priority": "high"}, "priority must be an integer"),
        ({"priority": True}, "priority must be an integer"),
        ({"priority": 2**31}, "priority must be from -2147483648 to 2147483647"),
        ({"max_retries": -1}, "max_retries must be from 0"),
        ({"max_retries": 1.5}, "max_retries must be an integer"),
        ({"timeout": 0}, "timeout must be more than zero"),
        ({"timeout": -5}, "timeout must not be negative"),
        ({"timeout": "30s"}, "timeout must be seconds or a timedelta"),
        ({"timeout": float("nan")}, "timeout"),
        ({"executor": "fork"}, "executor must be one of"),
        ({"executor": "loop"}, "`async def run`"),
        ({"executor": "thread", "body": {"run": async_run}}, "`def run`"),
        ({"executor": "process", "body": {"__qualname__": "f.<locals>.Made"}}, "top of its module"),
        ({"timezone": "Europe/Warsow"}, "Europe/Warsaw"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"timezone": None}, "timezone must be text"),
        ({"catch_up": "some"}, "catch_up must be one of"),
        ({"jitter": 5}, "jitter does nothing without a frequency"),
        ({"frequency": 60, "jitter": -5}, "jitter must not be negative"),
        ({"aliases": "Old"}, "aliases must be a tuple"),
        ({"aliases": ("Mail",)}, "own name"),
        ({"aliases": ("",)}, "an alias must have"),
        ({"frequency": 60, "body": with_field()}, "nobody to fill in to"),
        ({"body": {"run": Task.run}}, r"has no run\(\)"),
        ({"body": {"run": staticmethod(lambda: None)}}, "run must be a method"),
        ({"body": {"run": lambda self, to: None}}, "'to' should be a field"),
        ({"body": {"run": lambda self: (yield)}}, "not yield"),
        ({"body": {"next_try": async_run}}, "plain `def`"),
        ({"body": {"next_try": lambda self: (yield)}}, "not yield"),
        ({"body": {"next_try": lambda self, tries: 5}}, "takes nothing but self"),
    ],
)
def test_a_wrong_argument_fails_at_import_and_names_the_class(types, arguments, said):
    """SPEC REG 4."""
    with pytest.raises(RegistrationError, match=rf"task type 'Mail' \(class .*Made\): .*{said}"):
        make("Mail", **arguments)
    assert len(types) == 0


@pytest.mark.parametrize("name", ["", "a" * 201, "a\nb", "a\0", " a", "\ud800", 5, None])
def test_a_name_that_no_command_could_carry_is_refused(name):
    with pytest.raises(RegistrationError, match="name"):
        make(name)


def test_names_with_dots_blanks_and_unicode_of_200_characters_are_fine(types):
    for name in ("mail.send", "żółw 🐢", "a" * 200):
        make(name, body={"__qualname__": name})
        assert name in types


@pytest.mark.parametrize("thing", [object, lambda: None, 5, Task])
def test_decorating_what_is_no_task_is_refused(thing):
    """SPEC REG 4."""
    with pytest.raises(RegistrationError, match="'Mail'"):
        register_task("Mail")(thing)


def test_the_decorator_without_its_name_says_how_it_is_written():
    with pytest.raises(RegistrationError, match=r'@register_task\("Mail"\)'):

        @register_task
        class Mail(Task):
            def run(self): ...


def test_a_field_that_is_excluded_from_dumps_is_refused():
    from pydantic import Field

    with pytest.raises(RegistrationError, match="exclude=True"):
        make("Mail", body=with_field(to=Field("", exclude=True)))


def test_run_may_be_inherited(types):
    class Base(Task):
        def run(self): ...

    @register_task("Child")
    class Child(Base): ...

    assert types.of(Child).name == "Child"
    with pytest.raises(UnknownType, match="Base"):
        types.of(Base)


def test_a_decorator_used_twice_keeps_no_state(types):
    """SPEC REG 2."""
    declare = register_task("Mail", 60, queue="mail")
    first = declare(type("First", (Task,), {"run": lambda self: 1, "__module__": __name__}))
    with pytest.raises(DuplicateName):
        declare(type("Second", (Task,), {"run": lambda self: 2, "__module__": __name__}))
    assert types.get("Mail").cls is first
    with isolated() as other:
        third = declare(type("Third", (Task,), {"run": lambda self: 3, "__module__": __name__}))
        assert other.get("Mail").cls is third
    assert types.get("Mail").cls is first


def test_a_class_has_one_name():
    cls = make("Mail")
    with pytest.raises(RegistrationError, match="registered already, as 'Mail'"):
        register_task("Post")(cls)


# Looking up


def test_an_alias_means_the_present_name(types):
    """SPEC REG 6."""
    cls = make("Mail", aliases=("SendMail", "OldMail"))
    assert types.get("OldMail").cls is cls
    assert types.canonical("SendMail") == "Mail"
    assert types.of(cls()) is types.of(cls) is types.get("Mail")
    assert types.names() == ["Mail"]
    assert types.names_and_aliases() == ["Mail", "OldMail", "SendMail"]
    assert "OldMail" in types
    assert "Other" not in types


@pytest.mark.parametrize(("first", "second"), [("A", "B"), ("B", "A")])
def test_a_name_and_an_alias_may_not_be_the_same_in_either_order(first, second):
    arguments: dict[str, Any] = {"A": {"aliases": ("B",)}, "B": {}}
    make(first, body={"__qualname__": first}, **arguments[first])
    with pytest.raises(DuplicateName, match="'B' is taken twice"):
        make(second, body={"__qualname__": second}, **arguments[second])


def test_an_unknown_name_suggests_near_ones(types):
    """SPEC ENQ 12."""
    make("SendEmail")
    with pytest.raises(UnknownType, match="did you mean 'SendEmail'"):
        types.get("SendMail")
    with pytest.raises(UnknownType, match="none is registered"):
        Registry().get("SendMail")


def test_isolated_leaves_the_registry_as_it_was_even_after_an_error(types):
    def fail_inside():
        with isolated() as inner:
            assert inner is registry
            assert inner.names() == []
            make("Other", body={"__qualname__": "Other"})
            raise ZeroDivisionError

    make("Mail")
    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert types.names() == ["Mail"]


# Unique keys


class Letter(Task):
    to: str = "a"
    tags: frozenset[str] = frozenset()
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    fee: Decimal = Decimal(1)

    def run(self): ...


def keys(unique: Any, *tasks: Task, key: str | None = None) -> list[str | None]:
    with isolated() as fresh:
        register_task("Letter", unique=unique)(Letter)
        return [unique_key(fresh.get("Letter"), task, key) for task in tasks]


def test_unique_keys_say_what_they_are_made_of():
    assert keys(False, Letter()) == [None]
    assert keys(True, Letter()) == ["type:"]
    assert keys(("to",), Letter(to="ü")) == ['fields:{"to":"ü"}']
    assert keys(False, Letter(), key="k") == ["key:k"]


def test_equal_values_have_equal_keys_and_others_have_others():
    first = Letter(tags=frozenset("xyz"), fee=Decimal("1.0"), at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    same = Letter(
        tags=frozenset("zyx"), fee=Decimal("1.00"), at=datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    )
    other = Letter(tags=frozenset("z"), fee=Decimal("1.0"), at=first.at)
    one, two, three = keys(("tags", "fee", "at"), first, same, other)
    assert one == two != three


def test_long_values_are_hashed():
    one, two = keys(("to",), Letter(to="a" * 300), Letter(to="a" * 301))
    assert one != two
    assert len(one) == len(two) == len("fields:sha256:") + 64


@pytest.mark.parametrize("key", ["a", "ü" * 255])
def test_a_key_of_1_to_255_characters_is_accepted(key):
    """SPEC ENQ 12."""
    assert keys(False, Letter(), key=key) == [f"key:{key}"]


@pytest.mark.parametrize("key", ["", "a" * 256, "a\0", "\ud800", 5])
def test_any_other_key_is_refused(key):
    """SPEC ENQ 12."""
    with pytest.raises(InvalidArgument, match="key"):
        keys(False, Letter(), key=key)


def test_a_key_on_a_unique_type_is_refused():
    with pytest.raises(InvalidArgument, match="'Letter' is unique by itself"):
        keys(True, Letter(), key="k")


# Discovery

TASK = """
from taskrunner import Task, register_task

@register_task("{name}")
class {cls}(Task):
    def run(self): ...
"""


def project(root: Path, **files: str) -> Path:
    """Write modules below `tasks/`; a double underscore in a name stands for a folder."""
    (root / "tasks").mkdir(exist_ok=True)
    for name, text in files.items():
        file = root.joinpath("tasks", *name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def task(name: str) -> str:
    return TASK.format(name=name, cls=name.replace(".", "_"))


@pytest.mark.parametrize("init", [False, True])
def test_every_module_of_the_folder_is_imported(tmp_path, init):
    """SPEC REG 1."""
    project(tmp_path, mail=task("Mail"), sub__deep__post=task("Post"))
    if init:
        for folder in ("tasks", "tasks/sub", "tasks/sub/deep"):
            (tmp_path / folder / "__init__.py").write_text("")
        (tmp_path / "tasks" / "__init__.py").write_text(task("Own"))
    assert discover(tmp_path).names() == ["Mail", "Own", "Post"][:: 1 if init else 2]
    assert registry.get("Post").module == "tasks.sub.deep.post"
    assert sys.path[0] == str(tmp_path)


def test_tasks_may_import_the_rest_of_the_project_and_each_other(tmp_path):
    (tmp_path / "library.py").write_text("NAME = 'Mail'\n")
    project(tmp_path, a="from tasks.b import Post\nimport library\n" + task("Mail"), b=task("Post"))
    assert discover(tmp_path).names() == ["Mail", "Post"]
    sys.modules.pop("library")


def test_hidden_files_are_left_alone_and_hyphens_are_fine(tmp_path):
    project(tmp_path, mail=task("Mail"))
    (tmp_path / "tasks" / "send-post.py").write_text(task("Post"))
    (tmp_path / "tasks" / ".#mail.py").write_text("syntax error")
    (tmp_path / "tasks" / "__main__.py").write_text("raise SystemExit")
    assert discover(tmp_path).names() == ["Mail", "Post"]


def test_another_folder_or_a_single_module_can_be_named(tmp_path):
    (tmp_path / "app" / "work").mkdir(parents=True)
    (tmp_path / "app" / "work" / "mail.py").write_text(task("Mail"))
    (tmp_path / "jobs.py").write_text(task("Post"))
    assert discover(tmp_path, "app/work").names() == ["Mail"]
    assert discover(tmp_path, "jobs").names() == ["Mail", "Post"]


def test_discovering_twice_changes_nothing(tmp_path):
    project(tmp_path, mail=task("Mail"))
    cls = discover(tmp_path).get("Mail").cls
    assert discover(tmp_path).get("Mail").cls is cls
    assert sys.path.count(str(tmp_path)) == 1


def test_modules_that_were_imported_before_are_registered_all_the_same(tmp_path, types):
    project(tmp_path, mail=task("Mail"))
    cls = discover(tmp_path).get("Mail").cls
    modules = types.modules
    types.become(Registry())
    assert discover(tmp_path).get("Mail").cls is cls
    types.modules |= modules


def test_two_projects_do_not_meet(tmp_path):
    for name in ("One", "Two"):
        (tmp_path / name).mkdir()
        project(tmp_path / name, mail=task(name))
        with isolated():
            assert discover(tmp_path / name).names() == [name]
    assert not [name for name in sys.modules if name.partition(".")[0] == "tasks"]


def test_a_missing_folder_names_the_command_and_the_setting(tmp_path):
    with pytest.raises(DiscoveryError, match=r"tasks: `taskrunner init` .* TASKRUNNER_TASKS"):
        discover(tmp_path)


def test_a_folder_whose_name_is_another_package_is_refused(tmp_path):
    (tmp_path / "json").mkdir()
    with pytest.raises(DiscoveryError, match=r"another package called 'json' .* TASKRUNNER_TASKS"):
        discover(tmp_path, "json")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import nowhere_at_all\n", 1, "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("\n\ndef broken(:\n", 3, "SyntaxError"),
        ("x = 1\n\n1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(7)\n", 2, "SystemExit: 7"),
        ("import json\njson.loads('x')\n", 2, "JSONDecodeError"),
    ],
)
def test_a_broken_module_is_named_with_file_and_line_and_nothing_is_registered(tmp_path, types, text, line, said):
    """SPEC REG 4."""
    project(tmp_path, a=task("Mail"), broken=text, z=task("Post"))
    path = list(sys.path)
    with pytest.raises(DiscoveryError) as broken:
        discover(tmp_path)
    assert str(broken.value).startswith(f"{tmp_path}/tasks/broken.py:{line}: ")
    assert said in str(broken.value)
    assert broken.value.exit_code == 3
    assert broken.value.__cause__ is not None
    assert types.names_and_aliases() == []
    assert sys.path == path

    project(tmp_path, broken="")
    assert discover(tmp_path).names() == ["Mail", "Post"]


def test_a_wrong_declaration_is_named_with_file_and_line(tmp_path, types):
    project(tmp_path, a=task("Mail"), beat=task("Beat").replace('("Beat"', '("Beat", 0'))
    with pytest.raises(RegistrationError, match=r"beat\.py:4: task type 'Beat' \(class tasks\.beat\.Beat\)") as wrong:
        discover(tmp_path)
    assert wrong.value.exit_code == 3
    assert len(types) == 0


def test_two_classes_under_one_name_are_named_with_their_modules_and_files(tmp_path, types):
    """SPEC REG 2."""
    project(tmp_path, a=task("Mail"), b=task("Mail"))
    with pytest.raises(DuplicateName) as twice:
        discover(tmp_path)
    for part in ("tasks.a.Mail", "tasks.b.Mail", "tasks/a.py", "tasks/b.py", "'Mail'"):
        assert part in str(twice.value)
    assert twice.value.exit_code == 3
    assert len(types) == 0


def test_the_same_class_name_twice_in_one_file_is_a_duplicate_too(tmp_path):
    project(tmp_path, a=task("Mail") + task("Mail"))
    with pytest.raises(DuplicateName):
        discover(tmp_path)


def test_the_same_class_imported_under_two_module_names_is_one(tmp_path, types):
    """SPEC REG 2."""
    project(tmp_path, mail=task("Mail"), other="import sys\nsys.path.append(__file__[:-9])\nimport mail\n")
    discover(tmp_path)
    assert types.names() == ["Mail"]
    assert types.of(sys.modules["mail"].Mail).name == types.of(sys.modules["tasks.mail"].Mail).name == "Mail"
    sys.modules.pop("mail")


LATE = "from __future__ import annotations\n" + task("Mail").replace("def run", "item: Item | None = None\n    def run")


def test_a_field_of_a_type_that_is_defined_later_in_the_module_is_resolved(tmp_path):
    project(tmp_path, mail=LATE + "\nclass Item(Task): ...\n")
    assert discover(tmp_path).get("Mail").cls(item=None).item is None


def test_a_field_of_a_type_that_is_nowhere_fails_at_start(tmp_path, types):
    project(tmp_path, mail=LATE)
    with pytest.raises(DiscoveryError, match=r"mail\.py:\d+: the fields of class tasks\.mail\.Mail"):
        discover(tmp_path)
    assert len(types) == 0


def test_a_file_that_python_cannot_import_is_named(tmp_path):
    project(tmp_path)
    (tmp_path / "tasks" / "mail.v2.py").write_text(task("Mail"))
    with pytest.raises(DiscoveryError, match=r"mail\.v2\.py: a dot in the name"):
        discover(tmp_path)
