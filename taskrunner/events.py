"""What the engine tells whoever listens in the same process, and where a test may break it.

`on(Settled, callback)` hears every event of a kind: extensions count with it, tests wait for it instead of sleeping.
`fail_point(name)` marks a place between two steps; TASKRUNNER_FAIL_POINT=`name:action`, or `name:action:3` for the
third time it is passed, makes the process die or stop there. Both cost one look-up as long as nobody has asked.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from taskrunner.errors import ConfigError

log = logging.getLogger("taskrunner.events")

P = ParamSpec("P")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Joined:
    """A runner has registered itself; its lease runs."""

    runner_id: UUID


@dataclass(frozen=True, slots=True)
class Listening:
    """The connection that NOTIFY comes by is up; `pid` is its backend's."""

    pid: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A runner has taken these tasks."""

    runner_id: UUID
    task_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """`run()` is about to be called."""

    task_id: UUID
    claim_no: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What becomes of a claim has been decided and is not yet written; `decision` names the transition."""

    task_id: UUID
    claim_no: int
    decision: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claim is stored, or is known to be somebody else's business."""

    task_id: UUID
    claim_no: int


class StoredEnd(NamedTuple):
    """One claim's end: `outcome` is as in the figures, or `snoozed` or `released`; no seconds if it never ran."""

    queue: str
    type: str
    outcome: str
    run_seconds: float | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The ends of these claims are stored, in one batch."""

    ends: tuple[StoredEnd, ...]


@dataclass(frozen=True, slots=True)
class Cycled:
    """A round trip that ends and claims is over, well."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A runner's lease is over: its tasks are stopped, and it joins anew under another id."""

    runner_id: UUID


_hooks: dict[object, tuple[Callable[[Any], None], ...]] = {}


@contextmanager
def on(kind: type[E], callback: Callable[[E], None]) -> Iterator[None]:
    """Call back with every event of the kind while inside; in whichever thread it happens, so be quick."""
    _hooks[kind] = (*_hooks.get(kind, ()), callback)
    try:
        yield
    finally:
        _hooks[kind] = tuple(hook for hook in _hooks[kind] if hook is not callback)


def heard(kind: type) -> bool:
    """Whether anybody listens: for events that cost something to put together."""
    return bool(_hooks.get(kind))


def emit(kind: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Tell those who listen; the event is made only if somebody does. What a callback raises is logged."""
    hooks = _hooks.get(kind)
    if not hooks:
        return
    event = kind(*args, **kwargs)
    for hook in hooks:
        try:
            hook(event)
        except Exception:
            log.exception("a callback for %s failed", event)


# ── fail points ──────────────────────────────────────────────────────────────────────────────────────────────────────

FAIL_POINT = "TASKRUNNER_FAIL_POINT"

_ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(70),
}


@dataclass(slots=True)
class _Armed:
    name: str
    action: str
    passes: int


def _arm(text: str) -> _Armed:
    match = re.fullmatch(r"(\w+):(kill|stop|exit)(?::([1-9]\d*))?", text)
    if match is None:
        raise ConfigError(
            f"{FAIL_POINT}={text}: must be name:action or name:action:nth; the actions are kill, stop, exit"
        )
    return _Armed(match[1], match[2], int(match[3] or 1))


_armed = _arm(os.environ[FAIL_POINT]) if os.environ.get(FAIL_POINT) else None


def fail_point(name: str) -> None:
    """Die or stop here if a test has asked for it; else do nothing."""
    if _armed is None or _armed.name != name:
        return
    _armed.passes -= 1
    if _armed.passes == 0:
        log.warning("fail point %s: %s", name, _armed.action)
        _ACTIONS[_armed.action]()
