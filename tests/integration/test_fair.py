"""Fair queues: tenants come in turn, by weight; nobody is held up, nothing is claimed twice or lost."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import closing
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import db, events, fairness, register_task
from taskrunner.recorder import Recorder
from taskrunner.runner import Ties
from taskrunner.store import enqueue, fair
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Cycle, Cycled, Turn
from taskrunner.task import Task
from tests.engine import LEASE, Engine, fronts, holding, ids_of
from tests.plans import Plan, explain

HOUR = timedelta(hours=1)


class Round:
    """Claims as one runner makes them: each begins where the last one has come to."""

    def __init__(self, engine: Engine, runner: UUID | None = None, types: tuple[str, ...] = ("T",)) -> None:
        self.engine, self.types = engine, types
        self.runner = runner or engine.join(*types)
        self.turn = Turn()
        self.more = True

    def op(self, room: int, **asked: Any) -> db.Op[Cycled]:
        where = fronts(self.engine.conn, self.types)
        return fair.cycle(Cycle(self.runner, fronts=where, room=room, **asked), self.turn)

    def claim(self, room: int = 1, conn: psycopg.Connection[Any] | None = None) -> list[Claimed]:
        cycled = db.run(conn or self.engine.conn, self.op(room))
        assert cycled.turn is not None
        self.turn, self.more = cycled.turn, cycled.more
        return cycled.claimed

    def tenants(self, room: int = 1, claims: int = 1) -> str:
        return "".join(claim.tenant for _ in range(claims) for claim in self.claim(room))


def make_fair(engine: Engine, **weights: int) -> None:
    fairness.set_fair_by(engine.conn, "default", fair=True)
    for tenant, weight in weights.items():
        fairness.set_weight_by(engine.conn, "default", tenant, weight)


def fill(engine: Engine, **counts: int) -> None:
    """Store tasks of each tenant, all of one's before any of the next one's."""
    for tenant, count in counts.items():
        engine.add(count, tenant=tenant)


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 100])
def test_tenants_come_in_turn_whatever_the_size_of_the_claims(engine: Engine, room: int) -> None:
    tenants_come_in_turn(engine, room)


def tenants_come_in_turn(engine: Engine, room: int = 2) -> None:
    make_fair(engine)
    fill(engine, A=5, B=5, C=5)
    going = Round(engine)
    claimed = ""
    while batch := going.tenants(room):
        claimed += batch
    assert claimed == "CBA" * 5


def test_a_tenants_own_tasks_come_by_priority_then_maturity(engine: Engine) -> None:
    make_fair(engine)
    late, early = engine.add(priority=5, tenant="A", delay=-HOUR / 2), engine.add(priority=5, tenant="A", delay=-HOUR)
    urgent, other = engine.add(priority=9, tenant="A"), engine.add(priority=1, tenant="B")
    assert ids_of(Round(engine).claim(10)) == other + urgent + early + late


def test_the_types_of_one_tenant_are_one_line(engine: Engine) -> None:
    make_fair(engine)
    second, first = engine.add(type="T", tenant="A", delay=-HOUR / 2), engine.add(type="U", tenant="A", delay=-HOUR)
    other = engine.add(type="U", tenant="B")
    assert ids_of(Round(engine, types=("T", "U")).claim(2)) == other + first
    assert second


def test_a_large_claim_of_many_tenants_takes_two_turns_of_each_and_a_small_one_takes_one(engine: Engine) -> None:
    make_fair(engine, t299=3)
    name = ("'t' || 100 + i %% 200",)
    engine.flood(2000, tenant=name, fair_tenant=name)
    going = Round(engine)
    first, small, large, again = ([claim.tenant for claim in going.claim(room)] for room in (100, 50, 100, 200))
    assert Counter(first) == {"t299": 3} | {f"t{number}": 1 for number in range(202, 299)}
    assert small == [f"t{number}" for number in range(201, 151, -1)]
    assert large == [f"t{number}" for number in range(151, 101, -1)] * 2
    assert Counter(again) == {"t299": 6} | {f"t{number}": 2 for number in (101, 100, *range(204, 299))}


def a_newcomer_is_among_the_next_two(engine: Engine) -> None:
    make_fair(engine)
    fill(engine, A=100)
    going = Round(engine)
    going.tenants(1, claims=3)
    fill(engine, B=1)
    assert "B" in going.tenants(1, claims=2)


def test_a_new_tenants_task_is_among_the_next_two_claimed(engine: Engine) -> None:
    """SPEC TEN 55."""
    a_newcomer_is_among_the_next_two(engine)


@pytest.mark.parametrize("room", [1, 10, 64])
def test_small_tenants_are_done_before_fifty_further_tasks_of_one_with_100000(engine: Engine, room: int) -> None:
    make_fair(engine)
    engine.flood(100_000, tenant="A", fair_tenant="A")
    going = Round(engine)
    going.claim(room)
    fill(engine, B=10, C=10, D=10)
    order = ""
    while sum(order.count(tenant) for tenant in "BCD") < 30:
        order += going.tenants(room)
    assert order[: max(order.rindex(tenant) for tenant in "BCD")].count("A") < 50


# ── weights, work ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("room", [1, 3, 10, 100])
def test_weights_are_kept(engine: Engine, room: int) -> None:
    """SPEC TEN 55: within ten per cent."""
    make_fair(engine, A=5, B=3)
    fill(engine, A=600, B=600, C=600)
    going = Round(engine)
    counts = Counter(going.tenants(room, claims=900 // room))
    assert sum(counts.values()) == 900 // room * room
    for tenant, weight in {"A": 5, "B": 3, "C": 1}.items():
        assert counts[tenant] == pytest.approx(sum(counts.values()) * weight / 9, rel=0.1)


def test_a_weight_of_one_is_forgotten(engine: Engine) -> None:
    make_fair(engine, A=5)
    make_fair(engine, A=1)
    assert engine.value("SELECT weights FROM taskrunner.queue_settings") == {}


def test_whoever_has_work_gets_what_others_leave(engine: Engine) -> None:
    make_fair(engine, B=1000)
    fill(engine, A=300, B=3, C=2)
    going = Round(engine)
    claims = []
    while going.more:
        claims.append(Counter(going.tenants(10)))
    assert sum(claims, Counter()) == {"A": 300, "B": 3, "C": 2}
    assert [sum(claim.values()) for claim in claims] == [10] * 30 + [5], "no claim is short while anybody has work"


def test_of_one_tenant_alone_sixteen_turns_are_claimed_at_most(engine: Engine) -> None:
    """Who comes next waits for those that are claimed."""
    make_fair(engine, A=2)
    fill(engine, A=100)
    going = Round(engine)
    assert len(going.tenants(300)) == 32
    assert going.more


def test_a_claim_from_many_tenants_whose_work_ends_is_followed_by_one_that_takes_the_rest(engine: Engine) -> None:
    make_fair(engine)
    engine.flood(30, tenant=("'t' || i",), fair_tenant=("'t' || i",))
    fill(engine, A=30)
    going = Round(engine)
    claimed = 0
    while going.more:
        claimed += len(going.claim(20))
    assert claimed == 60


def test_immature_tasks_and_tenants_hold_nobody_up(engine: Engine) -> None:
    immature_hold_nobody_up(engine)


def immature_hold_nobody_up(engine: Engine) -> None:
    make_fair(engine)
    later = ("now() + interval '1 day'",)
    engine.flood(3000, tenant=("'t' || i",), fair_tenant=("'t' || i",), maturity_at=later, priority=1000)
    engine.flood(100, tenant="A", fair_tenant="A", maturity_at=later)
    due = engine.add(tenant="A")
    going = Round(engine)
    found: list[UUID] = []
    for _ in range(4):  # 2,000 tenants a claim: once round and once more
        found += ids_of(going.claim(10))
    assert found == due


def test_a_row_that_somebody_has_locked_is_passed_by(engine: Engine) -> None:
    locked_rows_are_passed_by(engine)


def locked_rows_are_passed_by(engine: Engine) -> None:
    make_fair(engine)
    fill(engine, A=3, B=2)
    first = engine.value("SELECT id FROM taskrunner.task WHERE tenant = 'A' ORDER BY maturity_at, id LIMIT 1")
    engine.conn.execute("SET lock_timeout = '2s'")
    going = Round(engine)
    with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", first):
        try:
            taken = going.claim(2)
        except psycopg.errors.LockNotAvailable as error:
            raise AssertionError("the claim waited") from error
    assert [claim.tenant for claim in taken] == ["B", "A"]
    assert first not in ids_of(taken)
    assert first in ids_of(going.claim(10))


# ── who claims ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_claim_locks_no_more_rows_than_it_takes(engine: Engine) -> None:
    make_fair(engine)
    engine.flood(300, tenant=("'t' || i %% 7",), fair_tenant=("'t' || i %% 7",), priority=("i %% 3",))
    with psycopg.connect(engine.url) as conn:
        taken = Round(engine).claim(100, conn)  # its transaction stays open
        going, others = Round(engine), list[Claimed]()
        while batch := going.claim(300):
            others += batch
    assert len(taken) == 100
    assert len(others) == 200
    assert not set(ids_of(taken)) & set(ids_of(others))


def test_no_task_is_claimed_twice_by_runners_that_claim_at_once(engine: Engine) -> None:
    make_fair(engine)
    engine.flood(600, tenant=("'t' || i %% 11",), fair_tenant=("'t' || i %% 11",))
    claimed: list[UUID] = []
    runners = [engine.join() for _ in range(4)]
    where = fronts(engine.conn, ["T"])

    def work(runner: UUID) -> None:
        turn = Turn()
        with db.connect(engine.url, name="claimer") as conn:
            while True:
                cycled = db.run(conn, fair.cycle(Cycle(runner, fronts=where, room=7), turn))
                turn = cycled.turn or turn
                claimed.extend(ids_of(cycled.claimed))
                if not cycled.claimed and not cycled.more:
                    return

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 600


def test_a_runner_whose_lease_has_ended_claims_nothing_nor_anybody_from_a_paused_queue(engine: Engine) -> None:
    make_fair(engine)
    fill(engine, A=3)
    assert Round(engine, engine.join(lease=-LEASE)).claim(10) == []
    engine.conn.execute("UPDATE taskrunner.queue_settings SET paused = true")
    assert Round(engine).claim(10) == []


def test_who_does_not_know_that_a_queue_is_fair_takes_nothing_from_it(engine: Engine) -> None:
    """SPEC TEN 55: it was made fair while it was empty, so that no survey has told."""
    make_fair(engine)
    fill(engine, A=3, B=3)
    assert engine.claim(engine.join(), 10) == []


@pytest.mark.anyio
async def test_a_queue_made_fair_while_it_is_empty_is_fair_for_the_runners_that_wait(
    engine: Engine, begun: tuple[asyncio.Queue[str], asyncio.Semaphore]
) -> None:
    began, let = begun
    async with engine.running(concurrency=1, grace=timedelta(0)) as running:
        await running.until(events.Listening)
        await asyncio.to_thread(make_fair, engine)
        await asyncio.to_thread(fill, engine, A=20, B=20)
        for _ in range(10):
            let.release()
        assert sorted([await began.get() for _ in range(10)]) == ["A"] * 5 + ["B"] * 5


def test_a_cycle_of_a_fair_queue_ends_what_was_claimed(engine: Engine) -> None:
    make_fair(engine)
    fill(engine, A=2, B=1)
    going = Round(engine)
    first, second = going.claim(2)
    endings = [store.Ending(claim.id, claim.claim_no) for claim in (first, second)]
    cycled = engine.do(going.op(5, endings=[*endings, store.Ending(first.id, 99)]))
    assert [claim.tenant for claim in cycled.claimed] == ["A"]
    assert cycled.left == [(first.id, 99)]
    assert [engine.view(claim.id).state for claim in (first, second)] == ["succeeded", "succeeded"]


# ── cost ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_touched_are_those_asked_for_with_10000_tenants(engine: Engine) -> None:
    """SPEC TEN 55."""
    make_fair(engine)
    name = ("'t' || i %% 10000",)
    engine.flood(100_000, tenant=name, fair_tenant=name)
    engine.conn.execute("VACUUM ANALYZE taskrunner.task")
    going = Round(engine)
    for room, generic in product((1, 10, 100), (False, True)):  # each rolled back
        plan: Plan = explain(engine.conn, going.op(room), generic=generic)
        assert "task_fair" in plan.indexes("task"), (room, generic)
        assert "" not in plan.indexes("task"), (room, generic)
        assert plan.touched("task") <= 6 * room + 6, (room, generic)


# ── switching ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_waits_is_moved_when_the_queue_becomes_fair(engine: Engine) -> None:
    fill(engine, A=4, B=2)
    assert engine.value("SELECT count(fair_tenant) FROM taskrunner.task") == 0
    make_fair(engine)
    assert engine.value("SELECT count(fair_tenant) FROM taskrunner.task") == 6
    assert Round(engine).tenants(4) == "BABA"


def test_an_ordinary_queue_has_no_row_in_the_fair_index(engine: Engine) -> None:
    make_fair(engine)
    engine.add(3, queue="other")
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE fair_tenant IS NOT NULL") == 0


def test_a_queue_made_ordinary_again_is_claimed_in_the_order_of_maturities(engine: Engine) -> None:
    make_fair(engine)
    fill(engine, A=3, B=3)
    fairness.set_fair_by(engine.conn, "default", fair=False)
    going = Round(engine)
    assert going.claim(10) == [], "nobody claims fairly any more"
    assert "".join(claim.tenant for claim in engine.claim(going.runner, 10)) == "AAABBB"


def test_a_task_written_by_a_transaction_that_did_not_know_comes_at_last(engine: Engine) -> None:
    strays_come_at_last(engine)


def strays_come_at_last(engine: Engine) -> None:
    with psycopg.connect(engine.url) as unaware:
        unaware.execute("SELECT 1")  # its transaction begins
        (stray,) = db.run(unaware, enqueue.add([engine.new(tenant="A")]))
        assert not fairness.set_fair_by(engine.conn, "default", fair=True, patience=0.0)
        unaware.commit()
    fill(engine, A=2)
    going = Round(engine)
    order = going.claim(2)
    assert stray.id not in ids_of(order)
    assert ids_of(going.claim(2)) == [stray.id]
    assert not going.more


@pytest.mark.anyio
async def test_while_tasks_are_added_run_and_the_queue_is_switched_all_run_once(engine: Engine) -> None:
    register_noop()
    added: list[UUID] = []

    def add() -> None:
        with engine.door() as door:
            for number in range(60):
                tenant = "ABCDEF"[number % 6]
                added.extend(one.id for one in door.add_many([Turns(), Turns()], tenant=tenant))
                added.append(door.add(Turns(), tenant=tenant).id)

    def switch() -> None:
        for number in range(7):
            fairness.set_fair(engine.url, "default", fair=number % 2 == 0)

    async with engine.running() as running:
        await asyncio.gather(asyncio.to_thread(add), asyncio.to_thread(switch))
        await running.ended(*added)
    assert len(added) == 180
    assert [running.runs(id_) for id_ in added] == [1] * 180
    assert Counter(engine.ends(id_) for id_ in added) == {1: 180}


# ── a runner ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Turns(Task):
    async def run(self) -> None: ...


def register_noop() -> None:
    register_task("T")(Turns)


@pytest.fixture
def begun(engine: Engine) -> tuple[asyncio.Queue[str], asyncio.Semaphore]:
    """Register a type whose tasks tell their tenant when they begin, and end when somebody lets one."""
    began, let = asyncio.Queue[str](), asyncio.Semaphore(0)

    async def run(self: Task) -> None:
        began.put_nowait(self.context.tenant)
        await let.acquire()

    register_task("T")(type("Held", (Task,), {"run": run, "__module__": __name__, "__qualname__": "Held"}))
    return began, let


@pytest.mark.anyio
async def test_a_new_tenants_task_is_among_the_next_two_that_a_runner_starts(
    engine: Engine, begun: tuple[asyncio.Queue[str], asyncio.Semaphore]
) -> None:
    """SPEC TEN 55."""
    began, let = begun
    make_fair(engine)
    fill(engine, A=100)
    async with engine.running(concurrency=1, grace=timedelta(0)):
        for _ in range(3):
            await began.get()
            let.release()
        await began.get()
        fill(engine, B=1)
        order = []
        for _ in range(2):
            let.release()
            order.append(await began.get())
    assert "B" in order


@pytest.mark.anyio
async def test_claims_ahead_take_turns_with_a_new_tenants(engine: Engine, tmp_path: Path) -> None:
    """SPEC TEN 55: as a supervisor's runner claims, with a flight recorder."""
    order: list[str] = []
    late = asyncio.Event()

    async def run(self: Task) -> None:
        order.append(self.context.tenant)
        if len(order) == 400:
            late.set()
        await asyncio.sleep(0)

    register_task("T")(type("Noted", (Task,), {"run": run, "__module__": __name__, "__qualname__": "Noted"}))
    make_fair(engine, A=2)
    fill(engine, A=4000)
    new, so_far = uuid7(), list[int]()

    def claimed(event: events.Claimed) -> None:
        if new in event.task_ids:
            so_far.append(len(order))

    recorder = Recorder(tmp_path / "recorder", 64)
    with closing(recorder), events.on(events.Claimed, claimed):
        async with engine.running(Ties(recorder=recorder), concurrency=4) as running:
            await late.wait()
            await asyncio.to_thread(engine.add, id=new, tenant="B")
            await running.ended(new)
    assert order.index("B") <= so_far[0] + 4 + 2, "behind what runs, and one turn of the other's"


@pytest.mark.anyio
@pytest.mark.parametrize("slots", [1, 10, 40])
async def test_small_tenants_are_done_before_fifty_further_tasks_that_a_runner_starts_of_one_with_100000(
    engine: Engine, begun: tuple[asyncio.Queue[str], asyncio.Semaphore], slots: int
) -> None:
    """SPEC TEN 55: with what it had claimed ahead when they came."""
    began, let = begun
    make_fair(engine)
    engine.flood(100_000, tenant="A", fair_tenant="A")
    async with engine.running(concurrency=slots, grace=timedelta(0)):
        for _ in range(100):
            await began.get()
            let.release()
        for _ in range(slots):
            await began.get()
        fill(engine, B=10, C=10, D=10)
        order = Counter[str]()
        while sum(order[small] for small in "BCD") < 30:
            let.release()
            order[await began.get()] += 1
    assert (order["B"], order["C"], order["D"]) == (10, 10, 10)
    assert order["A"] < 50
