"""Schedules made and steered at run time: `queue.schedules`, for blocking and for asynchronous code.

`queue.schedules.add("nightly-acme", SendEmail(to="a@b.c"), "0 3 * * *", timezone="Europe/Warsaw")`. Whatever makes no
sense raises `InvalidArgument` before anything is stored; a name that is not there, `NotFound`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, Unpack

from uuid_utils.compat import uuid7

from taskrunner import reads
from taskrunner.db import Steps, Work
from taskrunner.declared import known
from taskrunner.errors import InvalidArgument, NotFound, TaskrunnerError
from taskrunner.intake import check_name
from taskrunner.reads import Schedule
from taskrunner.registry import CatchUp, Registry
from taskrunner.secretfields import may_hold
from taskrunner.store import schedule as stored
from taskrunner.store import timetable
from taskrunner.store.enqueue import Enqueued
from taskrunner.store.timetable import NewSchedule
from taskrunner.task import Task
from taskrunner.wishes import Changes, Duration, Payload, Rule, edited, instant, ruled, wanted

MOST = 10_000
"""Due times that are looked ahead."""

T = TypeVar("T")
What: TypeAlias = Task | type[Task] | str
"""What a schedule makes: a task as a pattern, or the class or name of its type, with `payload`."""
Ticks: TypeAlias = list[datetime]
Listed: TypeAlias = list[Schedule]
Allow: TypeAlias = Callable[[str | None], str | None]


class Call(NamedTuple, Generic[T]):
    """The work of a method, and what it is when the reply to the first attempt was lost."""

    make: Callable[[], Work[T]]
    again: Callable[[], Work[T]] | None = None


class Pump(Protocol):
    """How a door that blocks does work."""

    def __call__(self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None) -> T: ...


class AsyncPump(Protocol):
    """How an asynchronous door does work."""

    def __call__(self, make: Callable[[], Work[T]], again: Callable[[], Work[T]] | None = None) -> Awaitable[T]: ...


class Planner:
    """What people ask of schedules, checked and made into work.

    `tenant` is whose they are if nothing else is said; `allow` refuses a tenant that may not be asked for.
    """

    def __init__(self, registry: Registry, tenant: str = "default", allow: Allow = lambda asked: asked) -> None:
        self._registry, self._tenant, self._allow = registry, tenant, allow

    def may_hold_secrets(self, wishes: Changes) -> bool:
        """Whether the payload that is wished for may hold secrets by its type; of a type that is not said it may."""
        task = wishes.get("task")
        if isinstance(task, Task):
            return may_hold(type(task))
        try:
            kind = self._registry.get(task) if isinstance(task, str) else self._registry.of(task)  # type: ignore[arg-type]
        except TaskrunnerError:
            return True
        return may_hold(kind.cls)

    def add(self, name: str, wishes: Changes, tenant: str | None, *, overwrite: bool) -> Call[Schedule]:
        new = wanted(self._registry, name, self._whose(tenant), wishes)
        types = known(self._registry)
        return Call(lambda: _seen(timetable.add(new, types, overwrite=overwrite)))

    def change(self, name: str, wishes: Changes, tenant: str | None) -> Call[Schedule]:
        whose, types = self._whose(tenant), known(self._registry)
        return Call(lambda: _seen(timetable.change(name, whose, edited(self._registry, wishes), types)))

    def pause(self, name: str, tenant: str | None) -> Call[Schedule]:
        whose = self._whose(tenant)
        return Call(lambda: _after(timetable.pause(name, whose), name, whose))

    def resume(self, name: str, tenant: str | None) -> Call[Schedule]:
        whose = self._whose(tenant)
        return Call(lambda: _after(timetable.resume(name, whose), name, whose))

    def remove(self, name: str, tenant: str | None) -> Call[str]:
        whose = self._whose(tenant)
        return Call(lambda: timetable.remove(name, whose), lambda: timetable.remove(name, whose, repeated=True))

    def run(self, name: str, tenant: str | None) -> Call[Enqueued]:
        whose, types, task_id = self._whose(tenant), known(self._registry), uuid7()
        return Call(lambda: timetable.run_now(name, types, whose, task_id))

    def get(self, name: str, tenant: str | None) -> Call[Schedule]:
        whose = self._whose(tenant)
        return Call(lambda: _shown(name, whose))

    def list(self, tenant: str | None) -> Call[Listed]:
        whose = self._whose(tenant)
        return Call(lambda: reads.schedules(whose))

    def next(self, name: str, count: int, tenant: str | None) -> Call[Ticks]:
        whose = self._whose(tenant)
        most = _many(count)
        return Call(lambda: _ahead(name, whose, most))

    def preview(self, frequency: Any, wishes: Rule, after: datetime | None, count: int) -> Call[Ticks]:
        new, begin = ruled(frequency, wishes), instant("after", after)
        most = _many(count)
        return Call(lambda: _forecast(new, begin, most))

    def _whose(self, tenant: str | None) -> str:
        asked = self._allow(tenant)
        return check_name("tenant", self._tenant if asked is None else asked)


def _many(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise InvalidArgument(f"count must be an integer from 1 to {MOST}, not {count!r}")
    return count


def _seen(work: Steps[stored.Schedule]) -> Steps[Schedule]:
    made = yield from work
    return (yield from _shown(made.name, made.tenant))


def _after(work: Steps[Any], name: str, tenant: str) -> Steps[Schedule]:
    yield from work
    return (yield from _shown(name, tenant))


def _shown(name: str, tenant: str) -> Steps[Schedule]:
    found: Schedule | None = yield reads.schedule_named(name, tenant)
    if found is None:
        raise NotFound(f"no schedule {name!r}: `taskrunner schedules list` shows them")
    return found


def _ahead(name: str, tenant: str, count: int) -> Steps[Ticks]:
    return timetable.ahead((yield from timetable.get(name, tenant)), count)


def _forecast(new: NewSchedule, begin: datetime | None, count: int) -> Steps[Ticks]:
    now: datetime = begin if begin is not None else (yield reads.now())
    return timetable.forecast(new, now, count)


class Schedules:
    """`queue.schedules` of a `TaskQueue`: schedules by name, each of a tenant, else of the door's own."""

    def __init__(self, run: Pump, registry: Registry, tenant: str, allow: Allow) -> None:
        self._do, self._plan = run, Planner(registry, tenant, allow)

    def add(
        self,
        name: str,
        task: What,
        frequency: Any,
        *,
        payload: Payload | None = None,
        timezone: str = "UTC",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        jitter: Duration | None = None,
        key: str | None = None,
        catch_up: CatchUp = "latest",
        queue: str | None = None,
        priority: int | None = None,
        tenant: str | None = None,
        replace: bool = False,
    ) -> Schedule:
        """Store a schedule, which ticks while a scheduler runs that knows the type; its first tick may be at once.

        `task`: a pattern for its tasks, or a type's class or name with `payload`. `frequency`: seconds, a timedelta, a
        crontab string in `timezone`, an APScheduler trigger, or a list of these: one tick wherever one of them is due.
        `start_at`, `end_at`: both included. `jitter`: each task matures up to so much later; the grid stays. `key`: a
        tick that meets a live task of the key is skipped, and counted. `replace`: one of that name becomes as this
        one is and keeps its place on the grid where the rule is the same; without it that is a `Conflict`.
        Raises: `UnknownType`, `PayloadInvalid`, `InvalidArgument`, `Conflict`: nothing is stored then.
        """
        wishes = Changes(
            task=task, payload=payload, frequency=frequency, timezone=timezone, start_at=start_at, end_at=end_at,
            jitter=jitter, key=key, catch_up=catch_up, queue=queue, priority=priority,
        )  # fmt: skip
        return self._do(*self._plan.add(name, wishes, tenant, overwrite=replace))

    def change(self, name: str, *, tenant: str | None = None, **changes: Unpack[Changes]) -> Schedule:
        """Change what is given, as `add` takes it; None takes it away, what is not given stays.

        Where the rule and the start stay, the grid does. A new rule begins after now (an interval counts from the last
        tick), but what was due stays due. Raises: what `add` raises; `Conflict` for one that is declared in code.
        """
        return self._do(*self._plan.change(name, changes, tenant))

    def pause(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Let the schedule make no tasks until it is resumed."""
        return self._do(*self._plan.pause(name, tenant))

    def resume(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Let a paused schedule go on with its first due time after now; what it missed is not made up for."""
        return self._do(*self._plan.resume(name, tenant))

    def remove(self, name: str, *, tenant: str | None = None) -> None:
        """Delete a schedule; tasks that it has made stay. Raises: `Conflict` for one that is declared in code."""
        self._do(*self._plan.remove(name, tenant))

    def run(self, name: str, *, tenant: str | None = None) -> Enqueued:
        """Add one task as the schedule would, beside its ticks; paused ones too. A live unique task answers."""
        return self._do(*self._plan.run(name, tenant))

    def get(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Return the schedule as it is now."""
        return self._do(*self._plan.get(name, tenant))

    def list(self, *, tenant: str | None = None) -> Listed:
        """Return the tenant's schedules, the next to tick first, those without a next tick last."""
        return self._do(*self._plan.list(tenant))

    def next(self, name: str, count: int = 5, *, tenant: str | None = None) -> Ticks:
        """Return the next due times in UTC; of a paused schedule, those after a resume now."""
        return self._do(*self._plan.next(name, count, tenant))

    def preview(self, frequency: Any, count: int = 5, *, after: datetime | None = None, **rule: Unpack[Rule]) -> Ticks:
        """Return the first due times in UTC of a schedule that would be added at `after`, None: now."""
        return self._do(*self._plan.preview(frequency, rule, after, count))


class AsyncSchedules:
    """`queue.schedules` of an `AsyncTaskQueue`: the twin of `Schedules`."""

    def __init__(self, run: AsyncPump, registry: Registry, tenant: str, allow: Allow) -> None:
        self._do, self._plan = run, Planner(registry, tenant, allow)

    async def add(
        self,
        name: str,
        task: What,
        frequency: Any,
        *,
        payload: Payload | None = None,
        timezone: str = "UTC",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        jitter: Duration | None = None,
        key: str | None = None,
        catch_up: CatchUp = "latest",
        queue: str | None = None,
        priority: int | None = None,
        tenant: str | None = None,
        replace: bool = False,
    ) -> Schedule:
        """Store a schedule: see `Schedules.add`."""
        wishes = Changes(
            task=task, payload=payload, frequency=frequency, timezone=timezone, start_at=start_at, end_at=end_at,
            jitter=jitter, key=key, catch_up=catch_up, queue=queue, priority=priority,
        )  # fmt: skip
        return await self._do(*self._plan.add(name, wishes, tenant, overwrite=replace))

    async def change(self, name: str, *, tenant: str | None = None, **changes: Unpack[Changes]) -> Schedule:
        """Change what is given: see `Schedules.change`."""
        return await self._do(*self._plan.change(name, changes, tenant))

    async def pause(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Let the schedule make no tasks: see `Schedules.pause`."""
        return await self._do(*self._plan.pause(name, tenant))

    async def resume(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Let a paused schedule go on: see `Schedules.resume`."""
        return await self._do(*self._plan.resume(name, tenant))

    async def remove(self, name: str, *, tenant: str | None = None) -> None:
        """Delete a schedule: see `Schedules.remove`."""
        await self._do(*self._plan.remove(name, tenant))

    async def run(self, name: str, *, tenant: str | None = None) -> Enqueued:
        """Add one task as the schedule would: see `Schedules.run`."""
        return await self._do(*self._plan.run(name, tenant))

    async def get(self, name: str, *, tenant: str | None = None) -> Schedule:
        """Return the schedule as it is now: see `Schedules.get`."""
        return await self._do(*self._plan.get(name, tenant))

    async def list(self, *, tenant: str | None = None) -> Listed:
        """Return the tenant's schedules: see `Schedules.list`."""
        return await self._do(*self._plan.list(tenant))

    async def next(self, name: str, count: int = 5, *, tenant: str | None = None) -> Ticks:
        """Return the next due times: see `Schedules.next`."""
        return await self._do(*self._plan.next(name, count, tenant))

    async def preview(
        self, frequency: Any, count: int = 5, *, after: datetime | None = None, **rule: Unpack[Rule]
    ) -> Ticks:
        """Return the first due times of a schedule that is not stored: see `Schedules.preview`."""
        return await self._do(*self._plan.preview(frequency, rule, after, count))
