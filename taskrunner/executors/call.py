"""One call of a task's `run()`, and what it came to.

The classes are not frozen: one of each is made for every task, and freezing makes that 2 µs dearer.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from taskrunner.errors import TaskrunnerError
from taskrunner.payload import error_entry

if TYPE_CHECKING:
    from taskrunner.scope import Scope
    from taskrunner.task import Task

Kind: TypeAlias = Literal["raised", "cancelled", "died"]
OnMessage: TypeAlias = Callable[[str, int, str, object], None]
OnRequest: TypeAlias = Callable[[str, int, str, object], Awaitable[object]]


def _nothing() -> Mapping[str, object]:
    return {}


@dataclass(slots=True)
class Call:
    """What to run: a bound task for the loop and the thread; for a child process, all it needs to rebuild one.

    `info` is for the child: every field of RunInfo but the context, `claim_no`, and if known `deadline`, `started_at`
    (both by one clock), `meta` and `type`. `begin` is called on the loop when the task's own code is next to run, or is
    handed to the thread or child that was free for it; what it returns is added to `info`.
    Log lines of the run are those of `scope`.
    """

    task: Task
    executor: Literal["loop", "thread", "process"]
    name: str = ""
    module: str = ""
    qualname: str = ""
    payload: str = "{}"
    info: Mapping[str, object] = field(default_factory=dict)
    begin: Callable[[], Mapping[str, object]] = _nothing
    scope: Scope | None = None


@dataclass(slots=True)
class Returned:
    """`run()` returned this value."""

    value: object


@dataclass(slots=True)
class BrokeOff:
    """`run()` raised, or the child process it ran in died; `error` has `message` and `traceback`.

    `kind` is "cancelled" when the task's code raised CancelledError by itself; one stopped from outside is `Stopped`.
    """

    error: Mapping[str, str]
    kind: Kind = "raised"


@dataclass(slots=True)
class Stopped:
    """The call was stopped from outside before it came to an end of its own."""


@dataclass(slots=True)
class Refused:
    """The system gives no thread or process: nothing was run, the task can be released unchanged."""

    reason: str


RunEnd: TypeAlias = Returned | BrokeOff
CallEnd: TypeAlias = RunEnd | Stopped | Refused


class NoCapacity(TaskrunnerError):
    """The system gives no further thread or process; the message names the limit."""


def failed(error: BaseException, kind: Kind = "raised") -> BrokeOff:
    """Turn an exception into a value; no reference to it, its frames or their locals is kept."""
    return BrokeOff(error_entry(error), kind)


def died(returncode: int | None) -> BrokeOff:
    """Say how a child ended, by its status as `subprocess` gives it; None where it lives but its socket is unusable."""
    if returncode is None:
        return BrokeOff(error_entry("its process spoiled the connection to its runner"), "died")
    manner = f"exit code {returncode}" if returncode >= 0 else _signal(-returncode)
    return BrokeOff(error_entry(f"its process died ({manner})"), "died")


def _signal(number: int) -> str:
    try:
        return f"signal {number}, {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"
