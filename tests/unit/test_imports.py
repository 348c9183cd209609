"""What declaring a task costs: no driver, no ORM, no web or command-line framework."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic.errors import PydanticSchemaGenerationError

HEAVY = (
    "sqlmodel",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "psycopg_pool",
    "typer",
    "rich",
    "fastapi",
    "starlette",
    "uvicorn",
    "apscheduler",
)


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which of the heavy modules it has loaded."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_the_probe_sees_a_heavy_module():
    assert "typer" in loaded_by("import typer")


@pytest.mark.parametrize(
    "code",
    [
        "from taskrunner import Task, register_task",
        "import taskrunner; dir(taskrunner)",
        "import taskrunner.registry, taskrunner.outcome, taskrunner.payload, taskrunner.triggers",
    ],
)
def test_declaring_tasks_loads_no_driver_and_no_framework(code):
    assert loaded_by(code) == set()


def test_a_task_with_a_crontab_is_declared_and_dumped_without_them():
    code = """
from taskrunner import Task, register_task
from taskrunner.payload import dump
@register_task("Nightly", "0 3 * * *", timezone="Europe/Warsaw", unique=True)
class Nightly(Task):
    def run(self): ...
assert dump(Nightly()) == "{}"
"""
    assert loaded_by(code) == set()


def test_an_unknown_name_is_an_attribute_error_that_says_so():
    import taskrunner

    with pytest.raises(AttributeError, match="'taskrunner' has no attribute 'Tusk'"):
        _ = taskrunner.Tusk
    assert not hasattr(taskrunner, "Tusk")
    assert set(taskrunner.__all__) <= set(dir(taskrunner))


def test_every_public_name_has_its_home():
    import taskrunner

    assert set(taskrunner.__all__) == set(taskrunner._HOMES)


@pytest.mark.parametrize("name", ["taskrunner", "taskrunner.registry", "taskrunner.console", "taskrunner.reads"])
def test_no_module_of_a_package_hides_what_the_package_offers(name):
    """A submodule that has been imported is found before a name that is loaded when it is asked for."""
    package = import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)
    assert all(getattr(package, offered) is not None for offered in package.__all__)


def test_the_help_loads_not_even_pydantic():
    """SPEED 10."""
    code = "import sys, taskrunner.cli\nassert 'pydantic' not in sys.modules, 'pydantic'"
    assert loaded_by(code) == {"typer"}


def test_to_declare_a_task_loads_nothing_that_only_runs_or_schedules_one():
    """SPEED 10."""
    code = """
import sys
from taskrunner import Task, register_task
@register_task("Mail")
class Mail(Task):
    async def run(self): ...
late = ("outcome", "payload", "jsonvalue", "errortext", "triggers", "registry.discovery", "registry.unique", "events")
late = {"taskrunner." + name for name in late}
assert not late & set(sys.modules), late & set(sys.modules)
"""
    assert loaded_by(code) == set()


def test_a_mistake_in_a_class_shows_where_it_is_declared():
    """The base class's own validator is not built, those of its subclasses are."""
    from taskrunner import Task

    with pytest.raises(PydanticSchemaGenerationError):
        type("Wrong", (Task,), {"__annotations__": {"field": object()}, "__module__": __name__})


def test_the_doors_open_on_demand_and_then_there_is_a_driver():
    code = "import taskrunner\nfor name in taskrunner.__all__: assert getattr(taskrunner, name).__name__ == name"
    assert "psycopg" in loaded_by(code)


@pytest.mark.parametrize(
    "module", ["cli.enqueue", "queue", "schema", "store.steering", "reads", "supervisor", "runner"]
)
def test_what_enqueues_looks_or_works_loads_no_orm(module):
    assert loaded_by(f"import taskrunner.{module}") & {"sqlmodel", "sqlalchemy", "alembic", "rich"} == set()


def test_the_package_says_that_it_is_typed():
    import taskrunner

    assert Path(taskrunner.__file__).with_name("py.typed").is_file()
