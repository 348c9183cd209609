"""An outage of the database is told, and not every second again."""

from __future__ import annotations

import io
import logging

import pytest

from taskrunner import logs
from taskrunner.errors import Conflict, DatabaseUnreachable


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", "text", stream=stream)
    return stream


def test_one_outage_is_told_once_by_each_place_that_meets_it(written: io.StringIO) -> None:
    for name in ("taskrunner.one", "taskrunner.other"):
        for _ in range(5):
            logging.getLogger(name).warning("heartbeat failed: %s", DatabaseUnreachable("gone"))
    assert written.getvalue().count("heartbeat failed") == 2


def test_other_troubles_are_told_each_time(written: io.StringIO) -> None:
    for _ in range(3):
        logging.getLogger("taskrunner.one").warning("refused: %s", Conflict("taken"))
    assert written.getvalue().count("refused") == 3
