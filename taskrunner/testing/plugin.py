"""The pytest plugin, loaded by its entry point; everything heavy is imported by the fixture that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from taskrunner.queue import TaskQueue
    from taskrunner.reads import TaskView
    from taskrunner.registry import Registry
    from taskrunner.task import Task
    from taskrunner.testing.database import Database, Server


class RunDue(Protocol):
    """Runs all due tasks, and those that they make due, to their end, in this process; returns what ended.

    Tasks whose time has not come stay: `taskrunner_db.travel(…)` and call it again. Raises `WaitTimeout`.
    """

    def __call__(self, registry: Registry | None = None, *, timeout: timedelta | float = 30) -> list[TaskView]: ...


class AssertEnqueued(Protocol):
    """Returns the newest live task of a type, given as class or name, whose fields have these values.

    AssertionError lists what there is instead.
    """

    def __call__(self, wanted: type[Task] | str, /, **fields: Any) -> TaskView: ...


class RefuteEnqueued(Protocol):
    """Raises AssertionError if a live task of the type has these values in its fields."""

    def __call__(self, wanted: type[Task] | str, /, **fields: Any) -> None: ...


@pytest.fixture(scope="session")
def taskrunner_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A throwaway PostgreSQL server for the whole session (one per xdist worker)."""
    from taskrunner.testing import database

    with database.server(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def taskrunner_template(taskrunner_server: Server) -> Server:
    """The session's server with a migrated template database."""
    from taskrunner.testing import database

    database.prepare_template(taskrunner_server)
    return taskrunner_server


@pytest.fixture
def taskrunner_db(taskrunner_template: Server) -> Iterator[Database]:
    """A migrated database of this test's own, with a clock that can be moved."""
    from taskrunner.testing import database

    with database.database(taskrunner_template) as fresh:
        yield fresh


@pytest.fixture
def taskrunner_queue(taskrunner_db: Database) -> Iterator[TaskQueue]:
    """A door to this test's own database; DATABASE_URL names it too, for the doors that your code opens."""
    from taskrunner.queue import TaskQueue

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", taskrunner_db.url)
        with TaskQueue.connect() as queue:
            yield queue


@pytest.fixture
def run_due(taskrunner_db: Database, taskrunner_queue: TaskQueue) -> RunDue:
    """Run what is due: see `RunDue`."""
    from taskrunner.testing import running

    def run(registry: Registry | None = None, *, timeout: timedelta | float = 30) -> list[TaskView]:
        return running.run_due(taskrunner_db.url, registry, timeout=timeout)

    return run


@pytest.fixture
def assert_enqueued(taskrunner_db: Database, taskrunner_queue: TaskQueue) -> AssertEnqueued:
    """Expect a live task: see `AssertEnqueued`."""
    from taskrunner.registry import registry
    from taskrunner.testing import enqueued

    def check(wanted: type[Task] | str, /, **fields: Any) -> TaskView:
        with taskrunner_db.connect() as connection:
            return enqueued.assert_enqueued(connection, registry, wanted, **fields)

    return check


@pytest.fixture
def refute_enqueued(taskrunner_db: Database, taskrunner_queue: TaskQueue) -> RefuteEnqueued:
    """Expect that there is no such live task: see `RefuteEnqueued`."""
    from taskrunner.registry import registry
    from taskrunner.testing import enqueued

    def check(wanted: type[Task] | str, /, **fields: Any) -> None:
        with taskrunner_db.connect() as connection:
            enqueued.refute_enqueued(connection, registry, wanted, **fields)

    return check
