"""Fixtures of the tests that run the engine: see `tests.engine`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.engine")

if TYPE_CHECKING:
    from taskrunner.registry import Registry
    from taskrunner.testing.database import Database
    from tests.engine import Engine


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
