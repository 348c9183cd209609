"""What a task class must have, and what names and numbers may be, so that rows and commands can carry them."""

from __future__ import annotations

import inspect
import unicodedata
from types import FunctionType
from typing import Any

from taskrunner.errors import RegistrationError
from taskrunner.task import Task

MAX_NAME = 200  # characters
MAX_INT = 2**31 - 1  # PostgreSQL's integer

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_class(cls: Any) -> None:
    """Raise RegistrationError for what is no task class with a `run()` and a `next_try()` that can be called."""
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise RegistrationError("is no subclass of taskrunner.Task")
    if cls.run is Task.run or inspect.isabstract(cls):
        raise RegistrationError("has no run() of its own")
    _check_method(cls, "run")
    _check_method(cls, "next_try")
    if inspect.iscoroutinefunction(cls.next_try):
        raise RegistrationError("next_try() must be a plain `def`: it is asked between two statements, not awaited")
    excluded = [name for name, field in cls.__pydantic_fields__.items() if field.exclude]
    if excluded:
        raise RegistrationError(
            f"field {excluded[0]!r} has exclude=True: it would not be stored; use a private attribute"
        )


def check_name(value: Any, what: str, limit: int = MAX_NAME) -> str:
    """Return a name of 1 to `limit` characters without control characters or outer blanks; RegistrationError else."""
    if not isinstance(value, str):
        raise RegistrationError(f"{what} must be text, not {type(value).__name__}")
    if not value or len(value) > limit:
        raise RegistrationError(f"{what} must have 1 to {limit} characters, not {len(value)}")
    if value != value.strip() or any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value
    ):
        raise RegistrationError(f"{what} must not have control characters, nor blanks at its ends")
    return value


def check_queue(value: Any) -> str:
    """Return a queue's name as `--queues mail:2,default` can write it; RegistrationError else."""
    name = check_name(value, "queue")
    if any(character.isspace() or character in ":," for character in name):
        raise RegistrationError(f"queue {name!r} must not have blanks, commas or colons")
    return name


def check_integer(value: Any, what: str, least: int) -> int:
    """Return an integer that PostgreSQL's `integer` holds; RegistrationError else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RegistrationError(f"{what} must be an integer, not {type(value).__name__}")
    if not least <= value <= MAX_INT:
        raise RegistrationError(f"{what} must be from {least} to {MAX_INT}")
    return int(value)


def check_choice(value: Any, what: str, choices: tuple[str, ...]) -> Any:
    """Return one of the choices; RegistrationError else."""
    if not isinstance(value, str) or value not in choices:
        raise RegistrationError(f"{what} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def _check_method(cls: type[Task], name: str) -> None:
    method = inspect.getattr_static(cls, name)
    if isinstance(method, staticmethod | classmethod) or not callable(method):
        raise RegistrationError(f"{name} must be a method: def {name}(self)")
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise RegistrationError(f"{name}() must return, not yield")
    if isinstance(method, FunctionType):
        _, *others = inspect.signature(method).parameters.values() or [None]
        required = [one.name for one in others if one and one.default is one.empty and one.kind not in _VARIADIC]
        if required:
            raise RegistrationError(f"{name}() takes nothing but self; {required[0]!r} should be a field")
