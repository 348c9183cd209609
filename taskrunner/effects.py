"""What a run does once: `run_once`, and `session()`, whose commit is the task's finish.

`Effects` is what the runs of one runner share; each run that asks for either has a `RunEffects`. A run that asks for
neither pays nothing: no connection is opened, no module loaded.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID

from taskrunner import events
from taskrunner.backoff import Backoff
from taskrunner.db import PATIENCE, Link, Work
from taskrunner.errors import Conflict, DatabaseUnreachable, LeaseLost, TaskrunnerError
from taskrunner.once import called, checked_key, on_a_loop, written
from taskrunner.outcome import ErrorEntry, Finish, Release, Transition
from taskrunner.parting import part
from taskrunner.settings import Settings
from taskrunner.store import effect as store
from taskrunner.store.effect import Fence, Kept
from taskrunner.store.flow import parents
from taskrunner.store.task import Ending, fates
from taskrunner.task import Parent

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from taskrunner.attempt import Attempt
    from taskrunner.session import LoopUnit, ThreadUnit, Verdict

log = logging.getLogger("taskrunner.task")

T = TypeVar("T")

Failed: TypeAlias = Callable[[ErrorEntry], Transition]
"""Says what becomes of a task that succeeded, and whose work the database refused to commit."""

_LOCKED = 0.05  # seconds until an effect whose row somebody has locked is tried again
_LAST_WORD = 0.3  # seconds that a run which is cancelled has to keep what it has just done


class Effects:
    """The connections by which the runs of one runner keep what they do: one for effects, a bounded pool for sessions.

    All are opened when first asked for. On the runner's event loop, but for `thread_engine`.
    """

    def __init__(self, url: str, settings: Settings, runner_id: Callable[[], UUID]) -> None:
        """`runner_id` tells who claims now: it changes with a lost lease."""
        self.runner_id = runner_id
        self.closing: set[asyncio.Task[None]] = set()
        self._url, self._prepare, self._most = url, settings.prepare, settings.session_connections
        self._link = Link(url, name="taskrunner runner effects", prepare=settings.prepare)
        self._loop_engine: AsyncEngine | None = None
        self._thread_engine: Engine | None = None
        self._making = threading.Lock()

    async def run(self, work: Work[T]) -> T:
        """Execute something on the connection for effects."""
        return await self._link.run(work)

    def loop_engine(self) -> AsyncEngine:
        """Return the engine of the sessions on the loop."""
        if self._loop_engine is None:
            from taskrunner.engines import make_async_engine

            self._loop_engine = make_async_engine(self._url, prepare=self._prepare, most=self._most)
        return self._loop_engine

    def thread_engine(self) -> Engine:
        """Return the engine of the sessions in threads, to any of them."""
        with self._making:
            if self._thread_engine is None:
                from taskrunner.engines import make_engine

                self._thread_engine = make_engine(self._url, prepare=self._prepare, most=self._most)
            return self._thread_engine

    def for_children(self) -> Mapping[str, Any]:
        """Return how a child process opens a session of its own."""
        from taskrunner.session import connection_for_children

        return connection_for_children(self._url, self.runner_id(), prepare=self._prepare)

    def spawn(self, closing: Coroutine[Any, Any, None]) -> None:
        """See to the end of a run's session."""
        task = asyncio.get_running_loop().create_task(closing)
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    async def close(self) -> None:
        """Close what was opened; what is still about to commit is rolled back."""
        await part(self.closing, patience=1.0)
        if self._loop_engine is not None:
            with suppress(Exception):
                await self._loop_engine.dispose()
        if self._thread_engine is not None:
            with suppress(Exception):
                self._thread_engine.dispose()
        await self._link.close()


class RunEffects:
    """What one run has done once, and its session. Made when the run first asks; used by its own loop or thread."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._shared: Effects = attempt.host.effects
        self._unit: LoopUnit | ThreadUnit | None = None
        self._told: Verdict | None = None
        self._under_way: set[str] = set()
        claim = attempt.claim
        self.fence = Fence(self._shared.runner_id(), claim.id, claim.claim_no)

    # ── run_once ─────────────────────────────────────────────────────────────────────────────────────────────────

    def run_once(self, key: str, fn: Callable[[], Any]) -> Any:
        """Return what `fn` returned, or what it returned when it first succeeded; on a loop what to await for it."""
        checked_key(key)
        if self._attempt.ended is not None:
            raise TaskrunnerError(f"run_once({key!r}): the run is over")
        return self._once_on_loop(key, fn) if on_a_loop() else self._once_here(key, fn)

    async def _once_on_loop(self, key: str, fn: Callable[[], Any]) -> Any:
        with self._alone(key):
            kept = await self._inside.kept(key) if self._inside else await self._from_loop(self.look(key))
            if (done := self._done(key, kept)) is not None:
                return json.loads(done)
            events.fail_point("before_effect")
            value = fn()
            if inspect.isawaitable(value):
                value = await value
            text = written(key, value)
            events.fail_point("after_effect")
            if self._inside:
                self._must_be_ours(await self._inside.keep(key, text), key)
            else:
                await self._from_loop(self.keep(key, text))
            events.fail_point("effect_kept")
            return json.loads(text)

    def _once_here(self, key: str, fn: Callable[[], Any]) -> Any:
        with self._alone(key):
            kept = self._inside.kept(key) if self._inside else self._from_thread(self.look(key))
            if (done := self._done(key, kept)) is not None:
                return json.loads(done)
            events.fail_point("before_effect")
            text = written(key, called(key, fn))
            events.fail_point("after_effect")
            if self._inside:
                self._must_be_ours(self._inside.keep(key, text), key)
            else:
                self._from_thread(self.keep(key, text))
            events.fail_point("effect_kept")
            return json.loads(text)

    @property
    def _inside(self) -> Any:
        """The session that the run is inside of, if it is."""
        return self._unit if self._unit is not None and self._unit.inside else None

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        if key in self._under_way:
            raise Conflict(f"run_once({key!r}) is under way in this run: await the first one, or give another key")
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.discard(key)

    def _done(self, key: str, kept: Kept) -> str | None:
        self._must_be_ours(kept.ours, key)
        return kept.value

    def _must_be_ours(self, ours: bool, key: str) -> None:
        if not ours:
            claim = self._attempt.claim
            raise LeaseLost(
                f"{claim.type} {claim.id} (claim {claim.claim_no}) is no longer this runner's: "
                f"run_once({key!r}) is left to whoever has it now"
            )

    # ── on the runner's loop ─────────────────────────────────────────────────────────────────────────────────────

    async def look(self, key: str) -> Kept:
        """Look up a key; waits for the database as long as the run goes on."""
        return await self._persist(store.kept(self.fence, key))

    async def keep(self, key: str, value: str) -> None:
        """Keep the JSON text of a value; waits for the database, and for locks, as long as the run goes on.

        Raises: `LeaseLost`, and nothing is stored.
        """
        claim = (self.fence.id, self.fence.claim_no)
        while not await self._persist(store.keep(self.fence, key, value)):
            fate = await self._persist(fates(self.fence.runner_id, [claim]))
            self._must_be_ours(fate[0].held, key)
            await asyncio.sleep(_LOCKED)

    async def _persist(self, op: Work[T]) -> T:
        attempt, backoff = self._attempt, Backoff()
        while True:
            try:
                return await self._shared.run(op)
            except DatabaseUnreachable as error:
                if attempt.ended is not None or attempt.stop_reason is not None:
                    raise
                log.warning("%s %s: run_once waits: %s", attempt.claim.type, attempt.claim.id, error)
                await asyncio.sleep(backoff.pause())

    async def _from_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the runner's loop, in a task of its own: a cancelled run has a moment to keep what it has done."""
        loop = self._attempt.host.loop
        if asyncio.get_running_loop() is not loop:  # a thread's own
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
        task = loop.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=_LAST_WORD)
            if not task.cancel():
                task.exception()  # seen: the cancellation goes first
            raise

    def _from_thread(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._attempt.host.loop)
        except RuntimeError as error:  # the loop is closed: the process is leaving
            work.close()
            raise TaskrunnerError("the runner is leaving") from error
        return future.result()

    # ── the parents ──────────────────────────────────────────────────────────────────────────────────────────────

    def parents(self) -> Any:
        """Return what the task's parents came to, by their ids; on a loop what to await for it."""
        return self._from_loop(self._parents()) if on_a_loop() else self._from_thread(self._parents())

    async def _parents(self) -> dict[UUID, Parent]:
        return await self._persist(parents(self.fence.id))

    # ── the session ──────────────────────────────────────────────────────────────────────────────────────────────

    def session(self) -> Any:
        """Return the run's session: an `AsyncSession` on the loop, a `Session` in a thread; always the same one."""
        if self._attempt.ended is not None:
            raise TaskrunnerError("the run is over: it can have no session any more")
        if self._unit is None:
            from taskrunner.session import LoopUnit, ThreadUnit

            if not on_a_loop():
                self._unit = ThreadUnit(self.fence, self._shared.thread_engine())
            elif asyncio.get_running_loop() is self._attempt.host.loop:
                self._unit = LoopUnit(self.fence, self._shared.loop_engine())
            else:
                raise TaskrunnerError("context.session() in a thread is for its own code, not for an event loop in it")
        return self._unit.session

    async def answer(self, kind: str, data: Mapping[str, Any]) -> object:
        """Answer what a child process asks. Raises: `LeaseLost`, and what `written` raises."""
        if kind == "session":
            return self._shared.for_children()
        if kind == "parents":
            return [[str(id_), *parent] for id_, parent in (await self._parents()).items()]
        if kind == "effect":
            done = self._done(data["key"], await self.look(data["key"]))
            return {"done": done is not None, "value": None if done is None else json.loads(done)}
        await self.keep(data["key"], written(data["key"], data["value"]))
        return None

    def tell(self, told: Mapping[str, Any]) -> None:
        """Take a child process's word on the session that it had."""
        from taskrunner.session import Verdict

        self._told = Verdict(told["kind"], told["error"])

    def close(self, transition: Transition | None, *, stopped: bool, failed: Failed) -> None:
        """End the session as the run ended, and tell the runner what becomes of the claim.

        With `stopped` its code may still run.
        """
        if self._unit is None and self._told is None:
            self._attempt.host.ended(self._attempt, transition)
        else:
            self._shared.spawn(self._close(transition, stopped, failed))

    def abort(self) -> None:
        """The lease is lost, or the grace period over: a finish that is on its way is to be rolled back."""
        if self._unit is not None:
            self._unit.abort()

    async def _close(self, transition: Transition | None, stopped: bool, failed: Failed) -> None:
        attempt, claim = self._attempt, self._attempt.claim
        try:
            verdict = self._told if self._unit is None else await self._end_session(self._unit, transition, stopped)
        except Exception:  # no thread is to be had, for instance
            log.exception("the session of %s %s could not be ended: released", claim.type, claim.id)
            self.abort()
            attempt.host.ended(attempt, None if transition is None else Release())
            return
        if verdict is None:
            attempt.host.ended(attempt, transition)
        elif verdict.kind == "stored":
            attempt.host.ended(attempt, Finish("succeeded"), stored=True)
        elif verdict.kind == "refused":
            attempt.host.ended(attempt, failed(dict(verdict.error or {})))
        elif verdict.kind == "unsure":
            # Released by the fence, which finds nothing to release if the commit has come through after all.
            log.warning("%s %s: the connection of its session was lost at the commit", claim.type, claim.id)
            attempt.host.ended(attempt, None if transition is None else Release())
        else:
            log.warning("%s %s ended, but its lease was lost: its session is rolled back", claim.type, claim.id)
            attempt.host.ended(attempt, None)

    async def _end_session(
        self, unit: LoopUnit | ThreadUnit, transition: Transition | None, stopped: bool
    ) -> Verdict | None:
        late = asyncio.get_running_loop().call_later(PATIENCE, unit.abort)
        try:
            if stopped:
                unit.abort()
            elif isinstance(transition, Finish) and transition.state == "succeeded" and unit.used:
                verdict: Verdict = await _pumped(unit, "finish", self._ending(transition))
                return verdict
            if not (stopped and _in_thread(unit)):  # there its code may be at it still
                await _pumped(unit, "undo")
        finally:
            late.cancel()
        return None

    def _ending(self, transition: Finish) -> Ending:
        attempt, claim = self._attempt, self._attempt.claim
        return Ending(
            claim.id, claim.claim_no, attempt.run_seconds, attempt.age, transition.state, transition.result_json
        )


def _in_thread(unit: LoopUnit | ThreadUnit) -> bool:
    return not inspect.iscoroutinefunction(unit.undo)


async def _pumped(unit: LoopUnit | ThreadUnit, name: str, *arguments: Any) -> Any:
    method: Any = getattr(unit, name)
    if _in_thread(unit):
        return await asyncio.to_thread(method, *arguments)
    return await method(*arguments)
