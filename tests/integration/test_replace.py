"""`on_conflict="replace"`: what waits gets the new work, what runs a successor; nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import TaskStatus, db, events, register_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.errors import Conflict, InvalidArgument, NotFound
from taskrunner.queue import TaskQueue
from taskrunner.store import effect as effects
from taskrunner.store import ending as ending_store
from taskrunner.store import runner as runner_store
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.enqueue import Enqueued, NewTask
from taskrunner.store.replacement import replace
from taskrunner.store.task import Claimed, Due, Ending
from taskrunner.task import Task
from tests.chaos.proxy import Manner, Rule
from tests.engine import WAIT, Engine, fronts, holding
from tests.integration.test_repeats import proxied

HOUR = timedelta(hours=1)


@pytest.fixture
def note(engine: Engine) -> Any:
    @register_task("Note")
    class Note(Task):
        n: int = 0

        async def run(self) -> int:
            return self.n

    return Note


def put(door: TaskQueue, task: Task, **options: Any) -> Enqueued:
    return door.add(task, key="k", on_conflict="replace", **options)


def kept(answer: Enqueued) -> tuple[UUID, bool]:
    """Whose the work is that was not created, and whether it was kept."""
    assert answer == (answer.id, False), "an answer is a pair"
    return answer.id, answer.replaced


def row(engine: Engine, id_: UUID) -> dict[str, Any]:
    (found,) = engine.rows("SELECT to_jsonb(t) FROM taskrunner.task t WHERE id = %s", id_)
    return dict(found[0])


def live(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM taskrunner.task"))


# ── one that waits ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_one_of_a_key_is_simply_added(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15."""
    with engine.door() as door:
        added = put(door, note(n=1))
    assert (added.created, added.replaced) == (True, False)
    assert engine.view(added.id).payload == {"n": 1}


def test_a_pending_task_gets_the_new_work_and_keeps_its_id(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15."""
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with engine.door() as door:
        first = put(door, note(n=1), delay=HOUR)
        again = put(door, note(n=2), at=later, priority=7, max_retries=9, meta={"a": 1}, queue="other")
    assert kept(again) == (first.id, True)
    found = row(engine, first.id)
    assert {name: found[name] for name in ("payload", "priority", "max_retries", "meta", "queue", "state")} == {
        "payload": {"n": 2},
        "priority": 7,
        "max_retries": 9,
        "meta": {"a": 1},
        "queue": "other",
        "state": "pending",
    }
    assert engine.view(first.id).maturity_at == later
    assert live(engine) == 1


def test_a_task_that_waits_for_a_retry_begins_afresh_with_the_new_work(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15: its errors are kept, its tries are those of the new work."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1))
        (claim,) = engine.claim(runner, types=("Note",))
        engine.retry(runner, claim, delay=3600)
        put(door, note(n=2))
    view = engine.view(first.id)
    assert (view.tries, view.payload, len(view.errors)) == (0, {"n": 2}, 1)
    assert engine.claim(runner, types=("Note",))[0].payload == '{"n": 2}', "the back-off was the old work's"


def test_a_blocked_task_gets_the_new_work_and_stays_blocked(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15."""
    with engine.door() as door:
        first = put(door, note(n=1))
        engine.conn.execute("UPDATE taskrunner.task SET state = 'blocked'")
        assert kept(put(door, note(n=2))) == (first.id, True)
    view = engine.view(first.id)
    assert (view.state, view.payload) == ("blocked", {"n": 2})


def test_a_task_moved_to_a_fair_queue_stands_in_its_line(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15, TEN 55."""
    engine.conn.execute("INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('fair', true)")
    with engine.door() as door:
        first = put(door, note(n=1), tenant="acme")
        put(door, note(n=2), tenant="acme", queue="fair")
        assert row(engine, first.id)["fair_tenant"] == "acme"
        put(door, note(n=3), tenant="acme")
    assert row(engine, first.id)["fair_tenant"] is None


def test_types_that_are_unique_by_themselves_can_be_replaced_too(engine: Engine) -> None:
    """SPEC UNQ 13, 15."""

    @register_task("Whole", unique=True, aliases=("Old",))
    class Whole(Task):
        n: int

        async def run(self) -> None: ...

    @register_task("Part", unique=("account",))
    class Part(Task):
        account: int
        n: int

        async def run(self) -> None: ...

    (old,) = engine.add(type="Old", unique_key="type:")
    with engine.door() as door:
        assert kept(door.add(Whole(n=1), on_conflict="replace")) == (old, True)
        assert engine.view(old).payload == {"n": 1}, "a live task under an old name counts as the type"
        first = door.add(Part(account=1, n=1))
        assert door.add(Part(account=1, n=2), on_conflict="replace").id == first.id
        assert door.add(Part(account=2, n=2), on_conflict="replace").created
    assert engine.view(first.id).payload == {"account": 1, "n": 2}


def test_a_replacement_without_a_key_is_refused(engine: Engine, note: Any) -> None:
    with engine.door() as door:
        with pytest.raises(InvalidArgument, match="needs key="):
            door.add(note(), on_conflict="replace")
        with pytest.raises(InvalidArgument, match="'skip' or 'replace' or 'error'"):
            door.add(note(), key="k", on_conflict="replaces")  # type: ignore[arg-type]  # that is the point
    assert live(engine) == 0


def test_a_type_that_is_unique_for_a_time_is_replaced_while_it_is_live_only(engine: Engine) -> None:
    """DESIGN 2, `unique_for`: for its time the ended task answers, and says that nothing was kept."""

    @register_task("Hourly", unique=True, unique_for=HOUR)
    class Hourly(Task):
        n: int

        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Hourly(n=1), on_conflict="replace")
        assert kept(door.add(Hourly(n=2), on_conflict="replace")) == (first.id, True)
        door.cancel(first.id)
        assert kept(door.add(Hourly(n=3), on_conflict="replace")) == (first.id, False)
        engine.db.travel(HOUR * 2)
        assert door.add(Hourly(n=4), on_conflict="replace").created


# ── one that runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_task_is_left_alone_and_has_the_latest_work_as_its_successor(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1))
        engine.claim(runner, types=("Note",))
        second = put(door, note(n=2))
        third = put(door, note(n=3), delay=HOUR)
    assert second.id != first.id
    assert second == third
    assert kept(third) == (second.id, True)
    assert engine.view(first.id).payload == {"n": 1}
    assert row(engine, first.id)["successor"]["payload"] == {"n": 3}
    assert live(engine) == 1


@pytest.mark.parametrize("way", ["retry", "snooze", "release", "rescue", "rescue unstarted"])
def test_a_running_task_that_comes_back_takes_its_successors_work(engine: Engine, note: Any, way: str) -> None:
    """SPEC UNQ 15; DESIGN 5: its id stays, the tries are those of the new work."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1), max_retries=5)
        (claim,) = engine.claim(runner, types=("Note",))
        engine.retry(runner, claim)
        (claim,) = engine.claim(runner, types=("Note",), start=way != "rescue unstarted")
        steering_cancel(engine, first.id)
        put(door, note(n=2), priority=3, meta={"by": "me"})
    match way:
        case "retry":
            (back,) = engine.retry(runner, claim, delay=3600)
            assert back.priority == 3
            assert back.due_in <= 0
        case "snooze":
            (back,) = engine.do(store.snooze(runner, [Ending(claim.id, claim.claim_no, delay=3600)]))
            assert back.due_in <= 0
        case "release":
            engine.do(store.release(runner, [(claim.id, claim.claim_no)]))
        case _:
            engine.die(runner)
    found = row(engine, first.id)
    assert {name: found[name] for name in ("payload", "priority", "meta", "tries", "successor", "state")} == {
        "payload": {"n": 2},
        "priority": 3,
        "meta": {"by": "me"},
        "tries": 0,
        "successor": None,
        "state": "pending",
    }
    assert found["cancel_requested_at"] is None, "it was the old work that was to be cancelled"
    assert found["max_retries"] == 3
    again = engine.join("Note")
    assert engine.claim(again, types=("Note",))[0].payload == '{"n": 2}'


def steering_cancel(engine: Engine, id_: UUID) -> None:
    assert engine.do(steering.cancel(id_)) == "requested"


def test_the_successor_of_a_task_that_killed_its_runners_comes(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15, CRA 33."""
    with engine.door() as door:
        first = put(door, note(n=1))
        for _ in range(2):
            runner = engine.join("Note")
            engine.claim(runner, types=("Note",))
            engine.conn.execute("UPDATE taskrunner.task SET started_at = now()")
            assert engine.die(runner) == {first.id: "charged"}
        runner = engine.join("Note")
        engine.claim(runner, types=("Note",))
        engine.conn.execute("UPDATE taskrunner.task SET started_at = now()")
        second = put(door, note(n=2))
        assert engine.die(runner) == {first.id: "special"}
        engine.do(runner_store.bury(runner, [first.id], HOUR))
        assert door.get(first.id).state == "dead"
        assert (door.get(second.id).state, door.get(second.id).payload) == ("pending", {"n": 2})
        assert put(door, note(n=3)).id == second.id


# ── the end of one that runs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def gated(engine: Engine) -> Any:
    """A type whose runs wait until they are let go, and then end as their payload says."""

    @register_task("Gated", max_retries=0)
    class Gated(Task):
        gate: ClassVar[asyncio.Event]
        n: int = 0
        how: str = "succeeded"

        async def run(self) -> Any:
            if self.n == 1:
                await Gated.gate.wait()
            if self.how == "dead":
                raise RuntimeError("no")
            return TaskStatus.IGNORED if self.how == "ignored" else self.n

    Gated.gate = asyncio.Event()
    return Gated


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["succeeded", "ignored", "dead", "cancelled"])
async def test_when_a_task_ends_its_successor_runs_whatever_the_end(engine: Engine, gated: Any, how: str) -> None:
    """SPEC UNQ 15: the statements that end the running task insert the successor."""
    async with engine.running() as running, AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        first = await door.add(gated(n=1, how=how), key="k")
        await running.started(first.id)
        second = await door.add(gated(n=2), key="k", on_conflict="replace")
        assert (await door.get(second.id)).state == "pending"
        assert (await door.get(second.id)).payload["n"] == 2
        waiting = asyncio.create_task(door.result(second.id, 30))
        if how == "cancelled":
            assert await door.cancel(first.id) == "requested"
        else:
            gated.gate.set()
        assert await waiting == 2
        assert (await door.get(first.id)).state == how
    assert [engine.ends(first.id), engine.ends(second.id)] == [1, 1]


@pytest.mark.anyio
async def test_who_waits_for_a_successor_hears_of_the_task_that_took_it_over(engine: Engine) -> None:
    """SPEC UNQ 15, FLO 58."""
    gate = asyncio.Event()

    @register_task("Retried")
    class Retried(Task):
        n: int

        async def run(self) -> int:
            if self.n == 1:
                await gate.wait()
                raise RuntimeError("not this one")
            return self.n

        def next_try(self) -> float:
            return 3600

    async with engine.running() as running, AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        first = await door.add(Retried(n=1), key="k")
        await running.started(first.id)
        second = await door.add(Retried(n=2), key="k", on_conflict="replace")
        waiting = asyncio.create_task(door.wait(second.id, 30))
        gate.set()
        assert ((await waiting).id, (await waiting).result) == (second.id, 2)
        view = await door.get(second.id)
    assert (view.id, view.state, len(view.errors)) == (first.id, "succeeded", 1)
    assert [engine.ends(first.id), engine.ends(second.id)] == [1, 0]


def test_nobody_knows_an_id_that_was_never_a_successors(engine: Engine, note: Any) -> None:
    with engine.door() as door, pytest.raises(NotFound):
        door.get(uuid7())
    with engine.door() as door, pytest.raises(NotFound):
        door.wait(uuid7(), 30)


def end(engine: Engine, runner: UUID, claim: Claimed, **fields: Any) -> list[Due] | None:
    return engine.do(ending_store.end(runner, Ending(claim.id, claim.claim_no, **fields)))


def test_an_end_that_is_written_twice_brings_one_successor(engine: Engine, note: Any) -> None:
    """SPEC CRA 36, FAULTS F15: the reply to the finish was lost."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1))
        (claim,) = engine.claim(runner, types=("Note",))
        second = put(door, note(n=2), queue="other", delay=HOUR)
        assert engine.finish(runner, claim).left == [(first.id, claim.claim_no)], (
            "not by the fast way, which knows none"
        )
        (due,) = end(engine, runner, claim) or []
        assert (due.id, due.queue, round(due.due_in)) == (second.id, "other", 3600)
        assert end(engine, runner, claim) is None
        (fate,) = engine.do(store.fates(runner, [(claim.id, claim.claim_no)]))
    assert (fate.held, fate.ended) == (False, True)
    assert live(engine) == 1
    assert [engine.ends(first.id), engine.ends(second.id)] == [1, 0]


def test_a_successor_is_stored_under_the_name_that_the_running_task_has(engine: Engine) -> None:
    """SPEC REG 6: an old name's place among the keys becomes free, not that of the new one."""

    @register_task("New", unique=True, aliases=("Old",))
    class New(Task):
        n: int = 0

        async def run(self) -> None: ...

    (old,) = engine.add(type="Old", unique_key="type:")
    runner = engine.join("Old")
    with engine.door() as door:
        (claim,) = engine.claim(runner, types=("Old",))
        second = door.add(New(n=2), on_conflict="replace")
        end(engine, runner, claim)
        assert door.get(second.id).type == "Old"
        assert door.add(New(n=3), on_conflict="replace").id == second.id
        assert door.get_by_key(New).payload == {"n": 3}
    assert engine.ends(old) == 1


# ── what a successor is besides ──────────────────────────────────────────────────────────────────────────────────────


def test_a_successor_can_be_cancelled_before_it_has_come(engine: Engine, note: Any) -> None:
    """SPEC UNQ 15, 17: by its own id; the task that runs goes on."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1))
        (claim,) = engine.claim(runner, types=("Note",))
        for act in (door.cancel, door.delete):
            second = put(door, note(n=2))
            act(second.id)
            assert door.wait(second.id, 30).state == "cancelled"
            assert row(engine, first.id)["successor"] is None
            with pytest.raises(Conflict, match="is cancelled"):
                act(second.id)
        assert not engine.finish(runner, claim).left, "nothing follows: the fast way"
        assert door.stats()["cancelled"] == 2
    assert [engine.ends(first.id), engine.ends(second.id), live(engine)] == [1, 1, 0]


def test_work_that_was_taken_over_is_cancelled_by_the_successors_id_too(engine: Engine, note: Any) -> None:
    """SPEC UNQ 17."""
    runner = engine.join("Note")
    with engine.door() as door:
        first = put(door, note(n=1))
        (claim,) = engine.claim(runner, types=("Note",))
        second = put(door, note(n=2), delay=HOUR)
        engine.retry(runner, claim)
        assert door.cancel(second.id) == "cancelled"
        assert door.get(first.id).state == "cancelled"
        with pytest.raises(NotFound):
            door.cancel(uuid7())


@pytest.mark.parametrize("way", ["replaced", "retry", "snooze", "release", "rescue"])
def test_what_the_old_work_has_done_once_is_the_new_works_to_do(engine: Engine, note: Any, way: str) -> None:
    """SPEC UNQ 15, ONC 56: a key of `run_once` belongs to the work, though the task's id stays."""
    runner = engine.join("Note")
    with engine.door() as door:
        first, other = put(door, note(n=1)), door.add(note(n=1), key="other")
        claims = engine.claim(runner, 2, types=("Note",))
        for claim in claims:
            assert engine.do(effects.keep(effects.Fence(runner, claim.id, claim.claim_no), "charge", "1"))
        if way != "replaced":
            put(door, note(n=2))
        endings = [Ending(claim.id, claim.claim_no, detail='{"message": "no"}') for claim in claims]
        match way:
            case "replaced" | "retry":
                engine.do(store.retry(runner, endings))
            case "snooze":
                engine.do(store.snooze(runner, endings))
            case "release":
                engine.do(store.release(runner, [(claim.id, claim.claim_no) for claim in claims]))
            case _:
                engine.die(runner)
        if way == "replaced":
            assert len(engine.rows("SELECT FROM taskrunner.effect")) == 2, "a retry of the same work skips it"
            put(door, note(n=2))
    assert engine.rows("SELECT task_id FROM taskrunner.effect") == [(other.id,)]
    assert engine.view(first.id).payload == {"n": 2}


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "no id"},
        {"priority": 2**40},
        {"queue": None},
        {"maturity_at": "infinity"},
        {"meta": None},
        {"payload": None},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_successor_that_no_statement_of_ours_has_written_is_refused(engine: Engine, note: Any, bad: Any) -> None:
    """SPEC TEN 54: a login that writes its own SQL must not keep the tasks of others from ending."""
    runner = engine.join("Note")
    with engine.door() as door:
        put(door, note(n=1))
        engine.claim(runner, types=("Note",))
        put(door, note(n=2))
    work = {name: value for name, value in row_successor(engine).items() if name not in bad}
    work |= {name: value for name, value in bad.items() if value is not None}
    with pytest.raises((psycopg.DataError, psycopg.errors.CheckViolation)):
        engine.conn.execute("UPDATE taskrunner.task SET successor = %s::jsonb", [json.dumps(work)])


def row_successor(engine: Engine) -> dict[str, Any]:
    return dict(engine.value("SELECT successor FROM taskrunner.task WHERE successor IS NOT NULL"))


def test_a_successor_with_an_id_that_is_taken_keeps_no_task_from_ending(engine: Engine, note: Any) -> None:
    """SPEC TEN 54: only who writes his own SQL can make such a one."""
    runner = engine.join("Note")
    with engine.door() as door:
        put(door, note(n=1))
        (claim,) = engine.claim(runner, types=("Note",))
        put(door, note(n=2))
        taken = door.add(note(n=3), key="other", delay=HOUR)
    engine.conn.execute(
        "UPDATE taskrunner.task SET successor = successor || jsonb_build_object('id', %s::uuid)"
        " WHERE successor IS NOT NULL",
        [taken.id],
    )
    assert end(engine, runner, claim) == []
    assert engine.rows("SELECT id FROM taskrunner.task") == [(taken.id,)]


def test_a_task_object_that_was_added_before_replaces_nothing(engine: Engine, note: Any) -> None:
    """An object has one id: adding it again is a repeat."""
    task = note(n=1)
    runner = engine.join("Note")
    with engine.door() as door:
        mine = door.add(task, key="a", delay=HOUR)
        theirs = door.add(note(n=2), key="b")
        engine.claim(runner, types=("Note",))
        again = door.add(task, key="b", on_conflict="replace")
        assert (again, again.replaced) == ((mine.id, False), False)
    assert row(engine, theirs.id)["successor"] is None


# ── lost replies, and others at the same moment ──────────────────────────────────────────────────────────────────────


def sent_again(engine: Engine, new: NewTask) -> Enqueued:
    (answer,) = engine.do(replace(new)).answers
    return answer


@pytest.mark.parametrize("meanwhile", ["nothing", "started", "ended", "replaced"])
@pytest.mark.parametrize("was", ["absent", "pending", "running"])
def test_a_replacement_whose_reply_was_lost_is_repeated_without_effect(
    engine: Engine, was: str, meanwhile: str
) -> None:
    """SPEC CRA 36, FAULTS F15, I2: whatever has happened since, the answer is the first one and the work runs once."""
    runner = engine.join()
    if was != "absent":
        engine.add(unique_key="key:k", payload='{"n": 0}')
    if was == "running":
        (first,) = engine.claim(runner)
    new = engine.new(unique_key="key:k", payload='{"n": 1}')
    (answer,) = engine.do(replace(new, fresh=True)).answers
    if meanwhile == "replaced":
        engine.do(replace(engine.new(unique_key="key:k", payload='{"n": 2}'), fresh=True))
    elif meanwhile != "nothing":
        if was == "running":
            end(engine, runner, first)
        (claim,) = engine.claim(runner)
        if meanwhile == "ended":
            engine.finish(runner, claim)
    assert sent_again(engine, new).id == answer.id
    assert sent_again(engine, new).id == answer.id
    expected = {"nothing": [1], "started": [1], "ended": [], "replaced": [2]}[meanwhile]
    waiting = engine.rows("SELECT coalesce(successor -> 'payload', payload) FROM taskrunner.task")
    assert [payload["n"] for (payload,) in waiting] == expected
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE successor IS NOT NULL") == (
        was == "running" and meanwhile in ("nothing", "replaced")
    )


@pytest.mark.parametrize("manner", ["during", "after"])
@pytest.mark.parametrize("was", ["absent", "pending", "running"])
def test_a_door_whose_commit_gets_no_reply_replaces_once(engine: Engine, note: Any, was: str, manner: Manner) -> None:
    """SPEC CRA 36, FAULTS F15: the connection is cut when the server has the COMMIT, or has done it."""
    runner, rule = engine.join("Note"), Rule("queue", "COMMIT", manner, most=1)
    with proxied(engine) as (proxy, url), TaskQueue.connect(url, registry=engine.registry) as door:
        if was != "absent":
            door.add(note(n=0), key="k")
        if was == "running":
            engine.claim(runner, types=("Note",))
        proxy.rules.append(rule)
        answer = put(door, note(n=1))
        assert rule.hits
        assert (door.get(answer.id).state, door.get(answer.id).payload) == ("pending", {"n": 1})
    assert live(engine) == 1


def test_a_replacement_that_meets_a_task_which_ends_that_moment_is_added_anew(engine: Engine) -> None:
    """SPEC UNQ 15: the end is not committed when it comes, and is when it is let on."""
    (first,) = engine.add(unique_key="key:k")
    runner = engine.join()
    (claim,) = engine.claim(runner)
    answer = beside(engine, store.cycle(store.Cycle(runner, [Ending(claim.id, claim.claim_no)])))
    assert answer.created
    assert engine.ends(first) == 1
    assert live(engine) == 1


def test_a_replacement_that_meets_a_task_which_is_claimed_that_moment_is_its_successor(engine: Engine) -> None:
    """SPEC UNQ 15."""
    (first,) = engine.add(unique_key="key:k")
    runner = engine.join()
    asked = store.Cycle(runner, fronts=fronts(engine.conn, ["T"]), room=1)
    answer = beside(engine, store.cycle(asked))
    assert (answer.created, answer.replaced, answer.id != first) == (False, True, True)
    assert row(engine, first)["successor"]["payload"] == {"n": 1}


def test_an_end_that_comes_while_the_successor_is_stored_leaves_the_row_to_the_slow_way(engine: Engine) -> None:
    """SPEC UNQ 15: its snapshot is older than the successor, its lock is not."""
    (first,) = engine.add(unique_key="key:k")
    runner = engine.join()
    (claim,) = engine.claim(runner)
    with holding(engine.url, "SELECT 1") as other:
        (answer,) = db.run(other, replace(engine.new(unique_key="key:k"), fresh=True)).answers
        assert engine.finish(runner, claim).left == [(first, claim.claim_no)]
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end, engine, runner, claim)
            until_somebody_waits(engine.url)
            other.commit()
            (due,) = ending.result(30) or []
    assert due.id == answer.id


def beside(engine: Engine, work: db.Work[Any]) -> Enqueued:
    """Replace while a transaction is open that has done `work`, and commits as soon as the replacement waits for it."""
    with (
        ThreadPoolExecutor(1) as pool,
        holding(engine.url, "SELECT 1") as other,
        db.connect(engine.url) as conn,
    ):
        db.run(other, work)
        new = engine.new(unique_key="key:k", payload='{"n": 1}')
        replacing = pool.submit(db.run, conn, replace(new, fresh=True))
        until_somebody_waits(engine.url)
        other.commit()
        (answer,) = replacing.result(30).answers
    return answer


def until_somebody_waits(url: str) -> None:
    """Return once a backend of this database waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + WAIT
    with psycopg.connect(url, autocommit=True) as conn:
        while not conn.execute(query).fetchall()[0][0]:
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.005)


@pytest.mark.anyio
async def test_fifty_who_replace_one_key_at_once_leave_one_live_task_and_lose_no_latest_work(engine: Engine) -> None:
    """SPEC UNQ 15, FAULTS I1 I9: of what is accepted each runs once, or is superseded by what was accepted later."""
    ran: list[int] = []

    @register_task("Ledger")
    class Ledger(Task):
        n: int

        async def run(self) -> None:
            ran.append(self.n)
            await asyncio.sleep(0.002 * (self.n % 3))

    people, rounds, most = 50, 6, 0
    together = threading.Barrier(people)

    def replace_in(number: int, person: int) -> Enqueued:
        together.wait(WAIT)
        return put(door, Ledger(n=number * people + person))

    async with engine.running() as running:
        with engine.door() as door, ThreadPoolExecutor(people) as pool:
            for number in range(rounds):
                jobs = [asyncio.wrap_future(pool.submit(replace_in, number, person)) for person in range(people)]
                while not all(job.done() for job in jobs):
                    most = max(most, await asyncio.to_thread(live, engine))
                    await asyncio.sleep(0)
                answers = [await job for job in jobs]
                for id_ in {answer.id for answer in answers}:
                    view = await asyncio.to_thread(door.wait, id_, WAIT)
                    assert view.state == "succeeded"
                (latest,) = engine.rows(
                    "SELECT (payload ->> 'n')::int FROM taskrunner.task_history ORDER BY finished_at DESC LIMIT 1"
                )
                assert ran[-1] == latest[0]
                assert latest[0] // people == number, "of this round nobody's work has run last"
                assert {answer.id for answer in answers} <= {event.task_id for event in running.seen[events.Started]}
    assert most <= 1
    assert len(ran) == len(set(ran)), "some work has run twice"
    assert live(engine) == 0
    assert len(ran) == engine.value("SELECT count(*) FROM taskrunner.task_history")
