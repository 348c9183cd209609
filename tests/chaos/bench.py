"""The engine taken apart, for the checker's own test: each step of a task's life by hand, noted as in a real run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from taskrunner.db import Op, Steps, run
from taskrunner.store import enqueue, schedule, steering, timetable
from taskrunner.store import runner as leases
from taskrunner.store import task as store
from taskrunner.store.enqueue import NewTask
from taskrunner.store.schedule import Known, Template
from taskrunner.store.task import Claimed, Cycle, Ending
from taskrunner.testing.database import Database
from taskrunner.triggers import Interval
from tests.chaos import record
from tests.chaos.checker import SLACK, Violation, check
from tests.chaos.history import Event, History
from tests.engine import claim as claim_due

TYPE = "bench"
CRASH_LIMIT = 3
LEASE = timedelta(minutes=5)
PERIOD = timedelta(seconds=0.2)


def let_pass(seconds: float = 3 * SLACK) -> None:
    """Let the database's clock go on: what follows is later than the checker's slack."""
    time.sleep(seconds)


class Bench:
    """A database that is recorded, and one connection for each part that an engine's processes play."""

    def __init__(self, database: Database, history: History) -> None:
        self._database, self.history = database, history
        self._connections: list[psycopg.Connection[Any]] = []
        self.tables = self.connect("chaos")
        record.install(self.tables)
        self._door, self._loop = self.connect("taskrunner queue"), self.connect("taskrunner runner")
        self._rescuer = self.connect("taskrunner scheduler leases")
        self.one_transaction = True
        self.known = Known([TYPE], self._make)

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """Open a session under the name that the engine's own sessions have."""
        conn = psycopg.connect(self._database.url, autocommit=True, application_name=name)
        self._connections.append(conn)
        return conn

    def close(self) -> None:
        """Close all sessions."""
        for conn in self._connections:
            conn.close()

    def verdict(self, *more: Event) -> list[Violation]:
        """Return what the checker says of everything so far."""
        ours = [conn.info.parameter_status("application_name") or "" for conn in self._connections]
        tables = record.tables(self.tables, ours=ours)
        return check([*self.history, *record.read(self.tables), tables, *more], crash_limit=CRASH_LIMIT)

    # ── a door ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, id_: UUID | None = None, *, key: str | None = None, delay: timedelta = timedelta(0)) -> UUID:
        """Enqueue a task."""
        task = NewTask(id_ or uuid7(), TYPE, "{}", "default", unique_key=key, delay=delay)
        [answer] = run(self._door, enqueue.add([task]))
        self.history.note("enqueue", task=str(task.id), ack="yes" if answer.id == task.id else "no")
        return answer.id

    def cancel(self, id_: UUID) -> None:
        """Cancel a task, or ask for it."""
        run(self._door, steering.cancel(id_))

    # ── a runner ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def runner(self) -> UUID:
        """Join as a runner."""
        process = leases.Process(uuid7(), "runner", "host", 1, (), (TYPE,), 10, "0")
        run(self._loop, leases.join(process, LEASE))
        return process.id

    def claim(self, runner: UUID, *, deadly: bool = False, unheard: bool = False) -> list[Claimed]:
        """Claim what is due and begin to run it; `unheard`: the reply is lost."""
        claims = claim_due(self._loop, runner, 10, [TYPE], start=True)
        for claim in () if unheard else claims:
            if claim.crashes:  # a suspect's start is written before it runs
                run(self._loop, store.mark_started(runner, claim.id, claim.claim_no))
            self.history.note("run", task=str(claim.id), claim_no=claim.claim_no, deadly=deadly)
        return claims

    def succeed(self, claims: Sequence[Claimed]) -> None:
        """Let the user code of these claims return."""
        for claim in claims:
            self.history.note("effect", task=str(claim.id), claim_no=claim.claim_no)
            self.history.note("done", task=str(claim.id), claim_no=claim.claim_no)

    def finish(self, runner: UUID, claims: Sequence[Claimed]) -> None:
        """Write that they succeeded."""
        endings = [Ending(claim.id, claim.claim_no) for claim in claims]
        run(self._loop, store.cycle(Cycle(runner, endings)))

    def retry(self, runner: UUID, claims: Sequence[Claimed]) -> None:
        """Let the user code of these claims raise, and write that."""
        for claim in claims:
            self.history.note("failed", task=str(claim.id), claim_no=claim.claim_no)
        endings = [Ending(claim.id, claim.claim_no, detail='{"message": "no"}') for claim in claims]
        run(self._loop, store.retry(runner, endings))

    def release(self, runner: UUID, claims: Sequence[Claimed]) -> None:
        """Hand claims back."""
        run(self._loop, store.release(runner, [(claim.id, claim.claim_no) for claim in claims]))

    def dispel_doubt(self, runner: UUID) -> None:
        """Release what carries the runner's id and is not held: nothing is."""
        run(self._loop, store.release(runner, run(self._loop, store.unknown(runner, []))))

    def beat(self, runner: UUID) -> None:
        """Extend the lease, if it has not ended."""
        run(self._loop, leases.beat([leases.Pulse(runner)], LEASE))

    def work_off(self, runner: UUID) -> None:
        """Run whatever is due to a good end."""
        while claims := self.claim(runner):
            self.succeed(claims)
            self.finish(runner, claims)

    # ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def end_lease(self, runner: UUID) -> None:
        """Let the runner's lease be over."""
        run(self._rescuer, leases.end_leases([runner]))

    def rescue(self) -> None:
        """Take back what runners without a lease have left."""
        seen: list[UUID] = []
        while found := run(self._rescuer, leases.rescue_next(seen, CRASH_LIMIT)):
            seen.append(found[0])

    def schedule(self) -> UUID:
        """Add a schedule that is due now and every `PERIOD` after that."""
        new = timetable.NewSchedule("bench", TYPE, Interval(PERIOD), catch_up="all")
        return run(self._door, timetable.add(new, self.known)).id

    def tick(self, id_: UUID, stop_after: int | None = None) -> Callable[[], None]:
        """Do the first statements of a tick, or all; calling what is returned does the rest and commits."""
        conn = self.connect("taskrunner scheduler")
        steps = schedule.tick(id_, self.known, limit=100)
        if self.one_transaction:
            conn.execute("BEGIN")
        ended = _drive(conn, steps, None, stop_after)

        def rest() -> None:
            if not ended[0]:
                _drive(conn, steps, ended[1], None)
            if self.one_transaction:
                conn.execute("COMMIT")

        if stop_after is None:
            rest()
        return rest

    def scheduler_dies(self) -> None:
        """Break off the session that ticked last."""
        self._connections.pop().close()

    def _make(self, template: Template) -> NewTask:
        return NewTask(uuid7(), template.type, template.payload, "default", tenant=template.tenant)


def _drive(conn: psycopg.Connection[Any], steps: Steps[Any], answer: Any, stop_after: int | None) -> tuple[bool, Any]:
    """Execute up to so many statements; returns whether that was all, and the last answer."""
    done = 0
    while stop_after is None or done < stop_after:
        try:
            op: Op[Any] = steps.send(answer)
        except StopIteration:
            return True, None
        answer, done = run(conn, op), done + 1
    return False, answer
