"""Fair queues: the claim that goes round the tenants, and what makes a queue fair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.statements import fair as hot
from taskrunner.statements import fairness as sql
from taskrunner.store.task import Claimed, Cycle, Cycled, Due, Turn, announce, cycle_params, distinct_priorities

LARGE = 100
"""A claim of so many tasks takes two turns of each of many tenants. Only runners of short tasks claim so many at once,
so that a turn comes soon again."""


def cycle(asked: Cycle, turn: Turn, *, strays: bool = True) -> Op[Cycled]:
    """End, mark and claim in one round trip, as `store.task.cycle`; tenants come in turn, beginning at `turn`.

    With `strays`, rows that were never told to be of a fair queue are claimed when nothing else is due.
    """
    before = _before(turn)
    params = {**cycle_params(asked), "tenant": turn.tenant, "left": turn.left, "before": before}
    if turn.wide and distinct_priorities(asked):
        turns = 2 if asked.room >= LARGE else 1
        return Op(hot.CYCLE_WIDE, {**params, "turns": turns}, lambda rows: _cycled(rows, turn, more=True))
    return Op(hot.CYCLE_FAIR, {**params, "turns": 1, "strays": strays}, lambda rows: _cycled(rows, turn, more=False))


def in_turn(claims: Sequence[Claimed], weights: Mapping[str, int], turn: Turn) -> list[Claimed]:
    """Return claims in the order of their turns: of each tenant as many as it weighs, beginning at `turn`.

    Tenants come in descending order, their own tasks by priority, maturity and id.
    """
    before = _before(turn)
    tenants = sorted({claim.tenant for claim in claims}, reverse=True)
    places = {tenant: place for place, tenant in enumerate(sorted(tenants, key=lambda name: name >= before))}
    had = {turn.tenant: max(weights.get(turn.tenant, 1) - turn.left, 0)} if turn.left else {}
    ordered = []
    for claim in sorted(claims, key=lambda task: (-task.priority, task.maturity_at, task.id.int)):
        number = had.get(claim.tenant, 0)
        had[claim.tenant] = number + 1
        ordered.append((number // weights.get(claim.tenant, 1), places[claim.tenant], number, claim))
    ordered.sort(key=lambda one: one[:3])
    return [claim for *_, claim in ordered]


def _before(turn: Turn) -> str:
    """Return what the next tenant stands before, in the collation C; the one that has its turn stands before itself."""
    return turn.tenant + "\x01" if turn.left else turn.tenant


def _cycled(rows: Sequence[Row], turn: Turn, *, more: bool) -> Cycled:
    claims, left, after, weights = [], [], turn._replace(wide=False), {}
    for row in rows:
        if row[0] is None:
            after, weights, more = Turn(row[2], row[1], bool(row[5])), json.loads(row[6] or "{}"), row[13]
        elif row[2] is None:
            left.append((row[0], row[1]))
        else:
            claims.append(Claimed._make(row))
    return Cycled(in_turn(claims, weights, turn), left, after, weights, more)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Moved(NamedTuple):
    """Rows that were told to be of a fair queue: how many, and up to which id they were looked for (None: all were)."""

    rows: int
    last: UUID | None


def set_fair(queue: str, *, fair: bool) -> Steps[int]:
    """Make a queue fair or ordinary, and wake its runners; returns the number of this transaction, for `settled`."""
    number: int = yield Op(sql.SET_FAIR, {"queue": queue, "fair": fair}, scalar)
    yield announce([Due(UUID(int=0), queue, 0, 0.0)])
    return number


def move(queue: str, after: UUID, room: int) -> Op[Moved]:
    """Tell the next `room` rows behind the id `after` that their queue is fair; rows that are locked are left out."""
    return Op(sql.MOVE, {"queue": queue, "after": after, "room": room}, lambda rows: Moved(*rows[0]))


def settled(number: int) -> Op[bool]:
    """Tell whether all transactions that began to write before this one have ended."""
    return Op(sql.SETTLED, {"number": number}, scalar)


def weigh(queue: str, tenant: str, weight: int) -> Op[str]:
    """Give a tenant so many tasks in each round of a queue, if that is fair."""
    return Op(sql.WEIGH, {"queue": queue, "tenant": tenant, "weight": weight}, scalar)
