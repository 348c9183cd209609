"""What the two doors of a user's program share: where they lead to, and how they make rows of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from taskrunner import db
from taskrunner.access import database
from taskrunner.admission import Many, One
from taskrunner.durations import as_delay
from taskrunner.intake import Options, check_key, compose, compose_many
from taskrunner.registry import Registry
from taskrunner.registry import registry as declared
from taskrunner.settings import Settings, load
from taskrunner.store.enqueue import Idempotency

Duration = timedelta | float

POOL_SIZE = 4
"""Connections a door holds at most: after a restart of the server, so many may turn out to be dead."""


class Door:
    """What both doors share: where they lead to, and the work of each method."""

    patience: float = 10
    """Seconds to wait for a connection."""

    def __init__(
        self, url: str | None, *, tenant: str, registry: Registry | None, settings: Settings | None = None
    ) -> None:
        settings = settings or load()
        self._settings = settings
        self._tenant = tenant
        self._registry = registry or declared
        self._given, self._url = url, url
        self._access = ExitStack()

    def _find_url(self) -> str:
        """Return the database's URL; without one, join the project's private server for as long as the door is open."""
        if self._url is None:
            self._url = self._access.enter_context(database(self._settings)).url
        return self._url

    def _leave(self) -> None:
        self._access.close()
        self._url = self._given

    def _pool_arguments(self, url: str) -> dict[str, Any]:
        """A pool that has given up connecting starts anew with the next caller; until then its pauses would double."""
        return {
            "kwargs": db.arguments(url, name="taskrunner queue", prepare=self._settings.prepare),
            "min_size": 1,
            "max_size": POOL_SIZE,
            "timeout": self.patience,
            "reconnect_timeout": self.patience,
            "open": False,
            "num_workers": 1,
        }

    def _one(self, task: Any, options: Options, idempotency_key: str | None) -> One:
        row = compose(self._registry, task, options, self._tenant)
        return One(self._registry, row, self._idempotency(idempotency_key))

    def _many(self, tasks: Iterable[Any], spacing: Duration, tenant: str | None) -> Many:
        batch = compose_many(self._registry, tasks, as_delay(spacing, "spacing"), tenant or self._tenant)
        return Many(self._registry, batch)

    def _idempotency(self, key: str | None) -> Idempotency | None:
        if key is None:
            return None
        return Idempotency(f"caller {check_key('idempotency_key', key)}", self._settings.idempotency_retention)
