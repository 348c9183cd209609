"""`@register_task`: every argument and the class itself are checked when the module is imported."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

from taskrunner.durations import as_delay
from taskrunner.errors import InvalidArgument, RegistrationError, TriggerInvalid
from taskrunner.registry.checks import MAX_INT, check_choice, check_class, check_integer, check_name, check_queue
from taskrunner.registry.types import CatchUp, Executor, TaskType, registry
from taskrunner.task import Task

if TYPE_CHECKING:
    from taskrunner.triggers import Trigger

T = TypeVar("T", bound=Task)


class _Declaration(NamedTuple):
    """The arguments as they were given."""

    name: Any
    frequency: Any
    unique: Any
    unique_for: Any
    queue: Any
    priority: Any
    max_retries: Any
    timeout: Any
    executor: Any
    timezone: Any
    catch_up: Any
    jitter: Any
    aliases: Any


def register_task(
    name: str,
    frequency: Any = None,
    *,
    unique: bool | tuple[str, ...] = False,
    unique_for: timedelta | float | None = None,
    queue: str = "default",
    priority: int = 100,
    max_retries: int = 3,
    timeout: timedelta | float | None = None,
    executor: Literal["auto", "loop", "thread", "process"] = "auto",
    timezone: str = "UTC",
    catch_up: CatchUp = "latest",
    jitter: timedelta | float | None = None,
    aliases: tuple[str, ...] = (),
) -> Callable[[type[T]], type[T]]:
    """Make a class a task type, and with a frequency a recurring one.

    `name` is stored with every task and must stay the same; a renamed type keeps the old one in `aliases`.
    `frequency`: seconds, a timedelta, a crontab string, an APScheduler trigger, or a list of these. `unique`: one live
    task, of the type or per value of the named fields; `unique_for`: also for that long after its enqueue.
    Raises RegistrationError, naming the class, for anything that cannot be meant.
    """
    bare: object = name
    if isinstance(bare, type):
        raise RegistrationError(
            f'class {bare.__qualname__}: a task type needs a name: @register_task("{bare.__name__}")'
        )
    given = _Declaration(
        name,
        frequency,
        unique,
        unique_for,
        queue,
        priority,
        max_retries,
        timeout,
        executor,
        timezone,
        catch_up,
        jitter,
        aliases,
    )

    def decorate(cls: type[T]) -> type[T]:
        task_type = _checked(cls, given)
        registry.add(task_type)
        cls._task_defaults = task_type
        return cls

    return decorate


def _checked(cls: type[Task], given: _Declaration) -> TaskType:
    try:
        check_class(cls)
        return _build(cls, given)
    except (RegistrationError, InvalidArgument, TriggerInvalid) as error:
        from taskrunner.jsonvalue import readable

        name = readable(given.name) if isinstance(given.name, str) else given.name
        raise RegistrationError(f"task type {name!r} ({_describe(cls)}): {error}") from error


def _build(cls: type[Task], given: _Declaration) -> TaskType:
    unique = _unique(cls, given.unique)
    frequency = _frequency(cls, given)
    return TaskType(
        name=check_name(given.name, "the name"),
        cls=cls,
        frequency=frequency,
        unique=unique,
        unique_for=_unique_for(given.unique_for, unique),
        queue=check_queue(given.queue),
        priority=check_integer(given.priority, "priority", -MAX_INT - 1),
        max_retries=check_integer(given.max_retries, "max_retries", 0),
        timeout=_positive(given.timeout, "timeout"),
        executor=_executor(cls, given.executor),
        timezone=_timezone(given.timezone),
        catch_up=check_choice(given.catch_up, "catch_up", get_args(CatchUp)),
        jitter=_jitter(given.jitter, frequency),
        aliases=_aliases(given.aliases, given.name),
        module=cls.__module__,
        file=_file(cls),
        line=_line(cls),
    )


def _unique(cls: type[Task], value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, tuple | list) or not value:
        raise RegistrationError("unique must be True, False or a tuple of field names, as in unique=('to',)")
    for name in value:
        if name not in cls.__pydantic_fields__:
            known = ", ".join(cls.__pydantic_fields__) or "none"
            raise RegistrationError(f"unique names {name!r}, which is no field (there are: {known})")
    return tuple(dict.fromkeys(value))


def _unique_for(value: Any, unique: bool | tuple[str, ...]) -> timedelta | None:
    if value is not None and not unique:
        raise RegistrationError("unique_for does nothing without unique")
    return _positive(value, "unique_for")


def _frequency(cls: type[Task], given: _Declaration) -> Trigger | None:
    if given.frequency is None:
        return None
    required = [name for name, field in cls.__pydantic_fields__.items() if field.is_required()]
    if required:
        listed = ", ".join(required)
        raise RegistrationError(f"has a frequency, but nobody to fill in {listed}: give each such field a default")
    from taskrunner.triggers import parse  # most types have no frequency

    return parse(given.frequency, timezone=_timezone(given.timezone))


def _timezone(value: Any) -> str:
    name = check_name(value, "timezone")
    if name != "UTC":
        from taskrunner.triggers.instants import zone

        zone(name)
    return name


def _positive(value: Any, what: str) -> timedelta | None:
    if value is None:
        return None
    delay = as_delay(value, what)
    if not delay:
        raise RegistrationError(f"{what} must be more than zero; None means none")
    return delay


def _jitter(value: Any, frequency: Trigger | None) -> timedelta | None:
    if value is not None and frequency is None:
        raise RegistrationError("jitter does nothing without a frequency")
    return None if value is None else as_delay(value, "jitter")


def _executor(cls: type[Task], value: Any) -> Executor:
    chosen: Any = check_choice(value, "executor", ("auto", *get_args(Executor)))
    awaited = inspect.iscoroutinefunction(cls.run)
    if chosen == "auto":
        return "loop" if awaited else "thread"
    if chosen == "thread" and awaited:
        raise RegistrationError('executor="thread" needs `def run`; `async def run` is for "loop" or "process"')
    if chosen == "loop" and not awaited:
        raise RegistrationError('executor="loop" needs `async def run`; `def run` would block all other tasks')
    if chosen == "process" and "<locals>" in cls.__qualname__:
        raise RegistrationError('executor="process" needs a class at the top of its module: the child imports it')
    return chosen  # type: ignore[no-any-return]  # one of the choices


def _aliases(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, tuple | list):
        raise RegistrationError("aliases must be a tuple of names, as in aliases=('OldName',)")
    for alias in value:
        if check_name(alias, "an alias") == name:
            raise RegistrationError(f"the alias {alias!r} is the type's own name")
    return tuple(dict.fromkeys(value))


def _describe(cls: Any) -> str:
    if isinstance(cls, type):
        return f"class {cls.__module__}.{cls.__qualname__}"
    return f"the {type(cls).__name__} {getattr(cls, '__qualname__', '')}".strip()


def _file(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return os.path.realpath(file) if file else ""


def _line(cls: type[Task]) -> int:
    """Return the line of the class, before Python 3.13 that of its `run()`: enough to tell two classes apart."""
    line = getattr(cls, "__firstlineno__", None)
    code = getattr(inspect.unwrap(cls.run), "__code__", None)
    return line or (code.co_firstlineno if code else 0)
