"""A task's life after its enqueue: cycle (end and claim), retry, snooze, bury, release."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from taskrunner.buckets import BOUNDS
from taskrunner.columns import Bigints, Doubles, Texts, Uuids
from taskrunner.db import Op, Row, Steps, column, nothing
from taskrunner.statements import cycle as hot
from taskrunner.statements import enqueue
from taskrunner.statements import task as sql

CHANNEL = "taskrunner"
"""NOTIFY channel: a JSON object with `queue`, `type`, `priority` and `due_in`; see `Hint`."""


class Hint(NamedTuple):
    """What a notification says: a task of a queue is due in so many seconds, or was so many ago (negative)."""

    queue: str
    type: str | None  # None: of several types, or not told
    priority: int
    due_in: float


def hint(message: str) -> Hint:
    """Read a notification; a payload that is no hint raises ValueError, TypeError, KeyError or AttributeError."""
    said: dict[str, Any] = json.loads(message)
    type_ = said.get("type")
    return Hint(
        str(said["queue"]),
        str(type_) if type_ is not None else None,
        int(said.get("priority", 0)),
        float(said.get("due_in", 0.0)),
    )


class Claimed(NamedTuple):
    """A task in this runner's hands: the columns of CYCLE, in order. JSON is left as text; None: there is none."""

    id: UUID
    claim_no: int
    tenant: str
    queue: str
    type: str
    priority: int
    payload: str
    maturity_at: datetime
    tries: int
    crashes: int
    max_retries: int
    errors: str | None
    meta: str | None
    cancel_requested: bool


class Ending(NamedTuple):
    """The end of a claim, or what sends it back. Seconds are by the runner's monotonic clock.

    `age` is how long ago the run started, `run_seconds` how long it lasted; `detail` is the result, the error or the
    list of errors as JSON text; `delay` the seconds until the next maturity, for retries and snoozes.
    """

    id: UUID
    claim_no: int
    run_seconds: float = 0.0
    age: float = 0.0
    state: str = "succeeded"
    detail: str | None = None
    delay: float = 0.0


class Started(NamedTuple):
    """A claim whose run began `age` seconds ago."""

    id: UUID
    claim_no: int
    age: float


class Floor(NamedTuple):
    """The place in a front's order beneath which nothing was due when last looked."""

    maturity_at: datetime
    id: UUID


NO_FLOOR = Floor(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


class Front(NamedTuple):
    """A type and a priority of which a queue has due tasks, and from where on to look for them."""

    type: str
    priority: int
    floor: Floor = NO_FLOOR


class Prospect(NamedTuple):
    """The first task of a queue's type and priority, and in how many seconds it is due (≤ 0: it is)."""

    queue: str
    type: str
    priority: int
    maturity_at: datetime
    id: UUID
    due_in: float
    fair: bool = False


class Turn(NamedTuple):
    """How far a runner has come round a fair queue: the tenant it took from last, and what is left of its turn.

    It is `wide` when the last claim did not come round: of each tenant it took one turn at most.
    """

    tenant: str = ""
    left: int = 0
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one round trip asks for: `endings` to write, `started` to mark, up to `room` tasks of a queue's `fronts`.

    The fronts are in the order of their priority, the most urgent first.
    """

    runner_id: UUID
    endings: Sequence[Ending] = ()
    started: Sequence[Started] = ()
    queue: str = "default"
    fronts: Sequence[Front] = ()
    room: int = 0
    suspects: bool = True
    start: bool = False


@dataclass(frozen=True, slots=True)
class Cycled:
    """What one round trip brought: claims in the order of their start; endings whose row was not found.

    Of a fair queue also how far it came, the weights of tenants that are not 1, and whether there is more to claim.
    """

    claimed: list[Claimed] = field(default_factory=list)
    left: list[tuple[UUID, int]] = field(default_factory=list)
    turn: Turn | None = None
    weights: Mapping[str, int] | None = None
    more: bool = False


class Due(NamedTuple):
    """A task that is pending: in which queue, how urgent, in how many seconds it is due, and of which type."""

    id: UUID
    queue: str
    priority: int
    due_in: float
    type: str | None = None

    def hint(self) -> Hint:
        """Return what others are told of it."""
        return Hint(self.queue, self.type, self.priority, self.due_in)


class Fate(NamedTuple):
    """Of a claim whose ending found no row: does this runner still hold it, or was its end written before?

    A `special` one has children or a successor: `ending` ends it.
    """

    id: UUID
    held: bool
    special: bool
    ended: bool


HINTS = 8
"""Types and priorities of one queue that are named in as many notifications; of more, one says only the queue."""


def announce(due: Sequence[Due]) -> Op[None]:
    """Tell the runners: of each queue, type and priority the earliest maturity. Sent when the caller commits."""
    return Op(enqueue.NOTIFY, {"messages": _messages(due)}, nothing)


def announce_alone(due: Sequence[Due]) -> Op[None]:
    """Tell them so in a transaction that holds nothing else: it is not made durable."""
    return Op(enqueue.WORD, {"messages": _messages(due)}, nothing)


def _messages(due: Sequence[Due]) -> list[str]:
    fronts: dict[str, dict[tuple[str | None, int], float]] = {}
    for task in due:
        front = fronts.setdefault(task.queue, {})
        key = (task.type, task.priority)
        front[key] = min(front.get(key, task.due_in), task.due_in)
    hints = [hint for queue, front in fronts.items() for hint in _hints(queue, front)]
    return [json.dumps(hint._asdict()) for hint in hints]


def _hints(queue: str, fronts: Mapping[tuple[str | None, int], float]) -> list[Hint]:
    if len(fronts) > HINTS:
        return [Hint(queue, None, max(priority for _, priority in fronts), round(min(fronts.values()), 6))]
    return [Hint(queue, type_, priority, round(due_in, 6)) for (type_, priority), due_in in fronts.items()]


# ── claim and end ────────────────────────────────────────────────────────────────────────────────────────────────────


def cycle(asked: Cycle) -> Op[Cycled]:
    """End, mark and claim in one round trip. Endings that found no row are returned as `left`: see `fates`."""
    return Op(hot.CYCLE if distinct_priorities(asked) else hot.CYCLE_MERGED, cycle_params(asked), _cycled)


def distinct_priorities(asked: Cycle) -> bool:
    """Tell whether no two of the fronts have the same priority."""
    return len({front.priority for front in asked.fronts}) == len(asked.fronts)


def cycle_params(asked: Cycle) -> dict[str, Any]:
    """Return the parameters that all cycles have."""
    fronts = asked.fronts
    ids, claim_nos, run_seconds, ages, states, results, _ = zip(*asked.endings, strict=True) if asked.endings else _NONE
    return {
        "runner_id": asked.runner_id,
        "ids": Uuids(ids),
        "claim_nos": Bigints(claim_nos),
        "run_seconds": Doubles(run_seconds),
        "ages": Doubles(ages),
        "bounds": BOUNDS,
        "states": Texts(states),
        "results": Texts(results),
        "started_ids": [start.id for start in asked.started],
        "started_claim_nos": [start.claim_no for start in asked.started],
        "started_ages": [start.age for start in asked.started],
        "queue": asked.queue,
        "types": [front.type for front in fronts],
        "priorities": [front.priority for front in fronts],
        "floors_at": [front.floor.maturity_at for front in fronts],
        "floor_ids": [front.floor.id for front in fronts],
        "room": asked.room if fronts else 0,
        "suspects": asked.suspects,
        "start": asked.start,
    }


_NONE: tuple[tuple[Any, ...], ...] = ((),) * len(Ending._fields)


def _cycled(rows: Sequence[Row]) -> Cycled:
    claimed = [Claimed._make(row) for row in rows if row[2] is not None]
    # By `int`: to compare two UUIDs themselves costs five times as much, for each row of each claim.
    claimed.sort(key=lambda task: (-task.priority, task.maturity_at, task.id.int))
    return Cycled(claimed, [(row[0], row[1]) for row in rows if row[2] is None])


def _ids(endings: Sequence[Ending]) -> dict[str, Any]:
    return {"ids": [ending.id for ending in endings], "claim_nos": [ending.claim_no for ending in endings]}


def _claims(claims: Sequence[tuple[UUID, int]]) -> dict[str, Any]:
    return {"ids": [id_ for id_, _ in claims], "claim_nos": [claim_no for _, claim_no in claims]}


def _durations(endings: Sequence[Ending]) -> dict[str, Any]:
    return {
        "run_seconds": [ending.run_seconds for ending in endings],
        "ages": [ending.age for ending in endings],
        "bounds": BOUNDS,
    }


def survey(queues: Collection[str], types: Collection[str]) -> Op[list[Prospect]]:
    """Return where tasks of these types wait: the most urgent of a queue first, at most 64 due priorities of a type."""
    return Op(
        hot.SURVEY,
        {"queues": list(queues), "types": list(types)},
        lambda rows: [Prospect._make(row) for row in rows],
    )


def retry(runner_id: UUID, endings: Sequence[Ending]) -> Op[list[Due]]:
    """Send failed tries back to pending, each with its error and delay; returns those that were still ours."""
    details = {"errors": [ending.detail for ending in endings], "delays": [ending.delay for ending in endings]}
    return Op(sql.RETRY, {"runner_id": runner_id, **_ids(endings), **details, **_durations(endings)}, dues)


def snooze(runner_id: UUID, endings: Sequence[Ending]) -> Op[list[Due]]:
    """Send tasks back to pending with a new maturity; no try is counted."""
    delays = [ending.delay for ending in endings]
    return Op(sql.SNOOZE, {"runner_id": runner_id, **_ids(endings), "delays": delays}, dues)


def bury(runner_id: UUID, endings: Sequence[Ending]) -> Op[list[UUID]]:
    """Make dead letters of tasks that are out of retries; `detail` is the JSON list of the last try's errors."""
    errors = [ending.detail for ending in endings]
    return Op(sql.BURY, {"runner_id": runner_id, **_ids(endings), "errors": errors, **_durations(endings)}, column)


def release(runner_id: UUID, claims: Sequence[tuple[UUID, int]]) -> Op[list[Due]]:
    """Hand claims, named by id and number, back unchanged: neither tries nor crashes are counted."""
    return Op(sql.RELEASE, {"runner_id": runner_id, **_claims(claims)}, dues)


def unknown(runner_id: UUID, held: Collection[UUID]) -> Op[list[tuple[UUID, int]]]:
    """Return claims that carry this runner's id though it does not hold them: the claim's reply was lost."""
    params = {"runner_id": runner_id, "held": list(held)}
    return Op(sql.UNKNOWN, params, lambda rows: [(id_, claim_no) for id_, claim_no in rows])


def release_unknown(runner_id: UUID, held: Collection[UUID]) -> Steps[list[Due]]:
    """Hand back whatever carries this runner's id though it does not hold it, and tell the runners."""
    claims = yield unknown(runner_id, held)
    if not claims:
        return []
    back: list[Due] = yield release(runner_id, claims)
    if back:
        yield announce(back)
    return back


def fates(runner_id: UUID, left: Sequence[tuple[UUID, int]]) -> Op[list[Fate]]:
    """Say of claims whose ending found no row whether they are still held (somebody's lock), or had ended before."""
    return Op(sql.FATE, {"runner_id": runner_id, **_claims(left)}, lambda rows: [Fate(*row) for row in rows])


def mark_started(runner_id: UUID, id_: UUID, claim_no: int) -> Op[bool]:
    """Write the start of a suspect before it runs; False when the claim is no longer ours."""
    return Op(sql.MARK_STARTED, {"runner_id": runner_id, "id": id_, "claim_no": claim_no}, bool)


def progress(runner_id: UUID, marks: Mapping[tuple[UUID, int], str]) -> Op[list[UUID]]:
    """Keep what running tasks say of their progress; values are JSON texts."""
    params = {"runner_id": runner_id, **_claims(list(marks)), "progresses": list(marks.values())}
    return Op(sql.PROGRESS, params, column)


def cancel_requests(runner_id: UUID) -> Op[list[UUID]]:
    """Return this runner's running tasks that somebody asked to stop."""
    return Op(sql.CANCEL_REQUESTS, {"runner_id": runner_id}, column)


def dues(rows: Sequence[Row]) -> list[Due]:
    return [Due(*row) for row in rows]
