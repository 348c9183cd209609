"""What a runner knows of its queues: where due tasks are to be claimed, and when the next ones mature.

A *front* is a type and a priority of one queue. The survey finds fronts, hints (NOTIFY) name them, claims move their
floors. All of it may be wrong or late: a survey at every poll puts it right.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from taskrunner.store.task import NO_FLOOR, Claimed, Floor, Front, Hint, Prospect, Turn

_AT_ONCE = 64  # fronts asked in one claim
_KEPT = 256  # fronts of a queue remembered, those with nothing due included
_LATE = -0.05  # seconds: what is told later than this may lie beneath the floor of what was claimed meanwhile
_SOON = 0.1  # seconds from a survey to the next, when claims say that what is due next is not known
_STRAYS = 1.0  # seconds between two looks for rows of a fair queue that were never told so
# A claim looks at 2,000 tenants at most: among many thousands whose tasks are not due yet it may find nothing for long.
_IN_VAIN, _RESTS = 8, 4  # so many at once; afterwards each is followed by a rest so many times as long as it took
_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class _Known:
    """One front, in monotonic time: when its next task is due, when it was last heard of."""

    type: str
    priority: int
    due_at: float = _NEVER
    heard_at: float = 0.0
    floor: Floor = NO_FLOOR
    doubted: UUID | None = None


@dataclass(slots=True, eq=False)
class _Queue:
    weight: int
    credit: int = 0
    known: dict[tuple[str, int], _Known] = field(default_factory=dict)
    asking: int = 0  # claims in flight
    asked_at: float = 0.0
    rich: bool = False  # the last claim got all it asked for
    fair: bool = False
    turn: Turn = field(default_factory=Turn)
    strays_at: float = 0.0
    vain: int = 0  # claims in a row that looked at some of the tenants, and found none with a due task
    rests_until: float = 0.0

    def due_at(self) -> float:
        return max(min((front.due_at for front in self.known.values()), default=_NEVER), self.rests_until)


@dataclass(frozen=True, slots=True)
class Plan:
    """A claim to be made: of which queue, from which fronts; of a fair one, beginning where, and with strays or not."""

    queue: str
    fronts: list[Front]
    known: list[_Known]
    asked_at: float
    turn: Turn | None = None
    strays: bool = False


class Prospects:
    """Which queue is asked next: those that may have due tasks, in turns by weight (smooth weighted round robin).

    Rule: https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1
    """

    def __init__(self, weights: dict[str, int], types: Collection[str]) -> None:
        self._queues = {name: _Queue(weight) for name, weight in weights.items()}
        self._types = frozenset(types)
        self.survey_at = 0.0  # monotonic: when the next survey is due, at the latest
        self._surveyed_at = self._rest = 0.0
        self._gap = _SOON

    # ── what is learnt ───────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, hint: Hint) -> None:
        """Somebody says that a task is pending. Without its type, only a survey can tell which front it is in."""
        queue = self._queues.get(hint.queue)
        if queue is None or (hint.type is not None and hint.type not in self._types):
            return
        if hint.due_in < _LATE:
            _drop_floors(queue, hint)
        now = time.monotonic()
        due_at = now + max(hint.due_in, 0.0)
        front = None if hint.type is None else queue.known.get((hint.type, hint.priority))
        if front is None and hint.type is not None and len(queue.known) < _KEPT:
            front = queue.known[hint.type, hint.priority] = _Known(hint.type, hint.priority)
        if front is None:
            self.survey_at = min(self.survey_at, due_at)
            return
        front.heard_at = now
        front.due_at = min(front.due_at, due_at)

    def surveyed(self, asked_at: float, found: Sequence[Prospect], *, every: float) -> None:
        """Take over what a survey found that was sent at `asked_at`; the next is due `every` seconds after it.

        On its own connection a survey walks the dead entries beneath the floors: it may take a twentieth of the time.
        """
        now = time.monotonic()
        self._surveyed_at, self._rest = now, 20 * (now - asked_at)
        self.survey_at = now + max(every, self._rest)
        seen: set[_Known] = set()
        for prospect in found:
            queue = self._queues[prospect.queue]
            queue.fair = prospect.fair
            key = (prospect.type, prospect.priority)
            front = queue.known.setdefault(key, _Known(prospect.type, prospect.priority))
            seen.add(front)
            due_at = now + prospect.due_in
            front.due_at = min(front.due_at, due_at) if front.heard_at > asked_at else due_at
            if queue.fair:  # its claims are in another order: the survey alone moves its floors, both ways
                front.floor = Floor(prospect.maturity_at, prospect.id)
            else:
                _lower(front, prospect, sure=not queue.asking and queue.asked_at < asked_at)
        for queue in self._queues.values():
            _forget(queue, seen, asked_at)

    def unsurveyed(self, every: float) -> None:
        """A survey has failed: the next is due in so many seconds."""
        self.survey_at = time.monotonic() + every

    def distrust(self) -> None:
        """Something was sent back, or a claim failed: tasks may be due beneath the floors."""
        for queue in self._queues.values():
            for front in queue.known.values():
                front.floor = NO_FLOOR
        self.survey_at = 0.0

    # ── what is claimed ──────────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> Plan | None:
        """Return the claim whose turn it is, None if nothing is known to be due.

        Of a queue that is being asked already only if it gave all that it was asked for, or was heard of since.
        """
        now = time.monotonic()
        due = {name: queue for name, queue in self._queues.items() if self._worth(queue, now)}
        if not due:
            return None
        name = next(iter(due)) if len(due) == 1 else _turn(due)
        queue = due[name]
        queue.asking += 1
        queue.asked_at = now
        known = sorted((front for front in queue.known.values() if front.due_at <= now), key=lambda f: -f.priority)
        if len(known) > _AT_ONCE:  # not within a priority: there the oldest come first, of whatever type
            least = known[_AT_ONCE - 1].priority
            known = [front for front in known if front.priority >= least]
        fronts = [Front(front.type, front.priority, front.floor) for front in known]
        if not queue.fair:
            return Plan(name, fronts, known, now)
        strays = now - queue.strays_at >= _STRAYS
        queue.strays_at = now if strays else queue.strays_at
        return Plan(name, fronts, known, now, queue.turn, strays)

    def claimed(self, plan: Plan, claims: Sequence[Claimed], room: int) -> None:
        """Note what a claim brought, in the order of the tasks: the floors move to the first of each front."""
        queue = self._queues[plan.queue]
        for claim in reversed(claims):
            front = queue.known.get((claim.type, claim.priority))
            if front is not None:
                front.floor = Floor(claim.maturity_at, claim.id)
        self._answered(queue, plan, got=bool(claims), rich=len(claims) >= room)

    def went_round(self, plan: Plan, turn: Turn, *, got: bool, more: bool) -> None:
        """Note how far a claim has come round a fair queue, and whether there is more to be had."""
        queue = self._queues[plan.queue]
        queue.turn = turn
        queue.vain = queue.vain + 1 if more and not got else 0
        if queue.vain > _IN_VAIN:
            now = time.monotonic()
            queue.rests_until = now + _RESTS * (now - plan.asked_at)
        self._answered(queue, plan, got=got, rich=more)

    def _answered(self, queue: _Queue, plan: Plan, *, got: bool, rich: bool) -> None:
        queue.asking -= 1
        queue.rich = rich
        self._gap = _SOON if got else min(2 * self._gap, 60.0)  # what is due may not be to be had: somebody's lock
        if queue.rich:
            return
        for front in plan.known:
            if front.heard_at <= plan.asked_at:
                front.due_at = _NEVER
        # What matures next is not known now: look soon, though not after each of many small claims.
        self.survey_at = min(self.survey_at, self._surveyed_at + max(self._gap, self._rest))

    def failed(self, plan: Plan) -> None:
        """A claim has failed: what it may have taken comes back beneath the floors that others have moved."""
        self._queues[plan.queue].asking -= 1
        self.distrust()

    def wait(self) -> float:
        """Return the seconds until a queue is worth asking, as far as is known; infinity if none is."""
        now = time.monotonic()
        if any(queue.asking and self._worth(queue, now) for queue in self._queues.values()):
            return 0.0
        first = min((queue.due_at() for queue in self._queues.values() if not queue.asking), default=_NEVER)
        return max(0.0, first - now)

    def _worth(self, queue: _Queue, now: float) -> bool:
        # Where the next claim of a fair queue begins is what this one will say; of many tenants one turn is no matter.
        if queue.fair and queue.asking and not queue.turn.wide:
            return False
        if not queue.asking or queue.rich:
            return queue.due_at() <= now
        return any(front.due_at <= now and front.heard_at > queue.asked_at for front in queue.known.values())


def _turn(due: dict[str, _Queue]) -> str:
    for queue in due.values():
        queue.credit += queue.weight
    name, chosen = max(due.items(), key=lambda item: item[1].credit)
    chosen.credit -= sum(queue.weight for queue in due.values())
    return name


def _drop_floors(queue: _Queue, hint: Hint) -> None:
    for front in queue.known.values():
        if hint.type is None or (front.type, front.priority) == (hint.type, hint.priority):
            front.floor = NO_FLOOR


def _lower(front: _Known, found: Prospect, *, sure: bool) -> None:
    """A due task beneath the floor: a late commit, or one whose claim is in flight; those are gone at the next look."""
    if found.due_in > 0 or (found.maturity_at, found.id) >= front.floor:
        front.doubted = None
    elif sure or front.doubted == found.id:
        front.floor, front.doubted = Floor(found.maturity_at, found.id), None
    else:
        front.doubted = found.id


def _forget(queue: _Queue, seen: set[_Known], asked_at: float) -> None:
    """Nothing is pending in the fronts that a survey did not name; their floors are kept while they are few."""
    gone = [front for front in queue.known.values() if front not in seen and front.heard_at <= asked_at]
    for front in gone:
        front.due_at = _NEVER
        if len(queue.known) > _KEPT:
            del queue.known[front.type, front.priority]
