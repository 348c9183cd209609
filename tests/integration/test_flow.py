"""Tasks that wait for tasks: added, ended at the same time, cancelled and retried, and run by real runners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import AsyncTaskQueue, Task, TaskQueue, chain, db, group, register_task
from taskrunner.errors import Conflict, DatabaseUnreachable, InvalidArgument, NotFound
from taskrunner.store import ending, steering
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Ending
from tests.engine import WAIT, Engine
from tests.processes import eventually

pytestmark = pytest.mark.anyio

NO = '[{"message": "no", "traceback": null}]'


@pytest.fixture
def kinds(engine: Engine) -> None:
    @register_task("Step")
    class Step(Task):
        n: int = 0

        async def run(self) -> int:
            return self.n

    @register_task("Alone", unique=True)
    class Alone(Task):
        async def run(self) -> None: ...


def new(engine: Engine, kind: str = "Step", **fields: Any) -> Task:
    return engine.registry.get(kind).cls(**fields)


@pytest.fixture
def queue(engine: Engine, kinds: None) -> Iterator[TaskQueue]:
    with engine.door() as opened:
        yield opened


def states(engine: Engine, *ids: UUID) -> list[str]:
    return [engine.view(id_).state for id_ in ids]


def claim(engine: Engine, runner: UUID, room: int = 1) -> list[Claimed]:
    return engine.claim(runner, room, ["Step"])


def end(engine: Engine, runner: UUID, claims: list[Claimed], state: str = "succeeded") -> list[UUID]:
    """End claims as a runner does; returns what became pending by it."""
    closed = engine.do(ending.end_many(runner, [made(claimed, state) for claimed in claims]))
    assert len(closed.ids) == len(claims)
    return [due.id for due in closed.due]


def made(claimed: Claimed, state: str = "succeeded") -> Ending:
    return Ending(claimed.id, claimed.claim_no, 0.1, 0.1, state, NO if state == "dead" else None)


def ended(engine: Engine, queue: TaskQueue, state: str) -> UUID:
    """Add a task and end it; without children it may go the fast way or the slow one."""
    id_ = queue.add(new(engine)).id
    runner = engine.join()
    end(engine, runner, claim(engine, runner), state)
    return id_


# ── added one by one ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_added_after_others_is_blocked_until_all_of_them_have_succeeded(
    engine: Engine, queue: TaskQueue
) -> None:
    """SPEC FLO 57."""
    first, second = queue.add(new(engine)), queue.add(new(engine))
    child = queue.add(new(engine), after=[first, str(second.id)], priority=900)
    assert child.created
    runner = engine.join()
    assert states(engine, child.id) == ["blocked"]
    claims = claim(engine, runner, 9)
    assert {claimed.id for claimed in claims} == {first.id, second.id}
    assert end(engine, runner, claims[:1]) == []
    assert end(engine, runner, claims[1:]) == [child.id]
    (last,) = claim(engine, runner, 9)
    assert (last.id, last.priority) == (child.id, 900)


async def test_the_asynchronous_door_takes_the_same(engine: Engine, kinds: None) -> None:
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue:
        parent = await queue.add(new(engine))
        child = await queue.add(new(engine), after=parent, on_parent_failure="run")
        ids = await queue.add_flow(chain(new(engine), new(engine)))
        assert (await queue.get(child.id)).state == "blocked"
        assert await queue.cancel_flow(ids[1]) == dict.fromkeys(ids, "cancelled")
        with pytest.raises(Conflict, match="nothing of it is dead"):
            await queue.retry_flow(child.id)


@pytest.mark.parametrize(
    ("state", "mode", "childs"),
    [
        ("succeeded", "fail", "pending"),
        ("ignored", "fail", "pending"),
        ("dead", "fail", "dead"),
        ("cancelled", "fail", "cancelled"),
        ("dead", "run", "pending"),
        ("dead", "wait", "blocked"),
        ("cancelled", "wait", "cancelled"),
    ],
)
def test_a_parent_that_had_ended_before_means_the_same_as_one_that_ends_later(
    engine: Engine, queue: TaskQueue, state: str, mode: Any, childs: str
) -> None:
    parent = ended(engine, queue, state)
    child = queue.add(new(engine), after=parent, on_parent_failure=mode)
    assert child.created
    assert states(engine, child.id) == [childs]
    assert engine.ends(child.id) == (childs in ("dead", "cancelled"))


def test_an_unknown_parent_and_one_of_another_tenant_are_refused_alike_and_nothing_is_stored(
    engine: Engine, queue: TaskQueue
) -> None:
    theirs = queue.add(new(engine), tenant="them").id
    for parent in (uuid7(), theirs):
        with pytest.raises(NotFound, match=f"after= names {parent}, and tenant 'default' has no such task"):
            queue.add(new(engine), after=[parent])
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1
    assert engine.value("SELECT count(*) FROM taskrunner.dependency") == 0
    assert queue.add(new(engine), after=theirs, tenant="them").created


def test_what_cannot_be_a_parent_is_refused_by_name(engine: Engine, queue: TaskQueue) -> None:
    task = new(engine)
    with pytest.raises(InvalidArgument, match="names the task itself"):
        queue.add(task, after=task)
    with pytest.raises(InvalidArgument, match="'x' is no task id"):
        queue.add(task, after=["x"])
    with pytest.raises(InvalidArgument, match="on_parent_failure must be"):
        queue.add(task, after=[], on_parent_failure="maybe")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="give them by after="):
        queue.add(task, on_parent_failure="run")
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 0
    assert states(engine, queue.add(task, after=[]).id) == ["pending"]


def test_an_add_that_is_repeated_makes_nothing_twice(engine: Engine, queue: TaskQueue) -> None:
    parent, task = queue.add(new(engine)), new(engine)
    assert queue.add(task, after=parent) == (task.id, True)
    assert queue.add(task, after=parent) == (task.id, False)
    assert engine.rows("SELECT parent_id, child_id FROM taskrunner.dependency") == [(parent.id, task.id)]
    assert engine.value("SELECT waits_for FROM taskrunner.task WHERE id = %s", task.id) == 1


def test_a_key_that_is_taken_answers_with_its_task_and_makes_no_dependency(engine: Engine, queue: TaskQueue) -> None:
    parent, there = queue.add(new(engine)), queue.add(new(engine, "Alone"))
    assert queue.add(new(engine, "Alone"), after=parent) == (there.id, False)
    assert engine.value("SELECT count(*) FROM taskrunner.dependency") == 0


# ── at the same time as a parent ends ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def open_transaction(url: str) -> Iterator[psycopg.Connection[Any]]:
    conn = db.connect(url, name="other")
    conn.autocommit = False
    conn.execute("SELECT")
    try:
        yield conn
    finally:
        conn.rollback()
        conn.close()


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run something in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def await_lock(url: str) -> None:
    """Wait until somebody waits for the end of another's transaction."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
    with db.connect(url, name="watcher") as conn:
        eventually(lambda: conn.execute(query).fetchone() != (0,), "somebody waits for a row's lock")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "commits", "childs"),
    [
        ("succeeded", True, "pending"),
        ("dead", True, "dead"),
        ("cancelled", True, "cancelled"),
        ("succeeded", False, "blocked"),
    ],
    ids=["it succeeds", "it dies", "it is cancelled", "its end is rolled back"],
)
def test_a_child_that_is_added_while_its_parents_end_is_being_committed_learns_of_it(
    engine: Engine, queue: TaskQueue, state: str, commits: bool, childs: str
) -> None:
    """SPEC FLO 57: the add waits for the parent's row, and then sees what became of it by a statement of its own."""
    parent, runner = queue.add(new(engine)).id, engine.join()
    (claimed,) = claim(engine, runner)
    with open_transaction(engine.url) as conn:
        db.run(conn, ending.end_many(runner, [made(claimed, state)]))
        with beside(lambda: queue.add(new(engine), after=parent)) as adding:
            await_lock(engine.url)
            conn.commit() if commits else conn.rollback()
            child = adding.result(WAIT).id
    assert states(engine, child) == [childs]
    if not commits:
        assert end(engine, runner, [claimed]) == [child]


def test_a_parent_that_ends_while_a_child_is_being_added_is_left_over_until_that_is_committed(
    engine: Engine, queue: TaskQueue
) -> None:
    """SPEC FLO 57: the caller's own transaction is open for as long as he likes; the cycle does not wait for it."""
    parent, runner = queue.add(new(engine)).id, engine.join()
    (claimed,) = claim(engine, runner)
    with open_transaction(engine.url) as conn:
        child = queue.add(new(engine), after=parent, connection=conn).id
        left = engine.finish(runner, claimed).left
        assert left == [(parent, claimed.claim_no)]
        assert engine.do(store.fates(runner, left)) == [store.Fate(parent, True, False, False)]
        conn.commit()
    assert engine.finish(runner, claimed).left == left
    assert engine.do(store.fates(runner, left)) == [store.Fate(parent, True, True, False)]
    assert end(engine, runner, [claimed]) == [child]


def test_a_child_that_is_added_while_its_dead_parent_is_requeued_waits_for_the_new_one(
    engine: Engine, queue: TaskQueue
) -> None:
    parent, fresh, runner = ended(engine, queue, "dead"), uuid7(), engine.join()
    with open_transaction(engine.url) as conn:
        db.run(conn, steering.requeue(parent, fresh))
        with beside(lambda: queue.add(new(engine), after=parent)) as adding:
            await_lock(engine.url)
            conn.commit()
            child = adding.result(WAIT).id
    assert states(engine, child) == ["blocked"]
    assert end(engine, runner, claim(engine, runner)) == [child]


def test_many_runners_that_end_the_parents_of_many_children_unblock_each_once(engine: Engine, queue: TaskQueue) -> None:
    """SPEC FLO 57: 200 parents of 20 children, ended one by one in four threads, crosswise."""
    children = [new(engine) for _ in range(20)]
    parents = [new(engine) for _ in range(200)]
    queue.add_flow(group(*(group(*parents[number::4]).then(child) for number, child in enumerate(children))))
    brought: list[UUID] = []

    def work(runner: UUID, claims: list[Claimed]) -> None:
        with db.connect(engine.url, name="runner") as conn:
            for claimed in claims:
                brought.extend(due.id for due in db.run(conn, ending.end_many(runner, [made(claimed)])).due)

    runners = [engine.join() for _ in range(4)]
    threads = [threading.Thread(target=work, args=(one, claim(engine, one, 50))) for one in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(brought) == sorted(child.id for child in children)
    assert engine.rows("SELECT DISTINCT state, waits_for FROM taskrunner.task") == [("pending", None)]


# ── whole flows ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flow_is_added_whole_and_its_ids_come_in_its_order(engine: Engine, queue: TaskQueue) -> None:
    first, left, right, last = (new(engine, n=n) for n in range(4))
    ids = queue.add_flow(chain(first, group(left, right), last))
    assert ids == [first.id, left.id, right.id, last.id]
    assert states(engine, *ids) == ["pending", "blocked", "blocked", "blocked"]
    runner = engine.join()
    assert set(end(engine, runner, claim(engine, runner, 9))) == {left.id, right.id}
    assert end(engine, runner, claim(engine, runner, 9)) == [last.id]


def test_a_flow_that_is_repeated_makes_nothing_twice(engine: Engine, queue: TaskQueue) -> None:
    flow = chain(new(engine), new(engine))
    ids = queue.add_flow(flow)
    assert queue.add_flow(flow) == ids
    runner = engine.join()
    end(engine, runner, claim(engine, runner))
    assert queue.add_flow(flow) == ids, "one of them has ended meanwhile"
    assert states(engine, *ids) == ["succeeded", "pending"]


def lose_a_reply(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next reply of the database be lost after the commit."""
    once = queue._once
    replies = iter([True])

    def losing(*given: Any, **named: Any) -> Any:
        answer = once(*given, **named)
        if next(replies, False):
            raise DatabaseUnreachable("the reply is lost")
        return answer

    monkeypatch.setattr(queue, "_once", losing)


def test_a_flow_whose_reply_is_lost_is_there_once(
    engine: Engine, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36."""
    lose_a_reply(queue, monkeypatch)
    ids = queue.add_flow(group(new(engine), new(engine)).then(new(engine)))
    assert states(engine, *ids) == ["pending", "pending", "blocked"]
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 3


def test_a_child_whose_reply_is_lost_is_there_once_and_waits(
    engine: Engine, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36."""
    parent = queue.add(new(engine)).id
    lose_a_reply(queue, monkeypatch)
    child = queue.add(new(engine), after=parent).id
    assert engine.rows("SELECT id, waits_for FROM taskrunner.task WHERE state = 'blocked'") == [(child, 1)]


def test_the_retry_and_the_cancel_of_a_flow_whose_replies_are_lost_say_what_they_have_done(
    engine: Engine, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36."""
    ids = queue.add_flow(chain(new(engine), new(engine)))
    runner = engine.join()
    end(engine, runner, claim(engine, runner), "dead")
    lose_a_reply(queue, monkeypatch)
    fresh = queue.retry_flow(ids[1])
    assert set(fresh) == set(ids)
    assert states(engine, *(fresh[id_] for id_ in ids)) == ["pending", "blocked"]
    lose_a_reply(queue, monkeypatch)
    assert queue.cancel_flow(ids[1]) == {}, "by the first call, whose reply said which"
    assert states(engine, *fresh.values()) == ["cancelled"] * 2


def test_a_flow_of_which_a_part_has_been_added_before_is_refused(engine: Engine, queue: TaskQueue) -> None:
    old = new(engine)
    queue.add(old)
    with pytest.raises(InvalidArgument, match=f"task {old.id} of the flow has been added before"):
        queue.add_flow(chain(old, new(engine)))
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1


def test_a_flow_with_a_key_that_is_taken_is_refused_whole(engine: Engine, queue: TaskQueue) -> None:
    there = queue.add(new(engine, "Alone")).id
    with pytest.raises(Conflict, match=f"a Alone of the flow cannot be added: task {there} has its key"):
        queue.add_flow(chain(new(engine), new(engine, "Alone")))
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1
    queue.cancel(there)
    ids = queue.add_flow(chain(new(engine), new(engine, "Alone")))
    assert states(engine, *ids) == ["pending", "blocked"]


def test_a_flow_can_be_part_of_the_callers_transaction(engine: Engine, queue: TaskQueue) -> None:
    with open_transaction(engine.url) as conn:
        queue.add_flow(chain(new(engine), new(engine)), connection=conn)
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 0
    assert engine.value("SELECT count(*) FROM taskrunner.dependency") == 0


def test_the_cancel_of_a_flow_ends_all_of_it_that_waits_and_asks_for_what_runs(
    engine: Engine, queue: TaskQueue
) -> None:
    done, left, right, last = (new(engine) for _ in range(4))
    queue.add_flow(chain(done, group(left, right), last))
    other = queue.add(new(engine)).id
    runner = engine.join()
    first, _ = claim(engine, runner, 2)
    end(engine, runner, [first])
    (claimed,) = claim(engine, runner)
    outcomes = queue.cancel_flow(last.id)
    (rest,) = {left.id, right.id} - {claimed.id}
    assert outcomes == {claimed.id: "requested", rest: "cancelled", last.id: "cancelled"}
    assert engine.do(store.cancel_requests(runner)) == [claimed.id]
    assert states(engine, done.id, rest, last.id, other) == ["succeeded", "cancelled", "cancelled", "running"]
    end(engine, runner, [claimed], "cancelled")
    with pytest.raises(Conflict, match="all of it has ended"):
        queue.cancel_flow(last.id)
    with pytest.raises(NotFound, match="no task"):
        queue.cancel_flow(uuid7())


def test_a_flow_is_retried_from_its_failed_step_and_runs_to_its_end(engine: Engine, queue: TaskQueue) -> None:
    """SPEC FLO 57: what succeeded is not run again."""
    first, bad, good, last, clean = (new(engine, n=n) for n in range(5))
    ids = queue.add_flow(chain(chain(first, group(bad, good), last), clean))
    runner = engine.join()
    end(engine, runner, claim(engine, runner))
    claims = {claimed.id: claimed for claimed in claim(engine, runner, 2)}
    end(engine, runner, [claims[bad.id]], "dead")
    end(engine, runner, [claims[good.id]])
    assert states(engine, *ids) == ["succeeded", "dead", "succeeded", "dead", "dead"]
    fresh = queue.retry_flow(first.id)
    assert set(fresh) == {bad.id, last.id, clean.id}
    assert states(engine, *(fresh[task.id] for task in (bad, last, clean))) == ["pending", "blocked", "blocked"]
    for task in (bad, last, clean):
        (claimed,) = claim(engine, runner, 9)
        assert claimed.id == fresh[task.id]
        end(engine, runner, [claimed])
    assert states(engine, *fresh.values()) == ["succeeded"] * 3
    with pytest.raises(Conflict, match="nothing of it is dead"):
        queue.retry_flow(clean.id)


def test_a_child_that_waits_for_its_dead_parent_runs_after_the_requeued_one(engine: Engine, queue: TaskQueue) -> None:
    parent = queue.add(new(engine)).id
    child = queue.add(new(engine), after=parent, on_parent_failure="wait").id
    runner = engine.join()
    end(engine, runner, claim(engine, runner), "dead")
    assert states(engine, child) == ["blocked"]
    fresh = queue.retry(parent)
    end(engine, runner, claim(engine, runner), "dead")
    assert states(engine, fresh, child) == ["dead", "blocked"], "it died again"
    queue.retry(fresh)
    assert end(engine, runner, claim(engine, runner)) == [child]


def test_a_dead_child_that_a_person_requeues_waits_only_for_what_is_still_to_come(
    engine: Engine, queue: TaskQueue
) -> None:
    dead, living = queue.add(new(engine)).id, queue.add(new(engine)).id
    child = queue.add(new(engine), after=[dead, living]).id
    runner = engine.join()
    claims = {claimed.id: claimed for claimed in claim(engine, runner, 2)}
    end(engine, runner, [claims[dead]], "dead")
    fresh = queue.retry(child)
    assert states(engine, fresh) == ["blocked"]
    assert end(engine, runner, [claims[living]]) == [fresh]


def test_the_delete_of_a_dead_parent_ends_the_waiting(engine: Engine, queue: TaskQueue) -> None:
    parent = queue.add(new(engine)).id
    child = queue.add(new(engine), after=parent, on_parent_failure="wait").id
    clean = queue.add(new(engine), after=child, on_parent_failure="run").id
    runner = engine.join()
    end(engine, runner, claim(engine, runner), "dead")
    engine.do(steering.delete_dead(parent))
    assert states(engine, child, clean) == ["cancelled", "pending"]


def test_a_child_that_has_run_is_not_touched_by_the_requeue_of_its_parent(engine: Engine, queue: TaskQueue) -> None:
    """It was to run in any case, and waits for the other parent only: it is not counted down twice."""
    parent, other = queue.add(new(engine)).id, queue.add(new(engine)).id
    child = queue.add(new(engine), after=[parent, other], on_parent_failure="run").id
    runner = engine.join()
    claims = {claimed.id: claimed for claimed in claim(engine, runner, 2)}
    end(engine, runner, [claims[parent]], "dead")
    queue.retry(parent)
    end(engine, runner, claim(engine, runner))
    assert states(engine, child) == ["blocked"]
    assert end(engine, runner, [claims[other]]) == [child]
