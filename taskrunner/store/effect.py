"""What a task does once: whether a key is done, and keeping its value, under the fence of the claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row
from taskrunner.statements import effect as sql


class Fence(NamedTuple):
    """Which claim writes: all three must match the row of a running task."""

    runner_id: UUID
    id: UUID
    claim_no: int


class Kept(NamedTuple):
    """Whether the claim holds, and the JSON text of what the key's function returned; None: it is to be called."""

    ours: bool
    value: str | None


def kept(fence: Fence, key: str) -> Op[Kept]:
    """Look up a key, of this claim or an earlier one."""
    return Op(sql.KEPT, {**fence._asdict(), "key": key}, _kept)


def keep(fence: Fence, key: str, value: str) -> Op[bool]:
    """Keep the JSON text of a value; False: the claim is lost, or somebody has the row locked. May be repeated."""
    return Op(sql.KEEP, _values(fence, key, value), bool)


def keep_in_session(fence: Fence, key: str, value: str) -> Op[bool]:
    """Keep a value in the transaction that will finish the task, under the fence; False: the claim is lost."""
    return Op(sql.KEEP_IN_SESSION, _values(fence, key, value), bool)


def _values(fence: Fence, key: str, value: str) -> dict[str, Any]:
    return {**fence._asdict(), "key": key, "value": value}


def _kept(rows: Sequence[Row]) -> Kept:
    return Kept(*rows[0])
