"""Fixtures of the tests that run the engine: see `tests.engine`."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[Any]:
    """Let each report be sent by a worker: tests of odd text leave halves of characters in what was captured."""
    return _sendable((yield))


def _sendable(part: Any) -> Any:
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode()
    if isinstance(part, dict):
        return {_sendable(key): _sendable(value) for key, value in part.items()}
    return type(part)(map(_sendable, part)) if isinstance(part, list | tuple) else part


@pytest.fixture(autouse=True)
def logging_given_back() -> Iterator[None]:
    """Undo what a test does to logging, by `logs.configure` or by a command that it runs in this process."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers = root.handlers[:]
    levels = {logger: logger.level for logger in _loggers()}
    yield
    threading.excepthook = hook
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    for logger in _loggers():
        if logger.level != levels.get(logger, logging.NOTSET):
            # By the method: every logger forgets with it whether it was enabled.
            logger.setLevel(levels.get(logger, logging.NOTSET))


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]


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
