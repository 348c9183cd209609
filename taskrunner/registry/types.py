"""What is known of a task type, and the table of all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from taskrunner.errors import DuplicateName, RegistrationError, UnknownType
from taskrunner.task import Task

if TYPE_CHECKING:
    from taskrunner.triggers import Trigger

Executor: TypeAlias = Literal["loop", "thread", "process"]
CatchUp: TypeAlias = Literal["latest", "all", "skip"]


class TaskType(NamedTuple):  # a frozen dataclass takes 1.5 ms of each import of `register_task`
    """One `@register_task` declaration, checked; `executor` is resolved, `frequency` parsed."""

    name: str
    cls: type[Task]
    frequency: Trigger | None = None
    unique: bool | tuple[str, ...] = False
    unique_for: timedelta | None = None
    queue: str = "default"
    priority: int = 100
    max_retries: int = 3
    timeout: timedelta | None = None
    executor: Executor = "thread"
    timezone: str = "UTC"
    catch_up: CatchUp = "latest"
    jitter: timedelta | None = None
    aliases: tuple[str, ...] = ()
    module: str = ""
    file: str = ""
    line: int = 0

    def where(self) -> str:
        """Return the class with its file and line, for messages."""
        place = f" ({self.file}:{self.line})" if self.file else ""
        return f"class {self.module}.{self.cls.__qualname__}{place}"

    def same_source(self, other: TaskType) -> bool:
        """Whether both are the same class statement, perhaps imported under two module names."""
        mine, its = (self.file, self.line), (other.file, other.line)
        return self.cls is other.cls or (bool(self.file) and mine == its and self._qualname() == other._qualname())

    def _qualname(self) -> str:
        return self.cls.__qualname__


class Registry:
    """Task types by name, by alias and by class."""

    def __init__(self) -> None:
        self._types: dict[str, TaskType] = {}
        self._aliases: dict[str, str] = {}
        self._classes: dict[type[Task], TaskType] = {}
        self.modules: frozenset[str] = frozenset()  # those that `discover` imported

    def add(self, task_type: TaskType) -> None:
        """Register a type; the same class again replaces itself. Raises DuplicateName, naming both classes."""
        for name in (task_type.name, *task_type.aliases):
            holder = self._types.get(self._aliases.get(name, name))
            if holder and not (holder.name == task_type.name and holder.same_source(task_type)):
                raise DuplicateName(
                    f"the task name {name!r} is taken twice, by {holder.where()} and by {task_type.where()}: rename one"
                )
        known = self._classes.get(task_type.cls)
        if known and known.name != task_type.name:
            raise RegistrationError(
                f"{task_type.where()} is registered already, as {known.name!r}: a class has one name"
            )
        self._aliases = {alias: name for alias, name in self._aliases.items() if name != task_type.name}
        self._aliases.update(dict.fromkeys(task_type.aliases, task_type.name))
        self._types[task_type.name] = task_type
        self._classes[task_type.cls] = task_type

    def get(self, name: str) -> TaskType:
        """Return the type of this name or alias; raises UnknownType, which suggests near names."""
        return self._types[self.canonical(name)]

    def canonical(self, name: str) -> str:
        """Return the present name for a name or an alias; raises UnknownType."""
        present = self._aliases.get(name, name)
        if present not in self._types:
            raise UnknownType(name, self._types)
        return present

    def of(self, task: Task | type[Task]) -> TaskType:
        """Return the type of a task or of its class; raises UnknownType."""
        cls = task if isinstance(task, type) else type(task)
        try:
            return self._classes[cls]
        except KeyError:
            raise UnknownType(cls.__name__, self._types) from None

    def names(self) -> list[str]:
        """Return the types' names, sorted."""
        return sorted(self._types)

    def names_and_aliases(self) -> list[str]:
        """Return every name under which a row of these types may be stored, sorted."""
        return sorted([*self._types, *self._aliases])

    def all(self) -> list[TaskType]:
        """Return the types, sorted by name."""
        return [self._types[name] for name in self.names()]

    def __contains__(self, name: object) -> bool:
        return name in self._types or name in self._aliases

    def __len__(self) -> int:
        return len(self._types)

    def copy(self) -> Registry:
        """Return a registry with the same contents, to come back to."""
        twin = Registry()
        twin.become(self)
        return twin

    def become(self, other: Registry) -> None:
        """Take the contents of another registry, in one step each: this object is the one that everybody holds."""
        self._types, self._aliases = dict(other._types), dict(other._aliases)
        self._classes, self.modules = dict(other._classes), other.modules


registry = Registry()
"""The one that `@register_task` fills."""


@contextmanager
def isolated() -> Iterator[Registry]:
    """For tests: the registry is empty inside, and as before afterwards; modules discovered inside are forgotten."""
    before, path = registry.copy(), list(sys.path)
    registry.become(Registry())
    try:
        yield registry
    finally:
        for name in registry.modules:
            sys.modules.pop(name, None)
        registry.become(before)
        sys.path[:] = path
