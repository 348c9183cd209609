"""Schedules that code declares: `register_task(…, frequency)` becomes, changes or ends a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from uuid_utils.compat import uuid7

from taskrunner.db import Op, Steps, column, scalar
from taskrunner.statements import schedule as sql
from taskrunner.store.schedule import Schedule, patience, read
from taskrunner.triggers import Trigger

Declared = Literal["added", "changed", "unchanged", "older", "taken"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """One task type's frequency; `version` rises with every release that may have changed it."""

    name: str
    trigger: Trigger
    version: int
    catch_up: str = "latest"
    jitter: timedelta | None = None
    aliases: tuple[str, ...] = ()


def declare(declaration: Declaration) -> Steps[Declared]:
    """Make the stored schedule what the code says; the same again, from anywhere, changes nothing.

    A changed frequency gets a new grid, first due after now (an interval counts from the last tick). A schedule under
    one of the type's older names hands over its place on the grid and ends.
    Returns: `older` when a newer release has declared it, `taken` when a schedule made at run time has the name.
    Raises psycopg's `LockNotAvailable` after 200 ms.
    """
    yield patience()
    now = yield Op(sql.NOW, {}, scalar)
    names = [declaration.name, *declaration.aliases]
    stored = {row.name: row for row in (yield Op(sql.DECLARED, {"names": names}, read)) if row.declared_in == "code"}
    before = stored.pop(declaration.name, None)
    if before is None:
        heritage = next((row for row in stored.values() if row.trigger), None)
        if (yield Op(sql.INSERT, _fresh(declaration, heritage, now), scalar)) is None:
            return (yield from _meet(declaration, now))
    if stored:
        yield _end(dict.fromkeys(stored, declaration.version))
    return "added" if before is None else (yield from _update(declaration, before, now))


def end(versions: Mapping[str, int]) -> Steps[list[str]]:
    """End the schedules of types whose code, in these versions, declares no frequency any more; returns which.

    Raises psycopg's `LockNotAvailable` after 200 ms.
    """
    yield patience()
    return (yield _end(versions))  # type: ignore[no-any-return]  # what a yield brings is untyped


def _end(versions: Mapping[str, int]) -> Op[list[str]]:
    return Op(sql.END_DECLARED, {"names": list(versions), "versions": list(versions.values())}, column)


def _meet(declaration: Declaration, now: datetime) -> Steps[Declared]:
    """Look at the row whose insert by somebody else came first."""
    rows = yield Op(sql.DECLARED, {"names": [declaration.name]}, read)
    if not rows or rows[0].declared_in != "code":
        return "taken"
    return (yield from _update(declaration, rows[0], now))


def _update(declaration: Declaration, before: Schedule, now: datetime) -> Steps[Declared]:
    if before.declared_version > declaration.version:
        return "older"
    asked = _asked(declaration)
    stored = {name: getattr(before, name) for name in asked}
    if asked == stored:
        return "unchanged"
    due = before.next_tick_at if _same_grid(declaration, before) else _restart(declaration, before, now)
    yield Op(sql.REDECLARE, {**asked, "id": before.id, "next_tick_at": due}, column)
    visible = asked | {"declared_version": before.declared_version} != stored
    return "changed" if visible else "unchanged"


def _asked(declaration: Declaration) -> dict[str, Any]:
    return {
        "trigger": declaration.trigger.text(),
        "timezone": declaration.trigger.timezone,
        "catch_up": declaration.catch_up,
        "jitter": declaration.jitter,
        "declared_version": declaration.version,
    }


def _same_grid(declaration: Declaration, before: Schedule) -> bool:
    return (before.trigger, before.timezone) == (declaration.trigger.text(), declaration.trigger.timezone)


def _restart(declaration: Declaration, before: Schedule | None, now: datetime) -> datetime | None:
    if before is None or before.last_tick_at is None:
        return declaration.trigger.first_after(now)
    return declaration.trigger.next_after(before.last_tick_at, now)


def _fresh(declaration: Declaration, heritage: Schedule | None, now: datetime) -> dict[str, Any]:
    inherits = heritage is not None and _same_grid(declaration, heritage)
    return {
        **_asked(declaration),
        "id": uuid7(),
        "tenant": "default",
        "name": declaration.name,
        "type": declaration.name,
        "start_at": None,
        "end_at": None,
        "key": None,
        "queue": None,
        "priority": None,
        "next_tick_at": heritage.next_tick_at if heritage and inherits else _restart(declaration, heritage, now),
        "last_tick_at": heritage.last_tick_at if heritage else None,
        "last_task_id": heritage.last_task_id if heritage else None,
        "ticks": heritage.ticks if heritage else 0,
        "skipped": heritage.skipped if heritage else 0,
        "paused": heritage.paused if heritage else False,
        "payload": "{}",
        "declared_in": "code",
    }
