"""One claim, from the row to the decision: load, bind, run, classify, ask, decide.

Nothing is written here: the runner obeys the `Transition` that comes out. Whatever a task raises stays inside.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Protocol

from taskrunner import events, outcome, traces
from taskrunner.effects import Effects, RunEffects
from taskrunner.errors import PayloadInvalid, UnknownType
from taskrunner.executors import BrokeOff, Call, CallEnd, Handle, Refused, Returned, Stopped
from taskrunner.outcome import Bury, Finish, Outcome, Release, Retry, Transition, decide, needs_answer
from taskrunner.payload import load_payload
from taskrunner.redaction import MARKS, marks_of, texts_at, unmarked
from taskrunner.registry import Registry, TaskType
from taskrunner.runcontext import RunContext
from taskrunner.scope import secretive
from taskrunner.secretfields import may_hold, secrets_in
from taskrunner.store.task import Claimed
from taskrunner.task import RunInfo, Task, ask_next_try, bind
from taskrunner.tasklog import TaskLog
from taskrunner.veil import NONE, Veil

log = logging.getLogger("taskrunner.task")

_NOTHING: Mapping[str, object] = {}


class Stop(Enum):
    """Why a running task is stopped from outside."""

    CANCEL = "somebody asked for it"
    RELEASE = "the grace period is over"
    LOST = "the lease is lost"


class Host(Protocol):
    """What an attempt needs of its runner."""

    registry: Registry
    effects: Effects
    lines: TaskLog
    keep_level: int
    loop: asyncio.AbstractEventLoop

    def execute(self, call: Call, done: Callable[[CallEnd], None]) -> Handle:
        """Start the call by its executor; `done` is called once, on the loop, with what it came to."""

    def began(self, attempt: Attempt) -> None:
        """The task's own code is next to run."""

    def ended(self, attempt: Attempt, transition: Transition | None, *, stored: bool = False) -> None:
        """This becomes of the claim, or has become of it (`stored`); None: it is no longer this runner's."""

    def show_progress(self, attempt: Attempt, text: str) -> None:
        """Keep what the task says of its progress."""

    def exhausted(self) -> None:
        """The system gives no further thread or process."""


class Attempt:
    """One claim in a runner's hands. Times are seconds of the monotonic clock.

    No asyncio task of its own: `launch` hands the call to its executor, which calls back at its end.
    """

    __slots__ = (
        "_budget",
        "_handle",
        "_late",
        "_task",
        "_timer",
        "claim",
        "effects",
        "ended",
        "host",
        "marked",
        "span",
        "started",
        "stop_reason",
        "taken_at",
        "timeout",
        "veil",
        "weight",
    )

    def __init__(self, claim: Claimed, host: Host) -> None:
        self.claim = claim
        self.host = host
        self.taken_at = 0.0
        self.weight = 0  # of its tenant, in a fair queue
        self.started: float | None = None
        self.ended: float | None = None
        self.marked = False
        self.stop_reason: Stop | None = None
        self.timeout: timedelta | None = None
        self.effects: RunEffects | None = None  # of a run that asks for them
        self.span: Any = None  # of the run, where somebody records traces
        self.veil = NONE  # over the task's secrets, if it has any
        self._task: Task | None = None
        self._handle: Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._budget = 0.0
        self._late = False

    # ── the six steps ────────────────────────────────────────────────────────────────────────────────────────────

    def launch(self) -> None:
        """Start the task; `host.ended` is called with what becomes of it, perhaps before this returns."""
        try:
            kind, task = self._load()
        except (PayloadInvalid, UnknownType) as error:
            self._unfit(str(error))
            return
        except Exception as error:  # a validator of the user's may raise anything
            reason = f"the stored payload does not fit: {type(error).__name__}: {error}"
            self._unfit(reason)
            return
        self._bind(kind, task)
        events.emit(events.Started, self.claim.id, self.claim.claim_no)
        events.fail_point("before_run")
        handle = self.host.execute(self._call(kind, task), self._came_to)
        if self.ended is None:
            self._handle = handle

    def _load(self) -> tuple[TaskType, Task]:
        claim = self.claim
        if claim.meta is not None and MARKS in claim.meta:
            self.veil = Veil(texts_at(json.loads(claim.payload), marks_of(json.loads(claim.meta))))
        kind = self.host.registry.get(claim.type)
        task = load_payload(kind.cls, claim.payload)
        if may_hold(kind.cls):  # also where nobody has noted it: of a row that some other hand has written
            self.veil = Veil(secrets_in(task))
        return kind, task

    def _unfit(self, reason: str) -> None:
        self.host.ended(self, self.veil.over(decide(outcome.Unfit(reason))))

    def _bind(self, kind: TaskType, task: Task) -> None:
        claim = self.claim
        self.timeout = kind.timeout
        self._task = task
        if self.veil is not NONE:
            secretive.add(self)
        bind(
            task,
            RunInfo(
                claim.id,
                claim.tries,
                claim.crashes,
                claim.max_retries,
                claim.priority,
                claim.queue,
                claim.tenant,
                tuple(json.loads(claim.errors)) if claim.errors else (),
                RunContext(self),
            ),
        )

    def _call(self, kind: TaskType, task: Task) -> Call:
        if kind.executor != "process":
            return Call(task, kind.executor, self.claim.type, begin=self._begin, scope=self)
        return Call(
            task=task,
            executor="process",
            name=kind.name,
            module=kind.cls.__module__,
            qualname=kind.cls.__qualname__,
            payload=self.claim.payload,
            info=self._info(),
            begin=self._begin_in_child,
            scope=self,
        )

    def _begin(self) -> Mapping[str, object]:
        """Start the clock: a task that waits for a free child process has neither used its time nor begun to run."""
        self.started = time.monotonic()
        self.span = traces.processing(self.claim)
        if self.timeout is not None:
            self.extend(self.timeout)
        self.host.began(self)
        return _NOTHING

    def _begin_in_child(self) -> Mapping[str, object]:
        self._begin()
        deadline = self.deadline() if self.timeout else None
        return {"started_at": datetime.now(UTC), "deadline": deadline, "trace": traces.handed_over(self.span)}

    def _came_to(self, end: CallEnd) -> None:
        """Classify, ask, decide: whatever goes wrong in it, the claim is given back."""
        self.ended = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        transition: Transition | None = Release()
        try:
            events.fail_point("after_run")
            came_to = self._heed_stop(self._classify(end))
            transition = None if self.stop_reason is Stop.LOST else self._decide(came_to, self._task)
        except Exception:
            log.exception("%s %s could not be carried out: released", self.claim.type, self.claim.id)
        finally:
            self._hand_over(end, transition)

    def _decide(self, came_to: Outcome, task: Task | None) -> Transition:
        answer = ask_next_try(task) if needs_answer(came_to) and task is not None else None
        decided = decide(came_to, answer)
        return decided if self.veil is NONE else self.veil.over(decided)

    def _hand_over(self, end: CallEnd, transition: Transition | None) -> None:
        if self.veil is not NONE:
            secretive.discard(self)
        if self.span is not None:
            _trace(self.span, transition)
        task, self._task = self._task, None  # or only the garbage collector could free them
        self._handle = self._timer = None
        if self.effects is None:
            self.host.ended(self, transition)
        else:
            failed = partial(self._refused, task)
            self.effects.close(transition, stopped=isinstance(end, Stopped), failed=failed)

    def _refused(self, task: Task | None, error: outcome.ErrorEntry) -> Transition:
        """Decide on a run that succeeded and whose session the database refused to commit."""
        return self._decide(self._heed_stop(outcome.Failed(error)), task)

    def _classify(self, end: CallEnd) -> Outcome:
        match end:
            case Returned(value):
                return outcome.classify(value)
            case BrokeOff(error):
                return outcome.Failed(dict(error))
            case Refused(reason):
                log.warning("%s %s was not started: %s", self.claim.type, self.claim.id, reason)
                self.host.exhausted()
                return outcome.Interrupted()
            case Stopped():
                timed_out = self._late and self.stop_reason is None
                return (
                    outcome.timed_out(timedelta(seconds=round(self._budget, 3))) if timed_out else outcome.Interrupted()
                )

    def _heed_stop(self, came_to: Outcome) -> Outcome:
        """Somebody's cancel decides over a failure that it may have caused, never over a success."""
        if self.stop_reason is Stop.CANCEL and isinstance(came_to, outcome.Failed | outcome.Interrupted):
            return outcome.Cancelled()
        return came_to

    def _info(self) -> dict[str, Any]:
        """What a child process is told of its run."""
        claim = self.claim
        return {
            "id": claim.id,
            "tries": claim.tries,
            "crashes": claim.crashes,
            "max_retries": claim.max_retries,
            "priority": claim.priority,
            "queue": claim.queue,
            "tenant": claim.tenant,
            "errors": tuple(json.loads(claim.errors)) if claim.errors else (),
            "claim_no": claim.claim_no,
            "meta": unmarked(json.loads(claim.meta)) if claim.meta else {},
            "type": claim.type,
        }

    # ── its log lines ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def keep_level(self) -> int:
        """The least severe records that are kept."""
        return self.host.keep_level

    def log_fields(self) -> dict[str, object]:
        """What each line about the run carries."""
        claim = self.claim
        runner = str(self.host.effects.runner_id())
        return {
            "task_id": str(claim.id),
            "task_type": claim.type,
            "task_try": claim.tries + 1,
            "queue": claim.queue,
            "tenant": claim.tenant,
            "runner": runner,
            **({} if self.span is None else {"trace_id": traces.trace_id_of(self.span)}),
        }

    def keep(self, record: logging.LogRecord) -> None:
        """Keep a line that the task has written."""
        self.host.lines.add(self, record)

    def veiled(self, text: str) -> str:
        """Return the text without the task's secrets."""
        return self.veil.text(text)

    # ── what others do to it ─────────────────────────────────────────────────────────────────────────────────────

    def stop(self, reason: Stop) -> None:
        """Stop the run; the first reason counts, but a lost lease overrides all."""
        if self.stop_reason is reason:
            return  # a second cancel would cut the task's own clean-up short
        if self.stop_reason is None or reason is Stop.LOST:
            self.stop_reason = reason
        if self._handle is not None:
            self._handle.cancel()
        elif self.effects is not None and reason is not Stop.CANCEL:
            self.effects.abort()

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this asyncio task is the one that the task's coroutine runs in."""
        handle = self._handle
        return handle is not None and handle.runs_in(task)

    def its_effects(self) -> RunEffects:
        """Return what the run does once, and its session."""
        if self.effects is None:
            self.effects = RunEffects(self)
        return self.effects

    def unrun(self) -> Transition | None:
        """Return what becomes of a claim that was stopped before its task ran."""
        if self.stop_reason is Stop.LOST:
            return None
        return decide(outcome.Cancelled() if self.stop_reason is Stop.CANCEL else outcome.Interrupted())

    def extend(self, delay: timedelta) -> None:
        """Give the task `delay` from now on; without a timeout there is nothing to extend. On the loop only."""
        if self.started is None or self.timeout is None or self._late or self.ended is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        seconds = delay.total_seconds()
        self._budget = time.monotonic() - self.started + seconds
        self._timer = self.host.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._late = True
        if self._handle is not None:
            self._handle.cancel()

    def deadline(self) -> datetime:
        """Return when the time is up, by this machine's clock."""
        left = self._budget - (time.monotonic() - (self.started or time.monotonic()))
        return datetime.now(UTC) + timedelta(seconds=left)

    @property
    def age(self) -> float:
        """Seconds since the task's own code began to run; 0 before."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def run_seconds(self) -> float:
        """Seconds that the run lasted, so far."""
        return 0.0 if self.started is None else (self.ended or time.monotonic()) - self.started


def _trace(span: Any, transition: Transition | None) -> None:
    """End the run's span with what becomes of the claim; None: it is another runner's by now."""
    error: Mapping[str, Any] | None = None
    match transition:
        case Retry(_, error):
            pass
        case Bury(errors):
            error = errors[-1] if errors else None
    traces.processed(span, "lost" if transition is None else outcome.outcome_of(transition), error)


def tell(attempt: Attempt, transition: Transition) -> None:
    """Write to the log what became of a claim: each failure is news, the rest is for debugging."""
    if isinstance(transition, Finish) and not log.isEnabledFor(logging.DEBUG):
        return
    claim, extra = attempt.claim, attempt.log_fields()
    match transition:
        case Retry(delay, error):
            log.warning("failed, the next try is in %.1f s: %s", delay.total_seconds(), error["message"], extra=extra)
        case Bury(errors):
            reason = "; ".join(error["message"] for error in errors)
            log.error("dead: %s (`taskrunner dead show %s` has its errors)", reason, claim.id, extra=extra)
        case Finish(state):
            log.debug("%s after %.3f s", state, attempt.run_seconds, extra=extra)
        case _:
            log.debug("back to pending: %s", type(transition).__name__, extra=extra)
