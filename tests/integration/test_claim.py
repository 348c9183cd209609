"""The claim: its order, its bounds, its plan, and whom it leaves alone."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner.store import runner as runner_store
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.task import Cycle, Ending, Floor, Front
from taskrunner.task import Task
from tests.engine import Engine, claim, fronts, holding, ids_of
from tests.plans import Plan, explain

HOUR = timedelta(hours=1)


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tasks_start_by_priority_then_maturity_then_id(engine: Engine) -> None:
    """SPEC CLM 18."""
    claims_come_in_order(engine)


def claims_come_in_order(engine: Engine) -> None:
    """Three priorities, two types and two maturities, stored in no order at all, claimed five at a time."""
    now = engine.db.now()
    stored = []
    for place in range(24):
        priority, type_, age = (10, 100, 5)[place % 3], ("T", "U")[place % 2], timedelta(seconds=(place * 7) % 4)
        (id_,) = engine.add(priority=priority, type=type_, at=now - age)
        stored.append((-priority, now - age, id_))
    runner = engine.join("T", "U")
    claimed: list[UUID] = []
    while batch := engine.claim(runner, 5, types=("T", "U")):
        claimed += ids_of(batch)
    assert claimed == [id_ for *_, id_ in sorted(stored)]


def test_immature_tasks_of_priority_1000_do_not_hold_up_due_ones_of_priority_1(engine: Engine) -> None:
    """SPEC CLM 18."""
    immature_tasks_hold_nobody_up(engine)


def immature_tasks_hold_nobody_up(engine: Engine) -> None:
    engine.add(50, priority=1000, delay=HOUR)
    due = engine.add(3, priority=1)
    runner = engine.join()
    assert ids_of(engine.claim(runner, 10)) == due
    assert engine.claim(runner, 10) == []


@pytest.mark.parametrize("priorities", [65, 500])
def test_however_many_priorities_have_immature_tasks_a_due_one_below_them_is_found(
    engine: Engine, priorities: int
) -> None:
    """SPEC CLM 18, 20."""
    engine.flood(priorities, priority=("1000 + i",), maturity_at=("now() + interval '1 day'",))
    due = engine.add(priority=1)
    found = engine.do(store.survey(["default"], ["T"]))
    assert [prospect.priority for prospect in found if prospect.due_in <= 0] == [1]
    survey = explain(engine.conn, store.survey(["default"], ["T"]))
    assert survey.touched("task") <= 4 * priorities
    assert ids_of(engine.claim(engine.join(), 10)) == due


def test_nothing_is_claimed_before_its_maturity_and_everything_after_it(engine: Engine) -> None:
    """SPEC ENQ 7: the database's clock decides, and it alone."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    engine.db.freeze(start)
    (id_,) = engine.add(delay=timedelta(seconds=10))
    runner = engine.join(lease=HOUR)
    engine.db.freeze(start + timedelta(seconds=10) - timedelta(microseconds=1))
    assert engine.claim(runner) == []
    engine.db.freeze(start + timedelta(seconds=10))
    assert ids_of(engine.claim(runner)) == [id_]


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("room", [1, 5, 31])
@pytest.mark.parametrize("statistics", ["none", "of an empty table", "of one row"])
def test_a_claim_of_n_takes_n_whatever_the_statistics_say(engine: Engine, room: int, statistics: str) -> None:
    """SPEC CLM 19."""
    engine.conn.execute("ALTER TABLE taskrunner.task SET (autovacuum_enabled = off)")
    if statistics != "none":
        engine.add(1 if statistics == "of one row" else 0)
        engine.conn.execute("ANALYZE taskrunner.task")
    engine.flood(2000)
    runner = engine.join()
    assert len(engine.claim(runner, room)) == room
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE state = 'running'") == room


def test_a_claim_locks_no_more_rows_than_it_takes(engine: Engine) -> None:
    """SPEC CLM 19: what it does not take is another runner's this very moment."""
    engine.flood(300, priority=("i %% 3",))
    first, second = engine.join(), engine.join()
    asked = store.cycle(Cycle(first, fronts=fronts(engine.conn, ["T"]), room=100))
    with psycopg.connect(engine.url) as conn:
        taken = db.run(conn, asked).claimed  # its transaction stays open
        others = engine.claim(second, 300)
    assert len(taken) == 100
    assert len(others) == 200
    assert not set(ids_of(taken)) & set(ids_of(others))


def test_no_task_is_claimed_twice_by_runners_that_claim_at_once(engine: Engine) -> None:
    """SPEC CLM 19."""
    engine.flood(600, priority=("i %% 2",))
    runners = [engine.join() for _ in range(6)]
    taken: dict[UUID, list[UUID]] = {runner: [] for runner in runners}

    def drain(runner: UUID) -> None:
        with db.connect(engine.url) as conn:
            while batch := claim(conn, runner, 7):
                taken[runner] += ids_of(batch)

    threads = [threading.Thread(target=drain, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [id_ for ids in taken.values() for id_ in ids]
    assert len(everything) == len(set(everything)) == 600


def test_each_claim_raises_the_claim_number(engine: Engine) -> None:
    engine.add()
    runner = engine.join()
    numbers = []
    for _ in range(3):
        (claim,) = engine.claim(runner)
        numbers.append(claim.claim_no)
        engine.do(store.release(runner, [(claim.id, claim.claim_no)]))
    assert numbers == sorted(set(numbers))


def test_a_runner_whose_lease_has_ended_claims_nothing(engine: Engine) -> None:
    engine.add()
    runner = engine.join()
    engine.do(runner_store.end_leases([runner]))
    assert engine.claim(runner) == []


def test_a_paused_queue_is_not_claimed_from_until_it_is_resumed(engine: Engine) -> None:
    engine.add()
    runner = engine.join()
    engine.do(steering.pause_queue("default", paused=True))
    assert engine.claim(runner) == []
    assert engine.do(store.survey(["default"], ["T"])) == []
    engine.do(steering.resume_queue("default"))
    assert len(engine.claim(runner)) == 1


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def claim_plan(engine: Engine, room: int, *, types: tuple[str, ...] = ("T",), generic: bool = False) -> Plan:
    asked = Cycle(engine.join(*types), fronts=fronts(engine.conn, types), room=room)
    return explain(engine.conn, store.cycle(asked), generic=generic)


def assert_cheap(plan: Plan, room: int, *, pairs: int = 1) -> None:
    """The claim found its rows by task_claim and touched a few times the rows it took, and some a type and priority.

    Read in `head`, read again and locked in `picked`, updated by primary key; one probe for each step of the scan.
    """
    assert "" not in plan.indexes("task"), "the table was scanned from end to end"
    due = {node["Index Name"] for node in plan.scans("task") if "maturity_at" in node.get("Index Cond", "")}
    assert due == {"task_claim"}
    assert plan.touched("task") <= 4 * room + 4 * pairs + 8, plan.touched("task")


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("room", [1, 10, 100])
def test_the_claim_uses_its_index_and_touches_rows_in_proportion_to_its_room(
    engine: Engine, room: int, generic: bool
) -> None:
    """SPEC CLM 20."""
    engine.flood(20_000)
    engine.conn.execute("ANALYZE taskrunner.task")
    assert_cheap(claim_plan(engine, room, generic=generic), room)


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_stale_statistics_do_not_change_how_the_claim_finds_its_rows(engine: Engine, generic: bool) -> None:
    """SPEC CLM 19, 20: the planner believes the table to be empty."""
    engine.conn.execute("ALTER TABLE taskrunner.task SET (autovacuum_enabled = off)")
    engine.conn.execute("ANALYZE taskrunner.task")
    engine.flood(20_000)
    assert_cheap(claim_plan(engine, 10, generic=generic), 10)


def test_rows_of_foreign_types_immature_ones_and_other_queues_cost_the_claim_nothing(engine: Engine) -> None:
    """SPEC CLM 20: two hundred thousand rows of each would be found in the way, if any."""
    engine.conn.execute("ALTER TABLE taskrunner.task SET (autovacuum_enabled = off)")
    engine.flood(200_000, type="Foreign", priority=1000)
    engine.flood(50_000, priority=900, maturity_at=("now() + interval '1 day'",))
    engine.flood(20_000, priority=("i %% 5 + 200",), maturity_at=("now() + i * interval '1 hour'",))
    engine.flood(20_000, queue="elsewhere", priority=1000)
    engine.flood(100, priority=1)
    for analyzed in (False, True):
        if analyzed:
            engine.conn.execute("ANALYZE taskrunner.task")
        plan = claim_plan(engine, 10)
        assert_cheap(plan, 10, pairs=7)
        assert plan.buffers() < 1000
    survey = explain(engine.conn, store.survey(["default"], ["T"]))
    assert survey.indexes("task") == {"task_claim"}
    assert survey.touched("task") <= 30


def test_what_an_old_snapshot_keeps_costs_neither_the_claim_nor_the_finish(engine: Engine) -> None:
    """SPEC CLM 20: 200,000 tasks have come and gone; their index entries stay while somebody looks back."""
    engine.conn.execute("ALTER TABLE taskrunner.task SET (autovacuum_enabled = off)")
    engine.flood(200_000, maturity_at=("now() - interval '1 hour'",))
    engine.conn.execute("ANALYZE taskrunner.task")
    runner = engine.join()
    with psycopg.connect(engine.url) as onlooker:
        onlooker.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        onlooker.execute("SELECT txid_current()")
        engine.conn.execute("UPDATE taskrunner.task SET state = 'running', runner_id = %s, claim_no = 1", [runner])
        engine.conn.execute("DELETE FROM taskrunner.task")
        engine.flood(1000, maturity_at=("now() - interval '1 minute'",))
        first = engine.claim(runner, 100)
        floor = Floor(first[0].maturity_at, first[0].id)
        endings = [Ending(claim.id, claim.claim_no) for claim in first]
        for fronts in ([Front("T", 100, floor)], [Front("T", 100, floor), Front("U", 100)]):
            asked = Cycle(runner, endings, fronts=fronts, room=100)
            for generic in (False, True):
                plan = explain(engine.conn, store.cycle(asked), generic=generic)
                assert plan.indexes("task") == {"task_claim", "task_pkey"}
                assert plan.touched("task") <= 1000
                assert plan.buffers() < 10_000, "a walk through what is dead costs 200,000"


# ── types that a runner does not know ────────────────────────────────────────────────────────────────────────────────


def test_a_type_that_the_runner_does_not_know_is_neither_claimed_nor_altered(engine: Engine) -> None:
    """SPEC CLM 21."""
    foreign_types_are_left_alone(engine)


def foreign_types_are_left_alone(engine: Engine) -> None:
    foreign = engine.add(2, type="Foreign", priority=1000)
    mine = engine.add(type="T")
    before = engine.rows("SELECT t::text FROM taskrunner.task t WHERE type = 'Foreign' ORDER BY id")
    claimed = ids_of(engine.claim(engine.join(), 10))
    assert claimed == mine, f"a foreign task was claimed: {set(claimed) & set(foreign)}"
    assert engine.rows("SELECT t::text FROM taskrunner.task t WHERE type = 'Foreign' ORDER BY id") == before


# ── somebody's locks ─────────────────────────────────────────────────────────────────────────────────────────────────

LOCK = "SELECT FROM taskrunner.task WHERE id = ANY(%s) FOR UPDATE"


def test_a_locked_due_row_delays_no_claim_of_the_others(engine: Engine) -> None:
    """SPEC CLM 23."""
    locked_rows_are_passed_by(engine)


def locked_rows_are_passed_by(engine: Engine) -> None:
    ids = engine.add(10)
    runner = engine.join()
    engine.conn.execute("SET statement_timeout = '3s'")
    with holding(engine.url, LOCK, ids[:4]):
        try:
            assert ids_of(engine.claim(runner, 3)) == ids[4:7], "the room is filled with what nobody has locked"
            assert ids_of(engine.claim(runner, 10)) == ids[7:]
        except psycopg.errors.QueryCanceled:
            raise AssertionError("the claim waited for somebody's lock") from None
    assert ids_of(engine.claim(runner, 10)) == ids[:4]


def test_the_locked_head_of_one_type_does_not_keep_the_other_type_waiting(engine: Engine) -> None:
    """SPEC CLM 23: `head` is full of locked rows, and `more` goes on behind it."""
    locked = engine.add(5, type="T", priority=200)
    others = engine.add(5, type="U", priority=100)
    runner = engine.join("T", "U")
    with holding(engine.url, LOCK, locked):
        assert ids_of(engine.claim(runner, 5, types=("T", "U"))) == others


def test_a_locked_running_row_delays_no_other_finish_and_is_told_as_left_over(engine: Engine) -> None:
    """SPEC CLM 23."""
    engine.add(3)
    runner = engine.join()
    claims = engine.claim(runner, 3)
    engine.conn.execute("SET statement_timeout = '3s'")
    with holding(engine.url, LOCK, [claims[1].id]):
        cycled = engine.finish(runner, *claims)
        assert cycled.left == [(claims[1].id, claims[1].claim_no)]
        (fate,) = engine.do(store.fates(runner, cycled.left))
        assert (fate.held, fate.ended) == (True, False)
        for other in (store.retry, store.snooze, store.bury):
            assert engine.do(other(runner, [Ending(claims[1].id, claims[1].claim_no, detail="[]")])) == []
        assert engine.do(store.release(runner, [(claims[1].id, claims[1].claim_no)])) == []
    assert engine.finish(runner, claims[1]).left == []


def test_the_mark_of_a_start_and_progress_wait_for_nobodys_lock(engine: Engine) -> None:
    """SPEC CLM 23: both ride on connections that everything else needs."""
    engine.add(2)
    runner = engine.join()
    locked, free = engine.claim(runner, 2)
    engine.conn.execute("SET statement_timeout = '3s'")
    with holding(engine.url, LOCK, [locked.id]):
        marks = [store.Started(claim.id, claim.claim_no, 1.0) for claim in (locked, free)]
        engine.do(store.cycle(Cycle(runner, started=marks)))
        texts = {(claim.id, claim.claim_no): '{"done": 1}' for claim in (locked, free)}
        assert engine.do(store.progress(runner, texts)) == [free.id]
        assert engine.do(store.mark_started(runner, locked.id, locked.claim_no)) is False
    assert engine.value("SELECT started_at IS NOT NULL FROM taskrunner.task WHERE id = %s", free.id)


@pytest.mark.anyio
async def test_a_runner_works_on_while_somebody_holds_locks_on_a_due_and_a_running_task(engine: Engine) -> None:
    """SPEC CLM 23: and both are finished once the locks are gone."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running(concurrency=2) as running:
            due = door.add(Echo(), delay=HOUR).id
            with holding(engine.url, LOCK, [due]):
                others = [answer.id for answer in door.add_many([Echo() for _ in range(20)])]
                await running.ended(*others)
            door.reschedule(due)
            assert (await running.ended(due))[0].state == "succeeded"


@pytest.mark.anyio
async def test_a_task_whose_row_is_locked_when_it_ends_is_finished_after_the_lock_and_holds_up_nobody(
    engine: Engine,
) -> None:
    """SPEC CLM 23."""
    gate = asyncio.Event()

    @register_task("Waits")
    class Waits(Task):
        async def run(self) -> None:
            await gate.wait()

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running(concurrency=5) as running:
            locked = door.add(Waits()).id
            await running.started(locked)
            with holding(engine.url, LOCK, [locked]):
                gate.set()
                await running.ended(*[answer.id for answer in door.add_many([Echo() for _ in range(20)])])
                assert engine.view(locked).state == "running"
            assert (await running.ended(locked))[0].state == "succeeded"
            assert running.runs(locked) == 1


# ── transactions, clocks and zones ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_no_session_is_in_a_transaction_while_a_task_runs(engine: Engine, way: str) -> None:
    """SPEC CLM 22."""

    @register_task("Looks")
    class Looks(Task):
        async def run(self) -> Any:
            return busy(engine.url)

    @register_task("LooksInThread")
    class LooksInThread(Task):
        def run(self) -> Any:
            return busy(engine.url)

    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(Looks() if way == "loop" else LooksInThread()).id
            (view,) = await running.ended(id_)
    assert view.result == []


def busy(url: str) -> list[list[str]]:
    """Return the runner's sessions that are in a transaction."""
    with psycopg.connect(url) as conn:
        rows = conn.execute(
            "SELECT application_name, state FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%%' AND application_name LIKE 'taskrunner%%'"
        )
        return [list(row) for row in rows]


@pytest.mark.anyio
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
async def test_server_and_client_may_be_in_any_time_zones(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """SPEC CLM 22: the database's default and the client's PGTZ are both strange."""
    engine.conn.execute(f"ALTER DATABASE {engine.db.name} SET timezone = '{zone}'")  # type: ignore[arg-type]
    monkeypatch.setenv("PGTZ", "Pacific/Chatham")

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> Any:
            return "done"

    with engine.door() as door:
        async with engine.running() as running:
            at = datetime.now(UTC) + timedelta(milliseconds=300)
            id_ = door.add(Echo(), at=at).id
            assert abs(door.get(id_).maturity_at - at) < timedelta(milliseconds=1)
            (view,) = await running.ended(id_)
    assert view.result == "done"
    assert view.started_at is not None
    assert timedelta(0) <= view.started_at - at < timedelta(minutes=5), "zones differ by a quarter of an hour at least"


@pytest.mark.anyio
@pytest.mark.parametrize("shift", [timedelta(hours=-5), timedelta(hours=5)], ids=["behind", "ahead"])
async def test_the_databases_clock_decides_however_wrong_the_clients_is(engine: Engine, shift: timedelta) -> None:
    """SPEC CLM 22: seen from the client the database is hours away, which is the same."""
    engine.db.travel(shift)

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        async with engine.running(heartbeat=timedelta(milliseconds=200)) as running:
            now, later = door.add(Echo()).id, door.add(Echo(), delay=HOUR).id
            (view,) = await running.ended(now)
            assert door.get(later).state == "pending"
            assert abs(view.created_at - engine.db.now()) < timedelta(minutes=1)
            assert view.finished_at is not None
            assert view.maturity_at <= view.finished_at
            engine.db.travel(HOUR)
            await running.ended(later)


def test_the_claim_names_every_field_that_a_runner_needs(engine: Engine) -> None:
    (id_,) = engine.add(priority=7, payload='{"n": 1}', meta='{"trace": "x"}', tenant="acme", max_retries=9)
    (claim,) = engine.claim(engine.join())
    assert (claim.id, claim.tenant, claim.queue, claim.type, claim.priority) == (id_, "acme", "default", "T", 7)
    assert (claim.payload, claim.tries, claim.crashes, claim.max_retries) == ('{"n": 1}', 0, 0, 9)
    assert (claim.errors, claim.meta) == (None, '{"trace": "x"}')
