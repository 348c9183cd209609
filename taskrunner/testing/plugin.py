"""The pytest plugin, loaded by its entry point; everything heavy is imported by the fixture that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskrunner.testing.database import Database, Server


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
