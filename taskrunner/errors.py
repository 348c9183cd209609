"""Every error this project raises on purpose, as one tree; a message names the thing and the remedy.

::

    TaskrunnerError                      exit 1
    ├── ConfigError                      exit 3   a setting, a declaration or a module that cannot be used
    │   ├── SettingsInvalid                       every bad setting at once, each with its source
    │   ├── RegistrationError                     a task type that cannot be registered
    │   │   └── DuplicateName                     two classes under one name
    │   ├── DiscoveryError                        a module in tasks/ that cannot be imported
    │   ├── TriggerInvalid                        a frequency that is no frequency, or never fires
    │   └── EmbeddedError                         the private server cannot be had or started
    ├── DatabaseUnreachable              exit 4   no connection, or it went away
    ├── SchemaBehind                     exit 5   the database needs `taskrunner migrate`
    ├── AccessDenied                     exit 1   the database login may not do this, or not for this tenant
    ├── InvalidArgument                  exit 2   a call with a value that makes no sense
    │   ├── UnknownType                           no task type of that name is registered
    │   └── PayloadInvalid                        a payload that does not fit, with the field's path
    ├── NotFound                         exit 1   no such task, dead letter, schedule, queue
    ├── Conflict                         exit 1   the state forbids it, the key is taken
    ├── LeaseLost                        exit 1   the claim is no longer this runner's
    ├── TaskDead                         exit 1   the task whose result was asked for ended without one
    └── WaitTimeout                      exit 1   the task had not ended in time
"""

from __future__ import annotations

from collections.abc import Iterable


class TaskrunnerError(Exception):
    """Base of all; `exit_code` is what the command line leaves with."""

    exit_code = 1


class ConfigError(TaskrunnerError):
    """A setting, a declaration or a module cannot be used as it is."""

    exit_code = 3


class SettingsInvalid(ConfigError):
    """One or more settings have bad values; all are named, each with its source."""


class RegistrationError(ConfigError):
    """A task type cannot be registered as it is declared."""


class DuplicateName(RegistrationError):
    """Two classes claim one task name."""


class DiscoveryError(ConfigError):
    """A module of the tasks folder cannot be imported."""


class TriggerInvalid(ConfigError):
    """A frequency cannot be read, or can never fire."""


class EmbeddedError(ConfigError):
    """The private PostgreSQL server cannot be found, created or started."""


class DatabaseUnreachable(TaskrunnerError):
    """The database cannot be reached, or the connection was lost in mid-call."""

    exit_code = 4


class SchemaBehind(TaskrunnerError):
    """The database's schema is older than this code: run `taskrunner migrate`."""

    exit_code = 5


class AccessDenied(TaskrunnerError):
    """The database login may not do this, or not for this tenant."""


class InvalidArgument(TaskrunnerError, ValueError):
    """A call's argument makes no sense; nothing was stored."""

    exit_code = 2


class UnknownType(InvalidArgument):
    """No task type of this name is registered."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"unknown task type {name!r}{suggest(name, known)}")


class PayloadInvalid(InvalidArgument):
    """A payload does not fit its task type, or cannot be kept as JSON; the message has the field's path."""


class NotFound(TaskrunnerError, LookupError):
    """Nothing of that name or id is stored."""


class Conflict(TaskrunnerError):
    """The present state forbids the operation; the message names the state."""


class LeaseLost(TaskrunnerError):
    """The claim is no longer this runner's: it was rescued, or ended by somebody else."""


class TaskDead(TaskrunnerError):
    """The task whose result was asked for is dead, or was ignored or cancelled; the message has its last error."""


class WaitTimeout(TaskrunnerError, TimeoutError):
    """The task had not ended when the time was up."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or what is known, or that nothing is: to be appended to a message."""
    from difflib import get_close_matches  # needed once in a lifetime

    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if names:
        listed = ", ".join(names[:16]) + (", …" if len(names) > 16 else "")
        return f"; known: {listed}"
    return "; none is registered: put a module with a @register_task class into your tasks folder"
