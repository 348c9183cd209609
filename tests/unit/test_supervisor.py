"""A supervisor and what it cannot start."""

from __future__ import annotations

import logging
import sys

import pytest

from taskrunner.settings import Settings
from taskrunner.supervisor import supervise


def test_children_that_the_system_cannot_start_bring_the_rest_down_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC SHU 45."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with caplog.at_level(logging.ERROR, "taskrunner.supervisor"):
        assert supervise(["runner", "scheduler"], Settings(), "postgresql://nobody@localhost:1/nothing") == 1
    assert "runner cannot be started: [Errno 2]" in caplog.text
