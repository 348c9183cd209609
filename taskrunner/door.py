"""What the two doors of a user's program share: where they lead to, and how they make rows of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from psycopg.errors import LockNotAvailable

from taskrunner import db, redaction, traces
from taskrunner.access import database
from taskrunner.admission import Many, One, Whole
from taskrunner.durations import as_delay
from taskrunner.errors import Conflict, InvalidArgument
from taskrunner.flow import Step, lay_out
from taskrunner.intake import Options, as_after, check_key, check_tenant, compose, compose_many, place_of
from taskrunner.listing import wanted
from taskrunner.reads import TaskFilter, TaskView
from taskrunner.registry import Registry
from taskrunner.registry import registry as declared
from taskrunner.settings import Settings, load
from taskrunner.store.enqueue import Idempotency
from taskrunner.store.replacement import Place

Duration = timedelta | float

POOL_SIZE = 4
"""Connections a door holds at most: after a restart of the server, so many may turn out to be dead."""


class Door:
    """What both doors share: where they lead to, and the work of each method."""

    patience: float = 10
    """Seconds to wait for a connection."""

    lock_patience: float = 5
    """Seconds that an enqueue waits for a key that somebody's open transaction holds."""

    def __init__(
        self, url: str | None, *, tenant: str | None, registry: Registry | None, settings: Settings | None = None
    ) -> None:
        settings = settings or load()
        self._settings = settings
        redaction.use(settings.redact)
        traces.use(settings.traces)
        self._bound = check_tenant(tenant)
        self._tenant = tenant or "default"
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

    def _tenant_of(self, asked: str | None) -> str | None:
        """Return it. Raises: `InvalidArgument` for a tenant that is not the door's own, if it has one."""
        if self._bound is not None and asked not in (None, self._bound):
            raise InvalidArgument(
                f"this door is the tenant {self._bound}'s, not {asked!r}: open another one, or one without tenant="
            )
        return asked

    def _seen(self, view: TaskView | None) -> TaskView | None:
        """Return the task unless it is another tenant's: the owner's login is under no row security."""
        return None if view is not None and self._bound not in (None, view.tenant) else view

    def _operator(self) -> str:
        """Return the URL for what concerns all tenants. Raises: `InvalidArgument` at a door that is bound to one."""
        if self._bound is not None:
            raise InvalidArgument(f"this door is the tenant {self._bound}'s: queues are everybody's, use one without")
        return self._find_url()

    def _one(
        self, task: Any, options: Options, idempotency_key: str | None, after: Any = None, mode: str = "fail"
    ) -> One:
        placed = as_after(after, mode)
        self._tenant_of(options.tenant)
        row = compose(self._registry, task, options, self._tenant)
        if placed is not None and row.id in placed.parents:
            raise InvalidArgument(f"after= names the task itself, {row.id}: a task cannot wait for its own end")
        return One(self._registry, row, self._idempotency(idempotency_key), placed)

    def _whole(self, flow: Step, tenant: str | None) -> Whole:
        tasks, edges = lay_out(flow)
        owner = self._tenant_of(tenant) or self._tenant
        return Whole(self._registry, compose_many(self._registry, tasks, timedelta(0), owner), edges)

    def _listed(self, type_: Any, *, tenant: str | None, **filters: Any) -> TaskFilter:
        return wanted(self._registry, type_, tenant=self._tenant_of(tenant) or self._bound, **filters)

    def _place(self, task: Any, key: str | None, tenant: str | None) -> Place:
        return place_of(self._registry, task, key, self._tenant_of(tenant) or self._tenant)

    def _patience(self, connection: Any) -> float:
        """Return how long an enqueue waits for a key; in a transaction of the caller's he decides: 0."""
        return self.lock_patience if connection is None else 0

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Raise `Conflict` for a lock that was not to be had in time."""
        try:
            yield
        except LockNotAvailable as error:
            raise Conflict(
                f"somebody's open transaction holds this key, or its task, and has not ended within "
                f"{self.lock_patience:g} s: try again later"
            ) from error

    def _many(self, tasks: Iterable[Any], spacing: Duration, tenant: str | None) -> Many:
        batch = compose_many(
            self._registry, tasks, as_delay(spacing, "spacing"), self._tenant_of(tenant) or self._tenant
        )
        return Many(self._registry, batch)

    def _idempotency(self, key: str | None) -> Idempotency | None:
        if key is None:
            return None
        return Idempotency(f"caller {check_key('idempotency_key', key)}", self._settings.idempotency_retention)
