"""Fixtures of the tests that run the engine: see `tests.engine`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.engine")

# A shell starts what it puts into the background with SIGINT ignored, and every child of ours would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests start a thousand processes: without bytecode each compiles all that it imports, a third of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if TYPE_CHECKING:
    from taskrunner.registry import Registry
    from taskrunner.testing.database import Database, Server
    from tests.databases import Databases
    from tests.engine import Engine


@pytest.fixture(scope="session")
def databases(taskrunner_template: Server) -> Iterator[Databases]:
    """The databases of all tests of this worker."""
    from tests.databases import Databases

    made = Databases(taskrunner_template)
    yield made
    made.close()


@pytest.fixture
def taskrunner_db(databases: Databases) -> Iterator[Database]:
    """The plugin's fixture, only quicker: a migrated database with nothing in it, for this test alone."""
    with databases.lent() as lent:
        yield lent


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The registry that `@register_task` fills, empty for this test."""
    from taskrunner.registry.types import isolated

    with isolated() as empty:
        yield empty


@pytest.fixture
def engine(taskrunner_db: Database, registry: Registry) -> Iterator[Engine]:
    """A database of this test's own with an engine on it."""
    from tests.engine import Engine

    made = Engine(taskrunner_db, registry)
    yield made
    made.close()
