"""Whose code is running: which task's run the current context belongs to, for log lines.

A context variable: asyncio tasks and `asyncio.to_thread` that a task starts are in its scope too, a bare
`threading.Thread` is not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from taskrunner import traces

NEVER = logging.CRITICAL + 1000
"""A level that no record has: nothing is kept."""


class Scope(Protocol):
    """A run of a task, as far as logs are concerned."""

    @property
    def keep_level(self) -> int:
        """The least severe records that are kept with the task; `NEVER`: none."""

    @property
    def span(self) -> Any:
        """The span of the run, if it is traced."""

    def log_fields(self) -> Mapping[str, object]:
        """What each line about the run carries."""

    def keep(self, record: logging.LogRecord) -> None:
        """Keep a record with the task; never raises."""

    def veiled(self, text: str) -> str:
        """Return the text without the task's own secrets."""


current: ContextVar[Scope | None] = ContextVar("taskrunner_scope", default=None)


def enter(scope: Scope | None) -> None:
    """Let the caller's context be the run's: its log lines, and what it does in a trace."""
    current.set(scope)
    if scope is not None and scope.span is not None:
        traces.enter(scope.span)


secretive: set[Scope] = set()
"""The runs under way whose tasks have secrets: what is written outside of any scope may still tell them."""
