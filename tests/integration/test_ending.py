"""The slow ending: of tasks with children, in every way that a task can end, beside others that end with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskrunner import db
from taskrunner.attempt import Attempt
from taskrunner.db import Link
from taskrunner.errors import DatabaseUnreachable
from taskrunner.leases import rescue_dead
from taskrunner.outbox import Outbox
from taskrunner.outcome import Bury, Finish, Transition
from taskrunner.statements import ending as sql
from taskrunner.store import ending, steering
from taskrunner.store import runner as runner_store
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Cycle, Ending
from tests.engine import WAIT, Engine, holding
from tests.plans import explain
from tests.processes import eventually

pytestmark = pytest.mark.anyio

HOST: Any = None
NO = '[{"message": "no", "traceback": null}]'


def family(engine: Engine, parents: int = 1, children: int = 1, on_failure: str = "fail") -> tuple[list[UUID], ...]:
    """Store parents, and children each of which comes after all of them."""
    above, below = engine.add(parents), engine.add(children, type="Child")
    for child in below:
        after(engine, child, above, on_failure)
    return above, below


def after(engine: Engine, child: UUID, parents: list[UUID], on_failure: str = "fail") -> None:
    engine.rows("UPDATE taskrunner.task SET has_children = true WHERE id = ANY(%s) RETURNING id", parents)
    engine.rows(
        "UPDATE taskrunner.task SET state = 'blocked', waits_for = %s WHERE id = %s RETURNING id", len(parents), child
    )
    engine.rows(
        "INSERT INTO taskrunner.dependency (parent_id, child_id, on_failure)"
        " SELECT unnest(%s::uuid[]), %s, %s RETURNING child_id",
        parents,
        child,
        on_failure,
    )


def endings(claims: list[Claimed], state: str = "succeeded") -> list[Ending]:
    detail = NO if state == "dead" else None
    return [Ending(claim.id, claim.claim_no, 0.1, 0.1, state, detail) for claim in claims]


def states(engine: Engine, *ids: UUID) -> list[str]:
    return [engine.view(id_).state for id_ in ids]


# ── the fast ending leaves them over ─────────────────────────────────────────────────────────────────────────────────


def test_a_cycle_leaves_a_task_with_children_over_and_its_fate_says_that_it_is_special(engine: Engine) -> None:
    (parent,), (child,) = family(engine)
    runner = engine.join()
    (claimed,) = engine.claim(runner)
    assert engine.finish(runner, claimed).left == [(parent, 1)]
    assert engine.do(store.bury(runner, endings([claimed], "dead"))) == []
    assert engine.do(store.fates(runner, [(parent, 1)])) == [store.Fate(parent, True, True, False)]
    assert states(engine, parent, child) == ["running", "blocked"]


@pytest.mark.parametrize(
    ("decision", "state", "childs"),
    [
        (Finish("succeeded"), "succeeded", "pending"),
        (Finish("ignored"), "ignored", "pending"),
        (Finish("cancelled"), "cancelled", "cancelled"),
        (Bury(({"message": "no"},)), "dead", "dead"),
    ],
    ids=["succeeded", "ignored", "cancelled", "dead"],
)
async def test_the_outbox_ends_a_task_with_children_the_slow_way(
    engine: Engine, decision: Transition, state: str, childs: str
) -> None:
    """SPEC FLO 57: what each end of a parent means for a child that was to fail with it."""
    (parent,), (child,) = family(engine)
    runner = engine.join()
    (claimed,) = engine.claim(runner)
    settled: list[UUID] = []
    outbox = Outbox(lambda attempt: settled.append(attempt.claim.id))
    link = Link(engine.url, name="test", planned_once=True)
    try:
        outbox.put(Attempt(claimed, HOST), decision)
        due = await deliver(outbox, link, runner)
    finally:
        await link.close()
    assert settled == [parent]
    assert [task.id for task in due] == ([child] if childs == "pending" else [])
    assert states(engine, parent, child) == [state, childs]
    assert engine.ends(parent) == 1
    assert (
        engine.value("SELECT sum(count)::int FROM taskrunner.task_stats WHERE outcome = %s AND type = 'T'", state) == 1
    )


async def deliver(outbox: Outbox, link: Link, runner: UUID) -> list[store.Due]:
    letters = outbox.take()
    cycled = await link.run(store.cycle(Cycle(runner, [letter.ending() for letter in letters])))
    await outbox.written(link.run, runner, letters, cycled.left)
    return await outbox.write_others(link.run, runner)


# ── what children become ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_child_is_unblocked_by_the_last_of_its_parents_and_is_due_from_then_on(engine: Engine) -> None:
    above, (child,) = family(engine, parents=3)
    runner = engine.join()
    claims = engine.claim(runner, 3)
    assert engine.do(ending.end_many(runner, endings(claims[:2]))).due == []
    assert states(engine, child) == ["blocked"]
    closed = engine.do(ending.end_many(runner, endings(claims[2:])))
    assert [due.id for due in closed.due] == [child]
    assert engine.view(child).maturity_at > max(engine.view(id_).created_at for id_ in above)
    assert [claim.id for claim in engine.claim(runner, 9, ["Child"])] == [child]


def test_a_batch_of_parents_unblocks_their_common_child_once(engine: Engine) -> None:
    _, (child,) = family(engine, parents=50)
    runner = engine.join()
    closed = engine.do(ending.end_many(runner, endings(engine.claim(runner, 50))))
    assert len(closed.ids) == 50
    assert [due.id for due in closed.due] == [child]


def test_a_childs_own_delay_goes_on_after_its_parents_end(engine: Engine) -> None:
    _, (child,) = family(engine)
    engine.rows("UPDATE taskrunner.task SET maturity_at = now() + interval '1 hour' WHERE id = %s RETURNING id", child)
    runner = engine.join()
    (due,) = engine.do(ending.end_many(runner, endings(engine.claim(runner)))).due
    assert 3500 < due.due_in <= 3600


@pytest.mark.parametrize(
    ("on_failure", "ended", "childs"),
    [
        ("fail", "dead", "dead"),
        ("fail", "cancelled", "cancelled"),
        ("run", "dead", "pending"),
        ("run", "cancelled", "pending"),
        ("wait", "dead", "blocked"),
        ("wait", "cancelled", "cancelled"),
    ],
)
def test_what_a_failed_parent_means_is_said_by_the_edge(
    engine: Engine, on_failure: str, ended: str, childs: str
) -> None:
    """SPEC FLO 57."""
    (parent,), (child,) = family(engine, on_failure=on_failure)
    runner = engine.join()
    engine.do(ending.end_many(runner, endings(engine.claim(runner), ended)))
    assert states(engine, parent, child) == [ended, childs]
    if childs in ("dead", "cancelled"):
        words = "is dead" if ended == "dead" else "was cancelled"
        assert engine.view(child).errors[-1]["message"] == f"its parent T {parent} {words}"
        assert engine.ends(child) == 1


def test_a_failure_goes_down_to_all_descendants_and_stops_where_one_runs_anyway(engine: Engine) -> None:
    """SPEC FLO 57: parent → child → grandchild → one that runs anyway."""
    (parent,), (child,) = family(engine)
    grandchild, clean_up = engine.add(2, type="Child")
    after(engine, grandchild, [child])
    after(engine, clean_up, [grandchild], "run")
    runner = engine.join()
    closed = engine.do(ending.end_many(runner, endings(engine.claim(runner), "dead")))
    assert states(engine, parent, child, grandchild, clean_up) == ["dead", "dead", "dead", "pending"]
    assert [due.id for due in closed.due] == [clean_up]
    assert engine.view(grandchild).errors[-1]["message"] == f"its parent Child {child} is dead"


def test_a_child_of_one_dead_and_one_living_parent_is_dead_at_once(engine: Engine) -> None:
    _, (child,) = family(engine, parents=2)
    runner = engine.join()
    first, second = engine.claim(runner, 2)
    engine.do(ending.end_many(runner, endings([first], "dead")))
    assert states(engine, child) == ["dead"]
    assert engine.do(ending.end_many(runner, endings([second]))).due == []
    assert engine.ends(child) == 1


# ── the other ways to end ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cancel_of_a_waiting_parent_cancels_what_comes_after_it(engine: Engine) -> None:
    (parent,), (child,) = family(engine)
    assert engine.do(steering.cancel(parent)) == "cancelled"
    assert states(engine, parent, child) == ["cancelled", "cancelled"]


def test_the_cancel_of_a_blocked_task_leaves_its_parent_alone(engine: Engine) -> None:
    (parent,), (child,) = family(engine)
    engine.do(steering.cancel(child))
    runner = engine.join()
    assert engine.do(ending.end_many(runner, endings(engine.claim(runner)))).ids == [parent]
    assert states(engine, parent, child) == ["succeeded", "cancelled"]


async def test_a_parent_that_kills_its_runner_three_times_is_dead_and_so_is_its_child(engine: Engine) -> None:
    """SPEC CRA 33, FLO 57; what only was claimed beside it is given back."""
    (parent,), (child,) = family(engine)
    link = Link(engine.url, name="test")
    try:
        for _ in range(3):
            runner = engine.join()
            (claimed,) = engine.claim(runner, start=True)
            engine.do(store.mark_started(runner, parent, claimed.claim_no))
            engine.do(runner_store.end_leases([runner]))
            verdicts = {task.id: task.verdict for task in await rescue_dead(link.run, 3)}
    finally:
        await link.close()
    assert verdicts == {parent: "dead"}
    assert states(engine, parent, child) == ["dead", "dead"]
    view = engine.view(parent)
    assert (view.crashes, view.tries) == (3, 0)
    assert view.errors[-1]["message"] == "its runner died 3 times"


async def test_a_lock_on_a_dead_parents_child_does_not_hold_up_the_rescue_of_others(engine: Engine) -> None:
    """SPEC CLM 23."""
    (parent,), (child,) = family(engine)
    engine.rows("UPDATE taskrunner.task SET crashes = 2 WHERE id = %s RETURNING id", parent)
    (other,) = engine.add(type="Other")
    runner = engine.join()
    (claimed,) = engine.claim(runner)
    engine.do(store.mark_started(runner, parent, claimed.claim_no))
    engine.claim(runner, types=["Other"])
    engine.do(runner_store.end_leases([runner]))
    link = Link(engine.url, name="test")
    try:
        with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", child):
            verdicts = {task.id: task.verdict for task in await rescue_dead(link.run, 3)}
            assert verdicts == {other: "released"}
        await rescue_dead(link.run, 3)
    finally:
        await link.close()
    assert states(engine, parent, child, other) == ["dead", "dead", "pending"]
    assert engine.rows("SELECT id FROM taskrunner.runner WHERE id = %s", runner) == []


# ── at the same time ─────────────────────────────────────────────────────────────────────────────────────────────────


def begun(url: str, work: Callable[[], db.Work[Any]]) -> tuple[db.Connection[Any], Any]:
    """Execute work on a connection of its own and leave the transaction open."""
    conn = db.connect(url, name="other")
    conn.autocommit = False
    conn.execute("SELECT")  # `run` commits only what it has begun itself
    return conn, db.run(conn, work())


def test_two_parents_that_end_in_two_runners_at_the_same_time_unblock_their_child_once(engine: Engine) -> None:
    """SPEC FLO 57: the second ends while the first one's transaction is open, and must not miss what it commits."""
    _, (child,) = family(engine, parents=2)
    runners = engine.join(), engine.join()
    claims = [engine.claim(runner)[0] for runner in runners]
    conn, first = begun(engine.url, lambda: ending.end_many(runners[0], endings([claims[0]])))
    assert first.due == []
    brought: list[Any] = []
    second = threading.Thread(
        target=lambda: brought.append(engine.do(ending.end_many(runners[1], endings([claims[1]]))))
    )
    second.start()
    await_lock(engine.url)
    conn.commit()
    second.join(WAIT)
    conn.close()
    assert [due.id for due in brought[0].due] == [child]
    assert states(engine, child) == ["pending"]
    assert engine.value("SELECT waits_for FROM taskrunner.task WHERE id = %s", child) is None


def test_a_parents_end_that_is_rolled_back_leaves_the_child_to_be_unblocked_later(engine: Engine) -> None:
    _, (child,) = family(engine, parents=2)
    runners = engine.join(), engine.join()
    claims = [engine.claim(runner)[0] for runner in runners]
    conn, _ = begun(engine.url, lambda: ending.end_many(runners[0], endings([claims[0]])))
    brought: list[Any] = []
    second = threading.Thread(
        target=lambda: brought.append(engine.do(ending.end_many(runners[1], endings([claims[1]]))))
    )
    second.start()
    await_lock(engine.url)
    conn.rollback()
    second.join(WAIT)
    conn.close()
    assert brought[0].due == []
    assert states(engine, child) == ["blocked"]
    assert [due.id for due in engine.do(ending.end_many(runners[0], endings([claims[0]]))).due] == [child]


def await_lock(url: str) -> None:
    """Wait until somebody waits for the end of another's transaction."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
    with db.connect(url, name="watcher") as conn:
        eventually(lambda: conn.execute(query).fetchone() != (0,), "somebody waits for a row's lock")  # type: ignore[arg-type]


def test_the_end_of_a_claim_that_is_no_longer_held_is_nothing(engine: Engine) -> None:
    (parent,), (child,) = family(engine)
    runner = engine.join()
    (claimed,) = engine.claim(runner)
    engine.do(store.release(runner, [(parent, claimed.claim_no)]))
    assert engine.do(ending.end(runner, *endings([claimed]))) is None
    assert engine.do(ending.end(uuid7(), *endings([claimed]))) is None
    assert states(engine, parent, child) == ["pending", "blocked"]


async def test_one_claim_can_be_ended_in_a_transaction_of_the_callers(engine: Engine) -> None:
    """SPEC ONC 56: the finish of a task may be a part of its own session's transaction, whatever it leaves behind."""
    (parent,), (child,) = family(engine)
    runner = engine.join()
    claims = engine.claim(runner)
    conn = await db.aconnect(engine.url)
    async with conn.transaction(force_rollback=True):
        assert [due.id for due in await db.arun(conn, ending.end(runner, *endings(claims))) or ()] == [child]
    assert states(engine, parent, child) == ["running", "blocked"]
    async with conn.transaction():
        await db.arun(conn, ending.end(runner, *endings(claims)))
    await conn.close()
    assert states(engine, parent, child) == ["succeeded", "pending"]


async def test_a_slow_ending_whose_reply_is_lost_is_no_lost_lease(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC CRA 36."""
    (parent,), (child,) = family(engine)
    runner = engine.join()
    settled: list[UUID] = []
    outbox = Outbox(lambda attempt: settled.append(attempt.claim.id))
    link = Link(engine.url, name="test")
    (claimed,) = engine.claim(runner)
    outbox.put(Attempt(claimed, HOST), Finish("succeeded"))
    letters = outbox.take()
    cycled = await link.run(store.cycle(Cycle(runner, [letter.ending() for letter in letters])))
    await outbox.written(link.run, runner, letters, cycled.left)

    async def losing(work: db.Work[Any]) -> Any:
        await link.run(work)
        raise DatabaseUnreachable("the reply is lost")

    try:
        with pytest.raises(DatabaseUnreachable):
            await outbox.write_others(losing, runner)
        assert states(engine, parent, child) == ["succeeded", "pending"]
        assert settled == []
        await outbox.write_others(link.run, runner)
    finally:
        await link.close()
    assert settled == [parent]
    assert len(outbox) == 0
    assert "its lease was lost" not in caplog.text
    assert engine.ends(parent) == 1


async def test_a_child_is_due_from_the_end_on_not_from_the_beginning_of_a_long_transaction(engine: Engine) -> None:
    """SPEC ONC 56: the transaction is a task's own, as old as its run; runners do not look beneath their floors."""
    _, (child,) = family(engine)
    runner = engine.join()
    claims = engine.claim(runner)
    conn = await db.aconnect(engine.url)
    async with conn.transaction():
        await conn.execute("SELECT pg_sleep(0.2)")
        (due,) = await db.arun(conn, ending.end(runner, *endings(claims))) or ()
        rows = await (await conn.execute("SELECT now() + interval '0.2 seconds'")).fetchall()
    await conn.close()
    assert engine.view(child).maturity_at >= rows[0][0]
    assert due.due_in == 0


async def test_somebodys_lock_on_a_child_delays_only_the_parents_of_that_child(engine: Engine) -> None:
    """SPEC CLM 23: an open transaction of a user's that adds something after the child holds such a lock."""
    (locked_parent,), (locked_child,) = family(engine)
    (free_parent,), (free_child,) = family(engine)
    runner = engine.join()
    outbox = Outbox(lambda _: None)
    link = Link(engine.url, name="test", planned_once=True)
    due: list[UUID] = []
    try:
        with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", locked_child):
            for claimed in engine.claim(runner, 2):
                outbox.put(Attempt(claimed, HOST), Finish("succeeded"))
            while free_child not in due:
                due += [task.id for task in await deliver(outbox, link, runner)]
            assert due == [free_child]
            assert states(engine, locked_parent, free_parent) == ["running", "succeeded"]
        while locked_child not in due:
            due += [task.id for task in await deliver(outbox, link, runner)]
    finally:
        await link.close()
    assert states(engine, locked_parent, locked_child) == ["succeeded", "pending"]


def test_the_end_of_a_parent_touches_its_own_children_alone(engine: Engine) -> None:
    """By the plan that a long-prepared statement has: 5,000 other edges and as many other tasks are there."""
    others = engine.add(5000)
    (common,) = engine.add(1, type="Child")
    after(engine, common, others)
    (parent,), (child,) = family(engine)
    engine.conn.execute("SET enable_seqscan = off")  # as in the session of a runner's lane
    for op in (
        db.Op(sql.UNBLOCK, {"done": [parent], "failed": [], "patience": "100"}),
        ending.fail([ending.Ended(parent, "T", "dead", True)]),
    ):
        plan = explain(engine.conn, op, generic=True)
        assert plan.touched("dependency") <= 2
        assert plan.touched("task") <= 6
    assert states(engine, child, common) == ["blocked", "blocked"]
