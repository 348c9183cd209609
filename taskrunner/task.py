"""The base class of tasks, and what a running task sees of itself and its runner."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from uuid_utils.compat import uuid7

from taskrunner import retry
from taskrunner.errors import InvalidArgument, RegistrationError, TaskrunnerError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from taskrunner.outcome import NextTry

__all__ = [
    "Context",
    "Defaults",
    "Parent",
    "RunInfo",
    "Task",
    "ask_next_try",
    "bind",
    "dispatch",
]


class Context(Protocol):
    """What `self.context` offers while the task runs."""

    @property
    def id(self) -> UUID: ...
    @property
    def queue(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def claim_no(self) -> int:
        """The number of this claim; a later claim of the same task has a higher one."""

    @property
    def deadline(self) -> datetime | None:
        """When the task's time is up; None without a timeout."""

    @property
    def meta(self) -> dict[str, Any]:
        """What was given as `meta=` at the enqueue."""

    @property
    def logger(self) -> logging.Logger | logging.LoggerAdapter[Any]:
        """A logger whose records carry the task's id and type."""

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop: a person, the timeout or the runner's end asks for it."""

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show people how far the task is: a part of `total`, or a number without one; kept when the task ends.

        Say it as often as you like: the latest counts, and is written twice a second.
        Raises: `InvalidArgument` for more done than there is, or for what is no number.
        """

    def extend(self, delay: timedelta | float) -> None:
        """Move the deadline: the task has this much time from now on."""

    def run_once(self, key: str, fn: Callable[[], Any]) -> Any:
        """Return what `fn` returned when it first succeeded under this key, in this run or an earlier one of the task.

        In `async def run`: `await context.run_once(…)`, and `fn` may be async too. The value must be JSON. Inside
        `session()` key and value are stored with the finish, else at once. A raise leaves the key open.
        Raises: `LeaseLost` when the claim is no longer this runner's, and nothing is stored.
        """

    def session(self) -> Any:
        """Return the run's own SQLModel session, which the runner commits together with the task's finish.

        `async with context.session() as session:` an `AsyncSession` in `async def run`; `with …` a `Session` elsewhere.
        Committed after SUCCESS or a result, rolled back after all else; `commit()` raises.
        """

    def parents(self) -> Any:
        """Return what the tasks came to that this one was added after: a `Parent` (state and result) by each id.

        In `async def run`: `await context.parents()`. In the order in which their ids were made; a parent that was
        requeued is there as the task that was made of it, and one that retention has removed is not there.
        """


class Parent(NamedTuple):
    """What a parent came to: `succeeded`, `ignored`, `cancelled` or `dead`, and what its `run()` returned."""

    state: str
    result: Any = None


class RunInfo(NamedTuple):
    """The row of a claimed task, as far as the task itself may see it."""

    id: UUID
    tries: int
    crashes: int
    max_retries: int
    priority: int
    queue: str
    tenant: str
    errors: tuple[dict[str, Any], ...]
    context: Context | None


class Unregistered(NamedTuple):
    """What the tasks of a class that is not registered have."""

    queue: str = "default"
    priority: int = 100
    max_retries: int = 3


class Defaults(Protocol):
    """What a type is registered with: its tasks show it as long as no row is bound to them."""

    @property
    def queue(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def max_retries(self) -> int: ...


class Task(BaseModel):
    """One piece of work: the fields are its payload, `run()` does it, `next_try()` says when to try again."""

    # The id and the row live in slots: pydantic's private attributes would double the cost of an instance.
    __slots__ = ("_task_id", "_task_row", "_task_sent")

    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        validate_assignment=True,
        protected_namespaces=(),  # names are checked below, as errors
        ser_json_bytes="base64",  # any bytes, not only UTF-8
        val_json_bytes="base64",
        ser_json_inf_nan="constants",  # what slipped by the guard is refused by jsonb, not turned into null
        defer_build=True,  # of this class alone, see below
    )

    _task_defaults: ClassVar[Defaults] = Unregistered()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what would hide a member of Task, before pydantic warns or overwrites it."""
        super().__init_subclass__(**kwargs)
        _refuse_hidden_members(cls)

    @property
    def id(self) -> UUID:
        """The task's id, made here and now, in time order (UUIDv7), unless a row is bound; a copy gets its own."""
        try:
            return _ID.__get__(self)  # type: ignore[no-any-return]  # slots are untyped
        except AttributeError:
            made = uuid7()
            _ID.__set__(self, made)
            return made

    @property
    def tries(self) -> int:
        """How many tries failed before this one."""
        row = _row(self)
        return row.tries if row else 0

    @property
    def crashes(self) -> int:
        """How many of its runs ended with the runner's death."""
        row = _row(self)
        return row.crashes if row else 0

    @property
    def max_retries(self) -> int:
        """How often the base class's `next_try()` tries again."""
        return (_row(self) or self._task_defaults).max_retries

    @property
    def priority(self) -> int:
        """Larger is more urgent."""
        return (_row(self) or self._task_defaults).priority

    @property
    def queue(self) -> str:
        """The queue that the task waits in."""
        return (_row(self) or self._task_defaults).queue

    @property
    def tenant(self) -> str:
        """Whose work it is."""
        row = _row(self)
        return row.tenant if row else "default"

    @property
    def errors(self) -> tuple[dict[str, Any], ...]:
        """The earlier failed tries, oldest first: `at`, `runner`, `message`, `traceback`."""
        row = _row(self)
        return row.errors if row else ()

    @property
    def context(self) -> Context:
        """The running task's way to its runner; raises TaskrunnerError outside `run()`."""
        row = _row(self)
        if row is None or row.context is None:
            raise TaskrunnerError(f"{type(self).__name__}.context is there only while a runner calls run()")
        return row.context

    def run(self) -> Any:
        """Do the work, as `def` or `async def`: return a TaskStatus, a Snooze, None or a JSON value, or raise."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def next_try(self) -> timedelta | float | None:
        """Return the delay until the next try after a failed one; None, or a negative one, gives up.

        Exponential backoff with full jitter (5 s, doubled, at most 15 min) until `max_retries`.
        """
        return _BACKOFF(self.tries) if self.tries < self.max_retries else None


def dispatch(task: Task, tenant: str) -> tuple[UUID, bool]:
    """Return the task's id, and whether it goes to the database for the first time: no row can have this id then.

    Raises: `InvalidArgument` for a task that was added for another tenant: one id cannot be two tenants' task.
    """
    try:
        id_ = _ID.__get__(task)
    except AttributeError:
        id_ = uuid7()
        _ID.__set__(task, id_)
        _SENT.__set__(task, tenant)
        return id_, True
    return id_, _send(task, tenant)


def _send(task: Task, tenant: str) -> bool:
    """Mark the task as sent; returns whether it was not before."""
    row = _row(task)
    try:
        before = row.tenant if row is not None else _SENT.__get__(task)
    except AttributeError:
        _SENT.__set__(task, tenant)
        return True
    if before != tenant:
        raise InvalidArgument(
            f"this {type(task).__name__} was added for tenant {before!r}: make a new one for {tenant!r}"
        )
    return False


def bind(task: Task, run: RunInfo) -> None:
    """Make the task show the row that it was claimed as."""
    _ID.__set__(task, run.id)
    _ROW.__set__(task, run)


def ask_next_try(task: Task) -> NextTry:
    """Call `next_try()` once and return its answer as a value; never raises."""
    from taskrunner.errortext import error_entry  # to declare a task needs none of these
    from taskrunner.outcome import GiveUp, Nonsense, RetryIn

    try:
        delay = retry.normalise(task.next_try())
    except InvalidArgument as error:
        return Nonsense(error_entry(f"next_try(): {error}"))
    except BaseException as error:  # users' code may raise SystemExit; the runner lives
        return Nonsense(error_entry(error))
    return GiveUp() if delay is None else RetryIn(delay)


# Nobody makes a bare Task, and its validator costs an import 20 ms. Those of its subclasses are built where they stand,
# so that a class's mistakes show when it is declared.
Task.model_config["defer_build"] = False

_BACKOFF = retry.exponential()
_ID: Any = Task.__dict__["_task_id"]
_ROW: Any = Task.__dict__["_task_row"]
_SENT: Any = Task.__dict__["_task_sent"]

_MEMBERS = frozenset(dir(Task))
_FIXED = frozenset(name for name, member in vars(Task).items() if isinstance(member, property))
_ALLOWED = frozenset({"model_config", *(name for name in _MEMBERS if name.startswith("__"))})
_ARGUMENTS = frozenset({"queue", "priority", "max_retries"})


def _row(task: Task) -> RunInfo | None:
    try:
        return _ROW.__get__(task)  # type: ignore[no-any-return]  # slots are untyped
    except AttributeError:
        return None


def _refuse_hidden_members(cls: type[Task]) -> None:
    annotated = set(_annotated_names(cls)) - _ALLOWED
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__pydantic_fields__", ())}
    assigned = {name for name, value in vars(cls).items() if name in _FIXED or not hasattr(value, "__get__")}
    hidden = sorted((annotated | inherited | (assigned - _ALLOWED)) & _MEMBERS)
    if hidden:
        name = hidden[0]
        remedy = f"say it as @register_task(…, {name}=…)" if name in _ARGUMENTS else "rename it"
        raise RegistrationError(
            f"class {cls.__module__}.{cls.__qualname__}: {name!r} is the name of a member of Task, "
            f"which it would hide: {remedy}"
        )


def _annotated_names(cls: type) -> list[str]:
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return list(get_annotations(cls, format=Format.FORWARDREF))
    return list(vars(cls).get("__annotations__", ()))
