"""The attempts in a runner's hands: start them, stop them, note what runs, let one suspect run at a time.

Invariant: a claim is held from its arrival until its ending is known to be stored (or to be somebody else's); so a row
that carries our id and is not held was claimed by a reply that never came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from uuid import UUID

from taskrunner import events
from taskrunner.attempt import Attempt, Stop, tell
from taskrunner.durations import as_delay
from taskrunner.executors import Call, Executors, RunEnd
from taskrunner.jsonvalue import dump_json
from taskrunner.outbox import Outbox
from taskrunner.outcome import Finish, Release, Transition
from taskrunner.recorder import Recorder
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.store.task import Claimed

log = logging.getLogger("taskrunner.runner")

_REST = 2.0  # seconds without claims after the system gave no thread or process

MarkSuspect = Callable[[Attempt], Awaitable[bool]]
"""Stores the start of a task that has seen a runner die; False when the claim is no longer ours."""


class Crew:
    """Attempts from claim to decision; decisions go to `outbox`. Lives on one event loop."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        recorder: Recorder | None,
        mark_suspect: MarkSuspect,
        changed: Callable[[], None],
        overrun: Callable[[], None],
    ) -> None:
        """`changed` is called when an attempt ends, `overrun` when too many stray threads go on."""
        self.registry = registry
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._settled)
        self.active: set[Attempt] = set()
        self.progress: dict[tuple[UUID, int], str] = {}
        self.rests_until = 0.0
        self._held: dict[UUID, Attempt] = {}
        self._suspect: Attempt | None = None
        self._waiting: deque[Attempt] = deque()
        self._recorder, self._mark_suspect = recorder, mark_suspect
        self._changed, self._overrun = changed, overrun
        self._stray_limit = settings.stray_limit
        self._executors = Executors(
            concurrency=settings.concurrency,
            process_slots=settings.process_slots,
            stray_limit=settings.stray_limit,
            on_message=self._heed_child,
            on_strays=self._heed_strays,
        )

    async def open(self) -> None:
        """Make ready to run."""
        await self._executors.start()

    async def close(self) -> int:
        """Stop what still runs; returns the number of stray threads, with which only `os._exit` leaves."""
        return await self._executors.close()

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self.active) + len(self._waiting)

    @property
    def strays(self) -> int:
        """How many threads of stopped tasks still run."""
        return self._executors.strays

    @property
    def suspects_welcome(self) -> bool:
        """Whether a task that has seen a runner die may be claimed: one at a time is in our hands."""
        return self._suspect is None and not self._waiting

    @property
    def held(self) -> Collection[UUID]:
        """The tasks whose ending is not known to be stored."""
        return self._held.keys()

    def start(self, claim: Claimed) -> None:
        """Take a claim; a suspect waits until it is the only one that runs."""
        attempt = Attempt(claim, self)
        self._held[claim.id] = attempt
        if claim.cancel_requested:  # the runner that was asked to stop it died, or had sent it back by then
            self._conclude(attempt, Finish("cancelled"))
            return
        if claim.crashes and self._suspect is not None:
            self._waiting.append(attempt)
            return
        if claim.crashes:
            self._suspect = attempt
        self._launch(attempt)

    def stop(self, reason: Stop) -> None:
        """Stop everything; what waits is released, or forgotten with the lease."""
        while self._waiting:
            self._conclude(self._waiting.pop(), None if reason is Stop.LOST else Release())
        for attempt in list(self.active):
            attempt.stop(reason)

    def cancel(self, id_: UUID) -> None:
        """Somebody asked for the stop of this task, which may be anybody's."""
        attempt = self._held.get(id_)
        if attempt in self.active and attempt.stop_reason is None:
            attempt.stop(Stop.CANCEL)

    def forget(self) -> None:
        """Drop what is held and undelivered: it belongs to a lease that is gone."""
        self._held.clear()
        self.outbox = Outbox(self._settled)

    def names(self) -> list[str]:
        """Name what runs, for the watchdog; called from its thread."""
        return [f"{attempt.claim.type} {attempt.claim.id}" for attempt in self.active.copy()]

    # ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────

    def _launch(self, attempt: Attempt) -> None:
        self.active.add(attempt)
        name = f"{attempt.claim.type} {attempt.claim.id}"
        attempt.run_task = self.loop.create_task(self._carry_out(attempt), name=name)

    async def _carry_out(self, attempt: Attempt) -> None:
        transition: Transition | None = Release()
        try:
            if attempt is not self._suspect or await self._mark_suspect(attempt):
                transition = await attempt()
        except asyncio.CancelledError:
            transition = attempt.unrun()
        except Exception:
            log.exception("%s %s could not be carried out: released", attempt.claim.type, attempt.claim.id)
        finally:
            if self._recorder is not None:
                self._recorder.end(attempt.claim.id)
            self.active.discard(attempt)
            self.progress.pop((attempt.claim.id, attempt.claim.claim_no), None)
            self._conclude(attempt, transition)
            if attempt is self._suspect:
                self._next_suspect()
            self._changed()

    def _conclude(self, attempt: Attempt, transition: Transition | None) -> None:
        claim = attempt.claim
        events.emit(events.Ended, claim.id, claim.claim_no, type(transition).__name__)
        if transition is None:
            self._settled(attempt)
        else:
            tell(claim, transition, attempt.run_seconds)
            self.outbox.put(attempt, transition)

    def _next_suspect(self) -> None:
        self._suspect = self._waiting.popleft() if self._waiting else None
        if self._suspect is not None:
            self._launch(self._suspect)

    def _settled(self, attempt: Attempt) -> None:
        if self._held.get(attempt.claim.id) is attempt:
            del self._held[attempt.claim.id]
            events.emit(events.Settled, attempt.claim.id, attempt.claim.claim_no)

    # ── what attempts and children need ──────────────────────────────────────────────────────────────────────────

    async def execute(self, call: Call) -> RunEnd:
        """Run a call by its executor."""
        return await self._executors.run(call)

    def began(self, attempt: Attempt) -> None:
        """Note in the flight recorder that the task's own code is next to run."""
        if self._recorder is not None:
            self._recorder.start(attempt.claim.id, attempt.claim.claim_no)

    def show_progress(self, attempt: Attempt, text: str) -> None:
        """Keep the latest word of a task on its progress, for the next write."""
        self.progress[attempt.claim.id, attempt.claim.claim_no] = text

    def exhausted(self) -> None:
        """Something that runs need cannot be had (a thread, a process, a mark): claim nothing for a while."""
        self.rests_until = time.monotonic() + _REST

    def _heed_strays(self, strays: int) -> None:
        if strays > self._stray_limit:
            log.error("%d threads of stopped tasks still run: draining, to start afresh", strays)
            self._overrun()

    def _heed_child(self, task_id: str, claim_no: int, kind: str, data: object) -> None:
        attempt = self._held.get(UUID(task_id))
        if attempt is None or attempt.claim.claim_no != claim_no or not isinstance(data, Mapping):
            return
        if kind == "progress":
            self.show_progress(attempt, dump_json(dict(data), "progress"))
        elif kind == "extend":
            attempt.extend(as_delay(data["seconds"], "extend"))
