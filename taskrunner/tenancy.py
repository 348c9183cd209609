"""Work bound to a tenant: each transaction says whose it is, and takes it back with its end.

What binds is `set_config('taskrunner.tenant', …, true)`, which is SET LOCAL: nothing stays on a session, also behind a
pooler that gives it to somebody else. It travels with the work: no round trip is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.sql import Literal

from taskrunner.db import (
    Op,
    Row,
    Steps,
    Work,
    aexecute,
    arun,
    asteps,
    execute,
    in_schema,
    run,
    scalar,
    steps,
    translated,
)
from taskrunner.errors import NotFound
from taskrunner.statements import roles as sql

T = TypeVar("T")


def run_as(conn: psycopg.Connection[Any], work: Work[T], tenant: str | None) -> T:
    """Execute `work` as `run` does, bound to the tenant if there is one, on a connection in no transaction."""
    if tenant is None:
        return run(conn, work)
    with translated():
        if isinstance(work, Op):  # both in one implicit transaction, which ends with the pipeline
            with conn.pipeline():
                execute(conn, bind(tenant))
                cursor = execute(conn, work)
            return work.read(cursor.fetchall() if cursor.description is not None else ())
        conn.execute(_begin(conn, tenant))
        try:
            value = steps(conn, work)
        except BaseException:
            with suppress(psycopg.Error):
                conn.rollback()
            raise
        conn.commit()
        return value


async def arun_as(conn: psycopg.AsyncConnection[Any], work: Work[T], tenant: str | None) -> T:
    """Execute `work` as `arun` does, bound to the tenant if there is one, on a connection in no transaction."""
    if tenant is None:
        return await arun(conn, work)
    with translated():
        if isinstance(work, Op):
            async with conn.pipeline():
                await aexecute(conn, bind(tenant))
                cursor = await aexecute(conn, work)
            return work.read(await cursor.fetchall() if cursor.description is not None else ())
        await conn.execute(_begin(conn, tenant))
        try:
            value = await asteps(conn, work)
        except BaseException:
            with suppress(psycopg.Error):
                await conn.rollback()
            raise
        await conn.commit()
        return value


def _begin(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], tenant: str) -> bytes:
    """Return both in one message: `conn.transaction()` would send BEGIN and wait for its reply."""
    bound = Literal(tenant).as_string(conn)
    return f"BEGIN; SELECT set_config('{in_schema('taskrunner')}.tenant', {bound}, true)".encode()


def bind(tenant: str) -> Op[str]:
    """Bind the transaction; returns what it was bound to before."""
    return Op(sql.BIND, {"tenant": tenant}, _before)


def borrowing(work: Work[T], tenant: str | None) -> Work[T]:
    """Bind the work alone in a transaction of the caller's, who has his own binding back afterwards."""
    return work if tenant is None else _borrowing(work, tenant)


def _borrowing(work: Work[T], tenant: str) -> Steps[T]:
    before = yield bind(tenant)
    value: T = (yield work) if isinstance(work, Op) else (yield from work)
    yield bind(before)
    return value


def own(work: Work[T], id_: UUID | None, tenant: str | None) -> Work[T]:
    """Do the work on this task only if it is the tenant's: the owner's login is under no row security.

    A task never changes hands, so that to look first is enough. Raises: `NotFound`, as for a task that is not there.
    """
    return work if tenant is None or id_ is None else _own(work, id_, tenant)


def _own(work: Work[T], id_: UUID, tenant: str) -> Steps[T]:
    yield from check_own(id_, tenant)
    value: T = (yield work) if isinstance(work, Op) else (yield from work)
    return value


def check_own(id_: UUID, tenant: str) -> Steps[None]:
    """Raise `NotFound` unless the task is the tenant's, whatever its state."""
    if not (yield Op(sql.OWN, {"id": id_, "tenant": tenant}, scalar)):
        raise NotFound(f"the tenant {tenant} has no task {id_}: it was never stored, or retention has removed it")


def _before(rows: Sequence[Row]) -> str:
    return rows[0][0] or ""
