"""Unique tasks, keys and idempotency keys: one live task, whoever enqueues, however many at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner.declared import declarations, known
from taskrunner.errors import Conflict
from taskrunner.registry import Registry
from taskrunner.store import declaration, schedule
from taskrunner.store import enqueue as enqueue_store
from taskrunner.store import task as store
from taskrunner.store.enqueue import Enqueued, Idempotency
from taskrunner.store.task import Ending
from taskrunner.task import Task
from tests.engine import Engine, holding

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


def live(engine: Engine, **where: Any) -> int:
    return int(
        engine.value(
            "SELECT count(*) FROM taskrunner.task WHERE unique_key = %s AND tenant = %s",
            where.get("key", "type:"),
            where.get("tenant", "default"),
        )
    )


# ── one live task ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_unique_type_has_at_most_one_live_task_and_a_conflict_names_it(engine: Engine) -> None:
    """SPEC UNQ 13."""

    @register_task("Once", unique=True)
    class Once(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Once())
        assert first.created
        assert door.add(Once()) == Enqueued(first.id, created=False)
        assert [answer.created for answer in door.add_many([Once(), Once()])] == [False, False]
        with pytest.raises(Conflict, match=str(first.id)):
            door.add(Once(), on_conflict="error")
        assert door.add(Once(), tenant="acme").created
        runner = engine.join("Once")
        engine.claim(runner, types=("Once",))
        assert door.add(Once()) == Enqueued(first.id, created=False)
        engine.conn.execute("UPDATE taskrunner.task SET state = 'blocked', runner_id = NULL WHERE id = %s", [first.id])
        assert door.add(Once()) == Enqueued(first.id, created=False)
    assert (live(engine), live(engine, tenant="acme")) == (1, 1)


def test_two_unique_tasks_of_one_batch_are_one(engine: Engine) -> None:
    """SPEC UNQ 13."""
    answers = engine.do(enqueue_store.add([engine.new(unique_key="type:") for _ in range(3)]))
    assert [answer.created for answer in answers] == [True, False, False]
    assert len({answer.id for answer in answers}) == 1


def test_the_fields_that_make_a_task_unique_are_compared_by_value(engine: Engine) -> None:
    """SPEC UNQ 13."""

    @register_task("Sync", unique=("account", "parts"))
    class Sync(Task):
        account: int
        parts: dict[str, int]
        note: str = ""

        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Sync(account=1, parts={"a": 1, "b": 2}, note="x"))
        assert door.add(Sync(account=1, parts={"b": 2, "a": 1}, note="y")).id == first.id
        assert door.add(Sync(account=2, parts={"a": 1, "b": 2})).created


def test_many_who_enqueue_at_once_make_one_live_task(engine: Engine) -> None:
    """SPEC UNQ 13; FAULTS F29."""
    one_live_task_per_key(engine)


def one_live_task_per_key(engine: Engine, people: int = 8, rounds: int = 6) -> None:
    """Everybody enqueues one key at the same instant, round by round, while a runner takes and ends what is there."""
    barrier = threading.Barrier(people)
    answers: list[list[Enqueued]] = [[] for _ in range(rounds)]

    def enqueue() -> None:
        with db.connect(engine.url) as conn:
            for answered in answers:
                barrier.wait(30)
                answered += db.run(conn, enqueue_store.add([engine.new(unique_key="key:k")]))

    runner = engine.join()
    with ThreadPoolExecutor(people) as pool:
        jobs = [pool.submit(enqueue) for _ in range(people)]
        while not all(job.done() for job in jobs):
            assert live(engine, key="key:k") <= 1, "two live tasks of one key"
            engine.finish(runner, *engine.claim(runner, 10))
    for job in jobs:
        job.result()
    assert live(engine, key="key:k") <= 1, "two live tasks of one key"
    engine.finish(runner, *engine.claim(runner, 10))
    created = {answer.id for answered in answers for answer in answered if answer.created}
    assert {answer.id for answered in answers for answer in answered} == created, "an id was returned that is nobody's"
    for id_ in created:
        assert engine.ends(id_) == 1


def test_the_index_itself_refuses_a_second_live_task(engine: Engine) -> None:
    """SPEC UNQ 13: whoever inserts, by whatever statement."""
    engine.flood(1, unique_key="key:k")
    with pytest.raises(psycopg.errors.UniqueViolation, match="task_unique"):
        engine.flood(1, unique_key="key:k")


def test_a_live_task_under_an_old_name_of_the_type_counts_as_the_type(engine: Engine) -> None:
    """SPEC UNQ 13, REG 6."""
    (old,) = engine.add(type="OldName", unique_key="type:")

    @register_task("NewName", unique=True, aliases=("OldName", "Older"))
    class NewName(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        assert door.add(NewName()) == Enqueued(old, created=False)
        runner = engine.join("OldName")
        engine.finish(runner, *engine.claim(runner, types=("OldName",)))
        added = door.add(NewName())
    assert added.created
    assert engine.view(added.id).type == "NewName"


@pytest.mark.anyio
async def test_a_task_queued_under_an_old_name_still_runs(engine: Engine) -> None:
    """SPEC REG 6."""

    @register_task("NewName", aliases=("OldName",))
    class NewName(Task):
        async def run(self) -> Any:
            return "by the new class"

    (old,) = engine.add(type="OldName")
    async with engine.running() as running:
        (view,) = await running.ended(old)
    assert (view.type, view.result) == ("OldName", "by the new class")


# ── the key stays with the task ──────────────────────────────────────────────────────────────────────────────────────


def test_a_unique_task_that_waits_for_a_retry_keeps_its_id_its_tries_and_its_key(engine: Engine) -> None:
    """SPEC UNQ 14."""
    (id_,) = engine.add(unique_key="type:")
    runner = engine.join()
    for tries in (1, 2):
        (claim,) = engine.claim(runner)
        engine.retry(runner, claim)
        (answer,) = engine.do(enqueue_store.add([engine.new(unique_key="type:")]))
        assert answer == Enqueued(id_, created=False)
        assert engine.view(id_).tries == tries


@pytest.mark.parametrize("ending", ["succeeded", "ignored", "cancelled", "dead"])
def test_when_a_task_has_ended_its_key_is_free(engine: Engine, ending: str) -> None:
    """SPEC UNQ 16."""
    (id_,) = engine.add(unique_key="key:k")
    runner = engine.join()
    (claim,) = engine.claim(runner)
    if ending == "dead":
        engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
    else:
        engine.finish(runner, Ending(claim.id, claim.claim_no, state=ending))
    (answer,) = engine.do(enqueue_store.add([engine.new(unique_key="key:k")]))
    assert answer.created
    assert answer.id != id_


def test_requeueing_onto_a_key_that_is_taken_again_is_a_conflict(engine: Engine) -> None:
    """SPEC UNQ 15."""

    @register_task("Keyed")
    class Keyed(Task):
        async def run(self) -> None: ...

    runner = engine.join("Keyed")
    with engine.door() as door:
        dead = door.add(Keyed(), key="k").id
        (claim,) = engine.claim(runner, types=("Keyed",))
        engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
        taken = door.add(Keyed(), key="k").id
        with pytest.raises(Conflict, match=f"key:k.* {taken}"):
            door.retry(dead)
        door.cancel(taken)
        requeued = door.retry(dead)
    assert engine.view(requeued).tries == 0
    assert engine.value("SELECT requeued_from FROM taskrunner.task WHERE id = %s", requeued) == dead


def test_an_enqueue_left_open_in_somebodys_transaction_delays_only_its_own_key(engine: Engine) -> None:
    """SPEC UNQ 15."""
    with holding(engine.url, "SELECT 1") as other:
        db.run(other, enqueue_store.add([engine.new(unique_key="key:k")]))
        engine.conn.execute("SET lock_timeout = '200ms'")
        assert engine.do(enqueue_store.add([engine.new(unique_key="key:other")]))[0].created
        assert engine.do(enqueue_store.add([engine.new(unique_key="key:k", type="U")]))[0].created
        with pytest.raises(psycopg.errors.LockNotAvailable):
            engine.do(enqueue_store.add([engine.new(unique_key="key:k")]))
    assert engine.do(enqueue_store.add([engine.new(unique_key="key:k")]))[0].created


def test_batches_that_add_the_same_keys_crosswise_do_not_deadlock(engine: Engine) -> None:
    keys = [f"key:{number}" for number in range(500)]
    together = threading.Barrier(2)

    def add(order: list[str]) -> int:
        with psycopg.connect(engine.url, autocommit=True) as conn:
            tasks = [engine.new(unique_key=key) for key in order]
            together.wait()
            return sum(answer.created for answer in db.run(conn, enqueue_store.add(tasks)))

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            created = list(pool.map(add, [keys, keys[::-1]]))
            assert sorted(created) == [0, len(keys)]
            engine.conn.execute("DELETE FROM taskrunner.task")


# ── idempotency keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_idempotency_key_returns_the_first_id_for_a_week_also_after_the_end(engine: Engine) -> None:
    """SPEC UNQ 16."""

    @register_task("Pay")
    class Pay(Task):
        async def run(self) -> None: ...

    runner = engine.join("Pay", lease=WEEK * 3)
    with engine.door() as door:
        first = door.add(Pay(), idempotency_key="order-7")
        assert first.created
        assert door.add(Pay(), idempotency_key="order-7") == Enqueued(first.id, created=False)
        assert door.add(Pay(), idempotency_key="order-8").created
        assert door.add(Pay(), idempotency_key="order-7", tenant="acme").created
        engine.finish(runner, *engine.claim(runner, 10, types=("Pay",)))
        assert door.add(Pay(), idempotency_key="order-7") == Enqueued(first.id, created=False)
        engine.db.travel(WEEK - timedelta(minutes=1))
        assert door.add(Pay(), idempotency_key="order-7") == Enqueued(first.id, created=False)
        engine.db.travel(timedelta(minutes=2))
        second = door.add(Pay(), idempotency_key="order-7")
    assert second.created
    assert second.id != first.id


def test_many_who_use_one_idempotency_key_at_once_get_one_id(engine: Engine) -> None:
    """SPEC UNQ 16."""
    people = 8
    barrier = threading.Barrier(people)

    def enqueue(_: int) -> Enqueued:
        with db.connect(engine.url) as conn:
            barrier.wait(30)
            return db.run(conn, enqueue_store.add([engine.new()], idempotency=Idempotency("k", WEEK)))[0]

    with ThreadPoolExecutor(people) as pool:
        answers = list(pool.map(enqueue, range(people)))
    assert len({answer.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1


def test_an_idempotency_key_whose_enqueue_was_rolled_back_is_free(engine: Engine) -> None:
    """SPEC UNQ 16, ENQ 11."""
    with psycopg.connect(engine.url) as conn:
        conn.execute("SELECT")
        db.run(conn, enqueue_store.add([engine.new()], idempotency=Idempotency("k", WEEK)))
        conn.rollback()
    assert engine.do(enqueue_store.add([engine.new()], idempotency=Idempotency("k", WEEK)))[0].created


def test_an_idempotency_key_stands_for_the_live_task_that_a_unique_key_pointed_to(engine: Engine) -> None:
    """SPEC UNQ 16: the same question gets the same answer, also when the task has ended since."""
    (incumbent,) = engine.add(unique_key="key:k")
    asked = [engine.new(unique_key="key:k")]
    assert engine.do(enqueue_store.add(asked, idempotency=Idempotency("i", WEEK))) == [
        Enqueued(incumbent, created=False)
    ]
    runner = engine.join()
    engine.finish(runner, *engine.claim(runner))
    again = [engine.new(unique_key="key:k")]
    assert engine.do(enqueue_store.add(again, idempotency=Idempotency("i", WEEK))) == [
        Enqueued(incumbent, created=False)
    ]


def test_an_insert_that_meets_a_task_which_ends_that_moment_goes_in_after_all(engine: Engine) -> None:
    """SPEC UNQ 13: the incumbent's end is not committed when the insert comes, and is when it is let on."""
    engine.add(unique_key="key:k")
    runner = engine.join()
    (claim,) = engine.claim(runner)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(engine.url) as ender, db.connect(engine.url) as conn:
        ender.execute("SELECT")
        db.run(ender, store.cycle(store.Cycle(runner, [Ending(claim.id, claim.claim_no)])))
        adding = pool.submit(db.run, conn, enqueue_store.add([engine.new(unique_key="key:k")]))
        until_waiting(engine, conn.info.backend_pid)
        ender.commit()
        (answer,) = adding.result(30)
    assert answer.created


def until_waiting(engine: Engine, pid: int) -> None:
    """Return once that backend waits for a lock."""
    deadline = time.monotonic() + 30
    while not engine.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid):
        assert time.monotonic() < deadline, "it does not wait"
        time.sleep(0.005)


# ── unique for a time ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_type_that_is_unique_for_a_time_stays_so_after_its_task_has_ended(engine: Engine) -> None:
    """DESIGN 2, `unique_for`."""

    @register_task("Hourly", unique=("to",), unique_for=HOUR)
    class Hourly(Task):
        to: str

        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Hourly(to="a"))
        assert door.add(Hourly(to="b")).created
        door.cancel(first.id)
        assert door.add(Hourly(to="a")) == Enqueued(first.id, created=False)
        engine.db.travel(HOUR + timedelta(seconds=1))
        again = door.add(Hourly(to="a"))
        assert again.created


def test_an_enqueue_that_met_a_live_task_does_not_prolong_the_time(engine: Engine) -> None:
    """DESIGN 2, `unique_for`."""

    @register_task("Daily", unique=True, unique_for=HOUR)
    class Daily(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Daily())
        engine.db.travel(HOUR * 2)
        assert door.add(Daily()) == Enqueued(first.id, created=False)
        door.cancel(first.id)
        assert door.add(Daily()).created


def test_of_a_batch_one_is_created_and_it_answers_for_the_others(engine: Engine) -> None:
    """DESIGN 2, `unique_for`."""

    @register_task("Batched", unique=True, unique_for=HOUR)
    class Batched(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        tasks = [Batched(), Batched(), Batched()]
        answers = door.add_many(tasks)
        assert sum(answer.created for answer in answers) == 1
        assert len({answer.id for answer in answers}) == 1
        engine.db.travel(HOUR * 2)
        assert {answer.id for answer in door.add_many([Batched(), Batched()])} == {answers[0].id}
        assert live(engine) == 1


def test_keys_that_were_kept_under_an_old_name_of_the_type_count_after_it_is_renamed(engine: Engine) -> None:
    """SPEC UNQ 16, REG 6; a request that is sent twice, once before a deployment and once after it."""

    @register_task("Old", unique=True, unique_for=HOUR)
    class Old(Task):
        async def run(self) -> None: ...

    @register_task("OldPay")
    class OldPay(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        kept, paid = door.add(Old()).id, door.add(OldPay(), idempotency_key="order-7").id
        for id_ in (kept, paid):
            door.cancel(id_)
    engine.registry.become(Registry())

    @register_task("New", unique=True, unique_for=HOUR, aliases=("Old",))
    class New(Task):
        async def run(self) -> None: ...

    @register_task("Pay", aliases=("OldPay",))
    class Pay(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        assert door.add(New()) == Enqueued(kept, created=False)
        assert door.add(New(), on_conflict="replace") == Enqueued(kept, created=False)
        assert door.add(Pay(), idempotency_key="order-7") == Enqueued(paid, created=False)
        assert door.add(Pay(), idempotency_key="order-7", key="k", on_conflict="replace").id == paid
        engine.db.travel(HOUR * 2)
        assert door.add(New()).created
        engine.db.travel(WEEK)
        assert door.add(Pay(), idempotency_key="order-7").created


def test_many_who_add_a_type_that_is_unique_for_a_time_get_one_task_also_when_it_ends_meanwhile(engine: Engine) -> None:
    """DESIGN 2, `unique_for`: real connections, a runner beside them."""

    @register_task("Brief", unique=True, unique_for=HOUR)
    class Brief(Task):
        async def run(self) -> None: ...

    people = 8
    together = threading.Barrier(people)

    def add(_: int) -> list[Enqueued]:
        with engine.door() as door:
            together.wait(30)
            return [door.add(Brief()) for _ in range(20)]

    runner = engine.join("Brief")
    with ThreadPoolExecutor(people) as pool:
        jobs = [pool.submit(add, person) for person in range(people)]
        while not all(job.done() for job in jobs):
            engine.finish(runner, *engine.claim(runner, 10, types=("Brief",)))
        answers = [answer for job in jobs for answer in job.result()]
    assert len({answer.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1


def test_a_time_that_a_rolled_back_enqueue_began_has_not_begun(engine: Engine) -> None:
    """DESIGN 2, `unique_for`; SPEC ENQ 11."""

    @register_task("Undone", unique=True, unique_for=HOUR)
    class Undone(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        with db.connect(engine.url) as mine, mine.transaction() as undone:
            assert door.add(Undone(), connection=mine).created
            raise psycopg.Rollback(undone)
        assert door.add(Undone()).created


def test_ticks_of_a_type_that_is_unique_for_a_time_are_skipped_and_counted_until_it_is_over(engine: Engine) -> None:
    """DESIGN 2, `unique_for`; SPEC UNQ 14: also after the task of the first tick has ended."""

    @register_task("Sparse", 60, unique=True, unique_for=timedelta(seconds=150))
    class Sparse(Task):
        async def run(self) -> None: ...

    engine.db.freeze(datetime(2026, 3, 1, 12, tzinfo=UTC))
    (declared,) = declarations(engine.registry)
    engine.do(declaration.declare(declared))
    runner = engine.join("Sparse", lease=HOUR)
    added = []
    for _ in range(4):
        (due,) = engine.do(schedule.line(["Sparse"], (), 10))
        ticked = engine.do(schedule.tick(due.id, known(engine.registry), 10))
        assert ticked is not None
        added.append((ticked.added, ticked.skipped))
        engine.finish(runner, *engine.claim(runner, types=("Sparse",)))
        engine.db.travel(timedelta(minutes=1))
    assert added == [(1, 0), (0, 1), (0, 1), (1, 0)]
