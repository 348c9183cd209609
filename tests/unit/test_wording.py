"""Figures and errors in sentences."""

from __future__ import annotations

import psycopg
import pytest

from taskrunner.wording import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (psycopg.OperationalError("gone\nfor good"), "gone"),
        (psycopg.OperationalError("\n gone"), "gone"),
        (psycopg.OperationalError(), "OperationalError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_an_error_is_told_in_one_line_also_if_it_says_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line
