"""Leases: who is alive, who is rescued and charged, and that nobody writes with a claim that is no longer theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import Snooze, db, events, register_task
from taskrunner.attempt import Attempt
from taskrunner.db import Link
from taskrunner.errors import DatabaseUnreachable
from taskrunner.leases import Heart, Lease, Rescuer, rescue_dead
from taskrunner.outbox import Outbox
from taskrunner.outcome import Finish
from taskrunner.parting import part
from taskrunner.runner import Runner
from taskrunner.settings import Settings
from taskrunner.statements import cycle as hot
from taskrunner.statements import runner as store_sql
from taskrunner.statements import task as sql
from taskrunner.store import runner as runner_store
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.runner import Pulse
from taskrunner.store.task import Claimed, Cycle, Ending
from taskrunner.task import Task
from tests.engine import LEASE, WAIT, Engine, holding
from tests.processes import eventually
from tests.silencer import Silencer

HOUR = timedelta(hours=1)

AGES = HOUR.total_seconds()
"""A time-out that does not come within a test: what happens then, happened without it."""


# ── rescue: who is charged ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_dead_runner_had_started_is_charged_and_what_it_had_only_claimed_is_not(engine: Engine) -> None:
    """SPEC CRA 33."""
    only_started_tasks_are_charged(engine)


def only_started_tasks_are_charged(engine: Engine) -> None:
    ids = engine.add(4)
    runner = engine.join()
    claims = engine.claim(runner, 4)
    start(engine, runner, *claims[:2])
    verdicts = engine.die(runner)
    assert [verdicts[id_] for id_ in ids] == ["charged", "charged", "released", "released"]
    views = [engine.view(id_) for id_ in ids]
    assert [view.crashes for view in views] == [1, 1, 0, 0]
    assert {(view.state, view.tries, view.runner_id, view.started_at) for view in views} == {("pending", 0, None, None)}
    assert [len(view.errors) for view in views] == [1, 1, 0, 0]
    assert "its runner died" in views[0].errors[0]["message"]


def start(engine: Engine, runner: UUID, *claims: Claimed) -> None:
    """Mark runs as started, as the next cycle would."""
    marks = [store.Started(claim.id, claim.claim_no, 0.0) for claim in claims]
    engine.do(store.cycle(Cycle(runner, started=marks)))


def test_a_task_whose_third_runner_dies_is_dead_and_says_why(engine: Engine) -> None:
    """SPEC CRA 33."""
    the_third_crash_is_the_last(engine)


def the_third_crash_is_the_last(engine: Engine) -> None:
    (id_,) = engine.add()
    for crashes in (1, 2, 3):
        runner = engine.join()
        (claim,) = engine.claim(runner, start=crashes == 1)
        assert engine.do(store.mark_started(runner, id_, claim.claim_no))
        engine.die(runner)
        assert engine.view(id_).crashes == crashes
    view = engine.view(id_)
    assert view.state == "dead"
    assert view.tries == 0
    assert [error["message"] for error in view.errors] == ["its runner died"] * 2 + ["its runner died 3 times"]
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats WHERE outcome = 'dead'") == 1


def test_where_a_suspect_had_started_it_alone_is_charged(engine: Engine) -> None:
    """SPEC CRA 33: the hundreds beside a task that kills its runner all succeed."""
    the_suspect_alone_is_charged(engine)


def the_suspect_alone_is_charged(engine: Engine) -> None:
    (suspect,) = engine.add()
    first = engine.join()
    engine.claim(first, start=True)
    engine.die(first)
    innocent = engine.add(3)
    second = engine.join()
    claims = engine.claim(second, 4)
    start(engine, second, *claims)
    verdicts = engine.die(second)
    assert verdicts.pop(suspect) == "charged"
    assert set(verdicts.values()) == {"released"}, "innocent tasks were charged beside a suspect"
    assert [engine.view(id_).crashes for id_ in innocent] == [0, 0, 0]


def test_a_claim_marks_no_suspect_as_started_that_waits_for_its_turn(engine: Engine) -> None:
    """SPEC CRA 33: a runner in a user's program marks starts with the claim, suspects before each runs."""
    ids = engine.add(3)
    first = engine.join()
    engine.claim(first, 3, start=True)
    engine.die(first)
    second = engine.join()
    claims = engine.claim(second, 3, start=True)
    assert engine.do(store.mark_started(second, claims[0].id, claims[0].claim_no))
    verdicts = engine.die(second)
    assert [verdicts[id_] for id_ in ids] == ["charged", "released", "released"]


def test_rescue_leaves_rows_that_somebody_has_locked_to_the_next_round(engine: Engine) -> None:
    """SPEC CLM 23: the runner's row stays as long as a task names it."""
    ids = engine.add(2)
    runner = engine.join()
    engine.claim(runner, 2)
    with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", ids[0]):
        assert list(engine.die(runner)) == [ids[1]]
        assert engine.value("SELECT count(*) FROM taskrunner.runner") == 1
    rescued = asyncio.run(rescue_all(engine))
    assert rescued == [ids[0]]
    assert engine.value("SELECT count(*) FROM taskrunner.runner") == 0


def test_the_rescue_of_a_child_that_died_waits_for_nobodys_lock_on_what_it_had_started(engine: Engine) -> None:
    """SPEC CLM 23, CRA 33."""
    ids = engine.add(2)
    runner = engine.join()
    started = [(claim.id, claim.claim_no) for claim in engine.claim(runner, 2)]
    engine.conn.execute("SET lock_timeout = '200ms'")
    with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", ids[0]):
        rescued = engine.do(runner_store.rescue_of(runner, started, 3))
        assert [(task.id, task.verdict) for task in rescued] == [(ids[1], "charged")]
    assert asyncio.run(rescue_all(engine)) == [ids[0]]


def test_a_task_that_died_with_its_runner_is_counted_with_its_times(engine: Engine) -> None:
    """SPEC HIS 52: what the figures say is what the dead letters say."""
    (id_,) = engine.add()
    runner = engine.join()
    engine.claim(runner, start=True)
    engine.db.travel(timedelta(seconds=7))
    assert engine.die(runner, limit=1) == {id_: "dead"}
    counted = engine.rows("SELECT outcome, count, run_seconds, run_histogram FROM taskrunner.task_stats")
    (kept,) = engine.rows("SELECT run_seconds FROM taskrunner.dead_letter")
    assert [(outcome, count, seconds) for outcome, count, seconds, _ in counted] == [("dead", 1, *kept)]
    assert kept[0] >= 7
    assert sum(counted[0][3]) == 1


async def rescue_all(engine: Engine) -> list[UUID]:
    link = db.Link(engine.url, name="test rescue")
    try:
        return [task.id for task in await rescue_dead(link.run, 3)]
    finally:
        await link.close()


def test_only_runners_whose_lease_has_ended_are_rescued_and_tasks_of_no_runner_at_all(engine: Engine) -> None:
    """SPEC CRA 33."""
    ids = engine.add(3)
    alive, dead, gone = engine.join(), engine.join(), engine.join()
    for runner in (alive, dead, gone):
        engine.claim(runner)
    engine.do(runner_store.end_leases([dead]))
    engine.conn.execute("DELETE FROM taskrunner.runner WHERE id = %s", [gone])
    assert set(asyncio.run(rescue_all(engine))) == {ids[1], ids[2]}
    assert engine.view(ids[0]).runner_id == alive


def test_two_rescuers_at_once_charge_a_task_once(engine: Engine) -> None:
    """SPEC CRA 33."""
    (id_,) = engine.add()
    runner = engine.join()
    engine.claim(runner, start=True)
    engine.do(runner_store.end_leases([runner]))

    async def both() -> list[list[UUID]]:
        return await asyncio.gather(*[rescue_all(engine) for _ in range(4)])

    assert sorted(map(len, asyncio.run(both()))) == [0, 0, 0, 1]
    assert engine.view(id_).crashes == 1


def test_two_rescuers_of_a_runner_that_has_no_row_do_not_split_the_blame(engine: Engine) -> None:
    """DESIGN 6: each would judge by the tasks that it got hold of, and charge the innocent beside another's suspect."""
    (suspect,) = engine.add()
    engine.claim(first := engine.join(), start=True)
    engine.die(first)
    (innocent,) = engine.add()
    gone = engine.join()
    start(engine, gone, *engine.claim(gone, 2))
    engine.conn.execute("DELETE FROM taskrunner.runner WHERE id = %s", [gone])
    with holding(engine.url, "SELECT 1") as other:
        rescuing = runner_store.rescue(gone, 3)
        assert db.run(other, next(rescuing)), "nobody else was at it"
        assert asyncio.run(rescue_all(engine)) == []
        other.rollback()
    assert set(asyncio.run(rescue_all(engine))) == {suspect, innocent}
    assert [engine.view(id_).crashes for id_ in (suspect, innocent)] == [2, 0]


def test_the_rescue_of_a_child_waits_for_another_rescuer_of_its_runner(engine: Engine) -> None:
    """SPEC CRA 33: what its flight recorder says is marked before anybody judges."""
    engine.add()
    runner = engine.join()
    (claim,) = engine.claim(runner)
    with holding(engine.url, "SELECT 1") as other, ThreadPoolExecutor(1) as beside:
        db.run(other, next(runner_store.rescue(runner, 3)))
        rescuing = beside.submit(engine.do, runner_store.rescue_of(runner, [(claim.id, claim.claim_no)], 3))
        blocked(engine, other)
        other.rollback()
        assert [task.verdict for task in rescuing.result(WAIT)] == ["charged"]


def blocked(engine: Engine, holder: psycopg.Connection[Any]) -> None:
    """Wait until the engine's own connection, which is busy, waits for a lock of the holder's."""
    waiting = "SELECT %s = ANY(pg_blocking_pids(%s))"
    pids = [holder.info.backend_pid, engine.conn.info.backend_pid]
    with engine.db.connect() as looking:
        eventually(lambda: looking.execute(waiting, pids).fetchone() == (True,), "a statement that waits for the lock")


@pytest.mark.anyio
async def test_tasks_of_no_runner_are_looked_for_once_a_minute_and_for_a_while_after_a_death(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEED 10: a round of rescue in which nobody has died is one statement."""
    asked: list[str] = []

    async def pump(work: Any) -> Any:
        known = {store_sql.ANY_EXPIRED: "expired", store_sql.ORPHANED: "orphaned"}
        asked.append(known.get(work.sql, "?") if isinstance(work, db.Op) else "?")
        return engine.do(work)

    now = time.monotonic()
    monkeypatch.setattr("taskrunner.leases.time.monotonic", lambda: now)
    rescuer = Rescuer(pump, 3)
    for seconds in (0, 5, 54, 1, 5):
        now += seconds
        await rescuer.round()
    assert asked == ["expired", "orphaned", "expired", "expired", "expired", "orphaned", "expired"]
    asked.clear()
    engine.do(runner_store.end_leases([engine.join()]))
    for seconds in (0, 5, 14, 2, 5):
        now += seconds
        await rescuer.round()
    assert [what for what in asked if what != "?"] == ["expired", "orphaned"] * 3 + ["expired"] * 2
    asked.clear()
    await rescuer.round(died=False)
    assert asked == []


# ── the fence ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_write_of_a_claim_that_was_rescued_and_taken_again_is_refused(engine: Engine) -> None:
    """SPEC CRA 35."""
    stale_writes_are_refused(engine)


def stale_writes_are_refused(engine: Engine) -> None:
    """The same runner holds the task again: the number of the claim is all that tells the two apart."""
    (id_,) = engine.add()
    runner = engine.join()
    (stale,) = engine.claim(runner)
    engine.do(store.release(runner, [(id_, stale.claim_no)]))
    (held,) = engine.claim(runner)
    refuses_everything(engine, runner, stale)
    assert engine.finish(runner, held).left == [], "the claim that holds it was refused"
    assert engine.ends(id_) == 1


def test_every_write_of_another_runner_is_refused(engine: Engine) -> None:
    """SPEC CRA 35: also with the right claim number."""
    strangers_writes_are_refused(engine)


def strangers_writes_are_refused(engine: Engine) -> None:
    engine.add()
    holder, stranger = engine.join(), engine.join()
    (claim,) = engine.claim(holder)
    refuses_everything(engine, stranger, claim)
    assert engine.finish(holder, claim).left == []


def refuses_everything(engine: Engine, runner: UUID, claim: Claimed) -> None:
    before = engine.rows("SELECT t::text FROM taskrunner.task t")
    ending = Ending(claim.id, claim.claim_no, detail="[]", delay=1.0)
    writes: dict[str, Callable[[], Any]] = {
        "finish": lambda: engine.finish(runner, Ending(claim.id, claim.claim_no)).left == [],
        "mark": lambda: start(engine, runner, claim),
        "retry": lambda: engine.do(store.retry(runner, [ending])),
        "snooze": lambda: engine.do(store.snooze(runner, [ending])),
        "bury": lambda: engine.do(store.bury(runner, [ending])),
        "release": lambda: engine.do(store.release(runner, [(claim.id, claim.claim_no)])),
        "mark_started": lambda: engine.do(store.mark_started(runner, claim.id, claim.claim_no)),
        "progress": lambda: engine.do(store.progress(runner, {(claim.id, claim.claim_no): "{}"})),
        "recorder": lambda: engine.do(runner_store.mark_started_of(runner, [(claim.id, claim.claim_no)])),
    }
    for name, write in writes.items():
        assert not write(), f"{name} was accepted from a stale claim"
        assert engine.rows("SELECT t::text FROM taskrunner.task t") == before, f"{name} changed the row"
    assert engine.ends(claim.id) == 0


def test_the_fate_of_a_claim_is_held_ended_or_lost(engine: Engine) -> None:
    """SPEC CRA 36."""
    engine.add(4)
    runner = engine.join()
    held, ended, buried, lost = engine.claim(runner, 4)
    engine.finish(runner, ended)
    engine.do(store.bury(runner, [Ending(buried.id, buried.claim_no, detail='[{"message": "no"}]')]))
    engine.do(store.release(runner, [(lost.id, lost.claim_no)]))
    asked = [(claim.id, claim.claim_no) for claim in (held, ended, buried, lost)]
    fates = {fate.id: (fate.held, fate.ended) for fate in engine.do(store.fates(runner, asked))}
    assert fates == {
        held.id: (True, False),
        ended.id: (False, True),
        buried.id: (False, True),
        lost.id: (False, False),
    }


def test_a_finish_told_twice_makes_one_row_of_history_and_counts_once(engine: Engine) -> None:
    """SPEC HIS 52, CRA 36."""
    (id_,) = engine.add()
    runner = engine.join()
    (claim,) = engine.claim(runner)
    assert engine.finish(runner, claim).left == []
    assert engine.finish(runner, claim).left == [(id_, claim.claim_no)]
    assert engine.ends(id_) == 1
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats") == 1


@pytest.mark.parametrize("bury", [False, True])
def test_of_two_claims_of_one_task_in_one_batch_the_one_that_holds_it_is_ended(engine: Engine, bury: bool) -> None:
    """SPEC CRA 35: the older one's fate was not known yet."""
    (id_,) = engine.add()
    runner = engine.join()
    (old,) = engine.claim(runner)
    engine.do(store.release(runner, [(id_, old.claim_no)]))
    (new,) = engine.claim(runner)
    both = [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]') for claim in (old, new)]
    if bury:
        assert engine.do(store.bury(runner, both)) == [id_]
    else:
        assert engine.finish(runner, *both).left == [(id_, old.claim_no)]
    assert engine.ends(id_) == 1


def test_an_older_decision_on_a_task_never_takes_the_place_of_a_newer_one(engine: Engine) -> None:
    engine.add()
    runner = engine.join()
    (old,) = engine.claim(runner)
    outbox = Outbox(lambda _: None)
    host: Any = None
    outbox.put(Attempt(old._replace(claim_no=old.claim_no + 1), host), Finish("ignored"))
    outbox.put(Attempt(old, host), Finish("succeeded"))
    assert [(one.attempt.claim.claim_no, one.transition) for one in outbox.take()] == [(2, Finish("ignored"))]


# ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_heartbeat_extends_a_lease_and_never_revives_one_that_has_ended(engine: Engine) -> None:
    """DESIGN 6."""
    an_ended_lease_is_never_revived(engine)


def an_ended_lease_is_never_revived(engine: Engine) -> None:
    living, late = engine.join(), engine.join(lease=timedelta(seconds=5))
    engine.db.travel(timedelta(seconds=6))
    assert engine.do(runner_store.beat([Pulse(living, 3, 1), Pulse(late)], LEASE)) == ({living}, True)
    assert engine.rows("SELECT running, strays FROM taskrunner.runner WHERE id = %s", living) == [(3, 1)]
    left = engine.value("SELECT lease_until - taskrunner.clock() FROM taskrunner.runner WHERE id = %s", living)
    assert timedelta(seconds=14) < left <= LEASE


def test_a_heartbeat_that_waited_for_a_lock_never_revives_what_ended_meanwhile(engine: Engine) -> None:
    """DESIGN 6."""
    a_lease_that_ends_while_a_heartbeat_waits_is_not_revived(engine)


def a_lease_that_ends_while_a_heartbeat_waits_is_not_revived(engine: Engine) -> None:
    runner = engine.join()
    lock = "SELECT FROM taskrunner.runner WHERE id = %s FOR UPDATE"
    with holding(engine.url, lock, runner) as rescuer, ThreadPoolExecutor(1) as beside:
        beating = beside.submit(engine.do, runner_store.beat([Pulse(runner)], LEASE))
        blocked(engine, rescuer)
        rescuer.execute("UPDATE taskrunner.runner SET lease_until = clock_timestamp()")
        rescuer.commit()
        assert beating.result(WAIT).alive == set()


class Member:
    """A runner as its heart sees it; `between` happens after the heartbeat was sent and before its answer is read."""

    def __init__(self, id_: UUID, between: Callable[[Member], None] = lambda _: None) -> None:
        self.lease = Lease(LEASE)
        self.id, self._between, self._asked = id_, between, 0

    def pulse(self) -> Pulse:
        self._asked += 1
        if self._asked == 2:
            self._between(self)
        return Pulse(self.id)


def beat_once(engine: Engine, member: Member) -> None:
    Heart(engine.url, member, every=timedelta(seconds=5), lease=LEASE)._beat(engine.conn)


def test_a_heart_learns_that_the_lease_is_lost(engine: Engine) -> None:
    member = Member(uuid7())
    member.lease.renew(time.monotonic())
    beat_once(engine, member)
    assert member.lease.lost


@pytest.mark.parametrize("same_id", [True, False], ids=["first join", "rejoin"])
def test_a_heartbeat_that_was_sent_before_the_runner_had_joined_loses_no_lease(engine: Engine, same_id: bool) -> None:
    def join(member: Member) -> None:
        member.lease.renew(time.monotonic())
        member.id = member.id if same_id else uuid7()

    member = Member(uuid7(), join)
    beat_once(engine, member)
    assert not member.lease.lost


@pytest.mark.anyio
async def test_a_runner_that_has_lost_its_lease_stops_its_tasks_and_joins_under_a_new_id(engine: Engine) -> None:
    """SPEC CRA 35."""
    gate, stopped = asyncio.Event(), []

    @register_task("Waits")
    class Waits(Task):
        async def run(self) -> Any:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                stopped.append(self.context.claim_no)
                gate.set()
                raise
            return self.context.claim_no

    with engine.door() as door:
        async with engine.running(heartbeat=timedelta(milliseconds=200)) as running:
            id_ = door.add(Waits()).id
            await running.started(id_)
            first = running.runner.id
            engine.db.travel(LEASE * 2)
            await running.until(events.LeaseLost)
            await running.until(events.Joined, 2)
            assert running.runner.id != first
            (view,) = await running.ended(id_)
    assert stopped == [1]
    assert (view.state, view.tries, view.result) == ("succeeded", 0, 2)
    assert engine.ends(id_) == 1


@pytest.mark.anyio
async def test_a_task_longer_than_many_leases_runs_once_also_when_it_blocks_the_loop(engine: Engine) -> None:
    """SPEC CRA 34: the heart beats from a thread."""

    @register_task("Blocks")
    class Blocks(Task):
        async def run(self) -> None:
            time.sleep(1.5)  # noqa: ASYNC251 - it is what must not matter

    with engine.door() as door:
        lease = {"heartbeat": timedelta(milliseconds=100), "lease": timedelta(milliseconds=400)}
        async with engine.running(**lease) as running:
            id_ = door.add(Blocks()).id
            (view,) = await running.ended(id_)
            assert running.runs(id_) == 1
            assert len(running.seen[events.Joined]) == 1
    assert (view.state, view.crashes) == ("succeeded", 0)


@pytest.mark.anyio
async def test_suspects_run_one_at_a_time_and_hold_up_nobody_else(engine: Engine) -> None:
    """DESIGN 6."""
    together = most = 0
    gate = asyncio.Event()

    @register_task("T")
    class Suspect(Task):
        async def run(self) -> None:
            nonlocal together, most
            together += 1
            most = max(most, together)
            await asyncio.sleep(0.02)  # in which the others would start, if they might
            together -= 1

    @register_task("Fine")
    class Fine(Task):
        async def run(self) -> None:
            await gate.wait()

    suspects = engine.add(4)
    engine.conn.execute("UPDATE taskrunner.task SET crashes = 1")
    with engine.door() as door:
        async with engine.running() as running:
            fine = [door.add(Fine()).id for _ in range(3)]
            await running.started(*fine)
            await running.ended(*suspects)
            gate.set()
            await running.ended(*fine)
    assert most == 1


# ── lost replies ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Lossy:
    """Makes a link lose the reply of the first statement that `which` picks, after it was committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, which: Callable[[Any, Any], bool]) -> None:
        self.lost = 0
        run = db.Link.run

        async def lossy(link: db.Link, work: Any) -> Any:
            value = await run(link, work)
            if not self.lost and which(work, value):
                self.lost += 1
                await link.close()
                raise DatabaseUnreachable("the database cannot be reached: the reply was lost")
            return value

        monkeypatch.setattr(db.Link, "run", lossy)


def is_cycle(work: Any) -> bool:
    return isinstance(work, db.Op) and work.sql in (hot.CYCLE, hot.CYCLE_MERGED)


@pytest.mark.anyio
async def test_tasks_of_a_claim_whose_reply_was_lost_are_released_and_run_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    lossy = Lossy(monkeypatch, lambda work, value: is_cycle(work) and bool(value.claimed))
    with engine.door() as door:
        async with engine.running() as running:
            ids = [answer.id for answer in door.add_many([Echo() for _ in range(5)])]
            views = await running.ended(*ids)
            assert lossy.lost == 1
            assert [running.runs(id_) for id_ in ids] == [1] * 5
    assert {(view.state, view.tries, view.crashes) for view in views} == {("succeeded", 0, 0)}


@pytest.mark.anyio
async def test_a_finish_whose_reply_was_lost_is_no_lost_lease_and_no_second_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC CRA 36."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    lossy = Lossy(monkeypatch, lambda work, _: is_cycle(work) and bool(work.params["ids"]))
    with engine.door() as door, caplog.at_level(logging.WARNING, "taskrunner.runner"):
        async with engine.running() as running:
            ids = [answer.id for answer in door.add_many([Echo() for _ in range(5)])]
            await running.ended(*ids)
            await running.until(events.Settled, 5)
            assert lossy.lost == 1
            assert [running.runs(id_) for id_ in ids] == [1] * 5
    assert "its lease was lost" not in caplog.text
    assert [engine.ends(id_) for id_ in ids] == [1] * 5
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats") == 5


@pytest.mark.anyio
@pytest.mark.parametrize("statement", ["RETRY", "SNOOZE", "BURY"])
async def test_a_retry_snooze_or_burial_whose_reply_was_lost_counts_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """SPEC CRA 36."""

    @register_task("Fails", max_retries=0 if statement == "BURY" else 1)
    class Fails(Task):
        async def run(self) -> Any:
            if self.context.claim_no > 1:
                return "at last"
            if statement == "SNOOZE":
                return Snooze(0)
            raise ValueError("no")

        def next_try(self) -> Any:
            return 0 if self.tries < self.max_retries else None

    lossy = Lossy(monkeypatch, lambda work, _: isinstance(work, db.Op) and work.sql == getattr(sql, statement))
    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(Fails()).id
            (view,) = await running.ended(id_)
            assert lossy.lost == 1
    expected = {"RETRY": ("succeeded", 1, 1), "SNOOZE": ("succeeded", 0, 0), "BURY": ("dead", 1, 1)}
    assert (view.state, view.tries, len(view.errors)) == expected[statement]
    assert engine.ends(id_) == 1


@pytest.mark.anyio
async def test_a_release_whose_reply_was_lost_does_not_hand_back_the_next_claim(engine: Engine) -> None:
    """SPEC CRA 35: the repeat finds the task claimed again, by this very runner."""
    (id_,) = engine.add()
    runner = engine.join()
    (first,) = engine.claim(runner)
    engine.do(store.release(runner, [(id_, first.claim_no)]))
    (second,) = engine.claim(runner)
    assert engine.do(store.release(runner, [(id_, first.claim_no)])) == []
    assert engine.do(store.unknown(runner, [])) == [(id_, second.claim_no)]
    assert engine.do(store.unknown(runner, [id_])) == []


@pytest.mark.anyio
@pytest.mark.parametrize("which", ["taskrunner runner", "taskrunner heart", "taskrunner listen%"])
async def test_a_runner_whose_connections_the_server_ends_loses_and_doubles_nothing(engine: Engine, which: str) -> None:
    """SPEC CRA 36: again and again, in the middle of its work."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None:
            await asyncio.sleep(0)

    with engine.door() as door:
        async with engine.running(poll=timedelta(milliseconds=100), heartbeat=timedelta(milliseconds=100)) as running:
            await running.until(events.Listening)
            ids = [answer.id for answer in door.add_many([Echo() for _ in range(600)])]
            settled = 0
            for _ in range(3):
                settled = len(await running.until(events.Settled, settled + 50))
                for pid in engine.backends(which):
                    engine.value("SELECT pg_terminate_backend(%s)", pid)
            await running.ended(*ids)
            assert len(running.seen[events.Joined]) == 1
            if which == "taskrunner listen%":
                await running.until(events.Listening, 2)
    assert engine.rows("SELECT count(*), count(DISTINCT id) FROM taskrunner.task_history") == [(600, 600)]
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats") == 600


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_past_the_grace_period_running_tasks_are_released_unchanged(engine: Engine) -> None:
    """SPEC SHU 44."""

    @register_task("Waits")
    class Waits(Task):
        async def run(self) -> None:
            await asyncio.Event().wait()

    with engine.door() as door:
        async with engine.running(grace=timedelta(0)) as running:
            id_ = door.add(Waits()).id
            await running.started(id_)
        view = door.get(id_)
    assert (view.state, view.tries, view.crashes, view.errors) == ("pending", 0, 0, [])


@pytest.mark.anyio
async def test_a_drain_with_no_grace_that_meets_a_fresh_claim_releases_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44: the stop comes between the claim's reply and the first step of its tasks; none is forced."""
    monkeypatch.setattr("taskrunner.runner._FORCE", AGES)

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running(grace=timedelta(0), concurrency=6) as running:  # of which a cycle claims half
            with events.on(events.Claimed, lambda _: running.runner.stop()):
                ids = [answer.id for answer in door.add_many([Echo() for _ in range(3)])]
                await running.until(events.Settled, 3)
        views = [door.get(id_) for id_ in ids]
    assert {(view.tries, view.crashes) for view in views} == {(0, 0)}
    assert {view.state for view in views} <= {"pending", "succeeded"}


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_before_its_first_step_ends_as_cancelled(engine: Engine) -> None:
    """SPEC OPS 48."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running(concurrency=1) as running:

            def cancel(event: events.Claimed) -> None:
                loop.call_soon(running.runner._crew.cancel, event.task_ids[0])

            loop = asyncio.get_running_loop()
            with events.on(events.Claimed, cancel):
                id_ = door.add(Echo()).id
                await running.until(events.Settled)
            views = await running.ended(id_)
    assert views[0].state in ("cancelled", "succeeded")


@pytest.mark.anyio
async def test_a_connection_that_is_given_up_while_it_is_being_made_is_not_left_open(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44: a runner may be stopped in its first millisecond."""
    connected, made = asyncio.Event(), []

    async def wait(conn: Any) -> None:
        made.append(conn)
        connected.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(db, "aconfigure", wait)
    connecting = asyncio.create_task(db.aconnect(engine.url))
    await asyncio.wait_for(connected.wait(), WAIT)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    assert made[0].closed


@pytest.mark.anyio
async def test_an_idle_runner_that_is_told_to_leave_waits_for_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44: not for its next poll, not for its grace period, and nobody has to cancel its loop."""
    for patience in ("_LINGER", "_FORCE"):
        monkeypatch.setattr(f"taskrunner.runner.{patience}", AGES)
    async with engine.running(poll=HOUR, grace=HOUR) as running:
        await running.until(events.Listening)
        running.runner.stop()
        await running.gone()


@pytest.mark.anyio
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "running a task"])
async def test_a_runner_whose_server_says_nothing_any_more_leaves_all_the_same(
    engine: Engine, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44; FAULTS F18: nothing is closed, nothing comes through, and to cancel a statement takes a server.

    It waits for none of the time-outs by which it notices a silent server while it works.
    """
    monkeypatch.setattr("taskrunner.channel.CHECK", AGES)
    monkeypatch.setattr("taskrunner.runner.part", partial(part, patience=AGES))
    for module in ("runner", "cycles", "effects"):
        monkeypatch.setattr(f"taskrunner.{module}.Link", partial(Link, patience=AGES))

    @register_task("Waits")
    class Waits(Task):
        async def run(self) -> None:
            await asyncio.Event().wait()

    (id_,) = engine.add(1 if busy else 0, type="Waits") or (None,)
    async with Silencer(engine.url) as silencer:
        poll, beat = timedelta(milliseconds=50), timedelta(milliseconds=100)
        settings = Settings(concurrency=2, grace=timedelta(0), poll=poll, heartbeat=beat)
        runner = Runner(silencer.url, engine.registry, settings)
        started = asyncio.Event()
        with events.on(events.Started if busy else events.Listening, lambda _: started.set()):
            life = asyncio.create_task(runner.run())
            await asyncio.wait_for(started.wait(), WAIT)
        silencer.silent = True
        await asyncio.sleep(0.3)  # the outside world: statements are on their way now, and stay there
        runner.stop()
        await asyncio.wait_for(life, WAIT)
    if id_ is not None:
        view = engine.view(id_)
        assert (view.tries, view.crashes, view.finished_at) == (0, 0, None)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["rescue", "retry", "release"])
async def test_a_cancel_outlives_the_run_that_it_came_too_late_for(engine: Engine, way: str) -> None:
    """SPEC OPS 48: the runner that was asked died, or sent the task back before it heard of it."""

    @register_task("T")
    class Echo(Task):
        async def run(self) -> None: ...

    (id_,) = engine.add()
    paper = engine.join()
    (claim,) = engine.claim(paper, start=True)
    assert engine.do(steering.cancel(id_)) == "requested"
    ways: dict[str, Callable[[], Any]] = {
        "rescue": lambda: engine.die(paper),
        "retry": lambda: engine.retry(paper, claim),
        "release": lambda: engine.do(store.release(paper, [(id_, claim.claim_no)])),
    }
    assert ways[way]()
    async with engine.running() as running:
        (view,) = await running.ended(id_)
        assert running.runs(id_) == 0
    assert view.state == "cancelled"


@pytest.mark.anyio
async def test_a_task_that_is_rescheduled_after_a_late_cancel_runs(engine: Engine) -> None:
    @register_task("T")
    class Echo(Task):
        async def run(self) -> None: ...

    (id_,) = engine.add()
    paper = engine.join()
    (claim,) = engine.claim(paper)
    engine.do(steering.cancel(id_))
    engine.do(store.release(paper, [(id_, claim.claim_no)]))
    assert engine.do(steering.retry_now(id_, uuid7())) == id_
    async with engine.running() as running:
        (view,) = await running.ended(id_)
    assert view.state == "succeeded"


@pytest.mark.anyio
async def test_what_a_dead_neighbour_has_left_is_rescued_by_a_runner(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 33: nobody special is needed for it."""
    monkeypatch.setattr("taskrunner.runner._RESCUE_EVERY", 0.1)

    @register_task("T")
    class Echo(Task):
        async def run(self) -> None: ...

    ids = engine.add(3)
    dead = engine.join(lease=timedelta(milliseconds=1))
    engine.conn.execute(
        "UPDATE taskrunner.task SET state = 'running', claim_no = 1, runner_id = %s, started_at = now()", [dead]
    )
    async with engine.running() as running:
        views = await running.ended(*ids)
    assert {(view.state, view.crashes) for view in views} == {("succeeded", 1)}
