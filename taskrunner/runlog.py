"""Log records of running tasks: the fields they carry, and how they get to where they are kept with the task.

A process of ours keeps what any logger writes while a task runs (`LineKeeper` at the root). A program that embeds a
runner has its own logging, which is left alone: there, what goes through `self.context.logger` is kept.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from typing import Any

from taskrunner.scope import NEVER, Scope, current
from taskrunner.traces import current_trace_id

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


def level_number(name: str) -> int:
    """Return the number of a level of the settings; of `off` one that no record has."""
    return LEVELS.get(name, NEVER)


class TaskFields(logging.Filter):
    """Puts on each record of a running task the fields of that task: add it to a handler of your own.

    Fields that the record has already, of `extra=` for instance, are left as they are.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        scope = current.get()
        if scope is not None:
            for name, value in scope.log_fields().items():
                record.__dict__.setdefault(name, value)
        if (trace_id := current_trace_id()) is not None:
            record.__dict__.setdefault("trace_id", trace_id)
        return True


class LineKeeper(logging.Handler):
    """Gives the records of running tasks to their runs, which keep them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record, if a task's code wrote it."""
        scope = current.get()
        if scope is not None and record.levelno >= scope.keep_level:
            scope.keep(record)


def keeps_all() -> bool:
    """Whether this process keeps what any logger writes."""
    return any(isinstance(handler, LineKeeper) for handler in logging.getLogger().handlers)


class FieldLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry fields of its own, beside those that the caller gives as `extra=`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the fields."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class TaskLogger(FieldLogger):
    """`self.context.logger`: its records carry the task's fields and are kept with the task, whoever set logging up."""

    def __init__(self, logger: logging.Logger, scope: Scope) -> None:
        super().__init__(logger, scope.log_fields())
        self._scope = scope

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's own name
        """Whether such a record is written or kept."""
        return self.logger.isEnabledFor(level) or level >= self._scope.keep_level

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write the record where the program wants it, and keep it where nobody else does."""
        if self.logger.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            super().log(level, msg, *args, **kwargs)
        if level >= self._scope.keep_level and not (keeps_all() and self.logger.isEnabledFor(level)):
            trouble = kwargs.get("exc_info")
            self._scope.keep(logging.LogRecord(self.logger.name, level, "", 0, msg, args, _exc_info(trouble)))


def _exc_info(given: Any) -> Any:
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    if given and not isinstance(given, tuple):
        return sys.exc_info()
    return given or None


def handle(record: logging.LogRecord) -> None:
    """Take a record that a child process has written: as if a logger of this process had."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
    scope = current.get()
    if scope is not None and record.levelno >= scope.keep_level and not keeps_all():
        scope.keep(record)


def tell_thread_failures() -> None:
    """Write what ends a thread to the log, instead of a traceback that no line of the log is."""
    threading.excepthook = _thread_failed


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else "a thread"
    info = (args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    logging.getLogger("taskrunner.task").error("the thread %s broke off", name, exc_info=info)
