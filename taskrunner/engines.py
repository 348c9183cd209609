"""The engines of `context.session()`: bounded pools on the queue's own database, whose transactions the runner ends.

Loaded when a task asks for its first session.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, PoolResetState

from taskrunner import db, events
from taskrunner.errors import TaskrunnerError

COMMITTING = "taskrunner: this commit is the runner's"
"""Among the `info` of a connection that the runner is about to commit."""

_KEPT_IDLE = 5  # connections that a pool keeps, though nobody has a session
_FOR_EVER = 1e6  # seconds that a run waits for one: its own timeout counts

# What would end the transaction behind the runner's back; a savepoint is no such thing.
_ENDS_TRANSACTION = re.compile(r"\s*(commit|end|abort|rollback(?!\s+to\b)|prepare\s+transaction)\b", re.IGNORECASE)


def refusal(what: str) -> TaskrunnerError:
    """Say that ending the transaction is the runner's business."""
    return TaskrunnerError(
        f"{what} of context.session() is the runner's: it commits with the task's finish, after SUCCESS; "
        "begin_nested() makes a savepoint"
    )


def make_engine(url: str, *, prepare: bool, most: int) -> Engine:
    """Make an engine of at most so many connections, the queue's own database; 0: one a session, closed after it."""
    return _heard(create_engine("postgresql+psycopg://", **_options(most)), url, prepare=prepare)


def make_async_engine(url: str, *, prepare: bool, most: int) -> AsyncEngine:
    """Make the same for an event loop."""
    engine = create_async_engine("postgresql+psycopg://", **_options(most))
    _heard(engine.sync_engine, url, prepare=prepare)
    return engine


def _options(most: int) -> dict[str, Any]:
    # READ COMMITTED, whatever the role's default is: the finish meets rows that others have changed meanwhile.
    options: dict[str, Any] = {"isolation_level": "READ COMMITTED", "pool_reset_on_return": None}
    if not most:
        return {**options, "poolclass": NullPool}
    idle = min(most, _KEPT_IDLE)
    pool = {"pool_size": idle, "max_overflow": most - idle, "pool_timeout": _FOR_EVER, "pool_pre_ping": True}
    return {**options, **pool}


def _heard(engine: Engine, url: str, *, prepare: bool) -> Engine:
    """Connect as the runner does (SQLAlchemy's own URLs know no several hosts), and keep the transaction together."""

    @event.listens_for(engine, "do_connect")
    def connect_as_the_runner(_: object, __: object, words: list[Any], options: dict[str, Any]) -> None:
        words[:] = [url]
        options.update(db.arguments(url, name="taskrunner runner session", prepare=prepare), autocommit=False)

    @event.listens_for(engine, "reset")
    def roll_back(connection: Any, _: object, state: PoolResetState) -> None:
        if state.asyncio_safe:
            with suppress(psycopg.Error):  # one that is broken is found out when it is next lent
                connection.rollback()

    event.listen(engine, "commit", _guard_commit)
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    return engine


def _guard_commit(connection: Connection) -> None:
    if not connection.info.pop(COMMITTING, False):
        raise refusal("commit()")


def _before(_: object, __: object, statement: str, *___: object) -> None:
    if _ENDS_TRANSACTION.match(statement):
        raise refusal(statement.split()[0].upper())
    events.fail_point("session_statement")


def _after(*_: object) -> None:
    events.fail_point("session_executed")
