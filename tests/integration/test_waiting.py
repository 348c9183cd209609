"""Waiting for tasks' ends: woken by NOTIFY, by few connections, whatever happens meanwhile (SPEC FLO 58)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from taskrunner import register_task, roles
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.awaiting import AsyncEar, Ear
from taskrunner.errors import InvalidArgument, NotFound, TaskDead, WaitTimeout
from taskrunner.queue import TaskQueue
from taskrunner.statements.cycle import TOLD
from taskrunner.store import ending, steering
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Ending
from taskrunner.task import Task
from taskrunner.waiting import Board, Watch, awaited
from tests.engine import WAIT, Engine, holding
from tests.integration.test_statements import constants
from tests.processes import eventually
from tests.roles import roles_of
from tests.silencer import Silencer

pytestmark = pytest.mark.anyio

NEVER = 3600.0
"""Seconds until a look that does not come within a test: what happens then, happened by a notification."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself as long as he is told."""
    monkeypatch.setattr("taskrunner.waiting.SAFETY", NEVER)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(60) as pool:
        yield pool


class Waits:
    """What waits in a blocking door, and when it has come to rest."""

    def __init__(self, engine: Engine, door: TaskQueue, pool: ThreadPoolExecutor) -> None:
        self._engine, self.door, self._pool = engine, door, pool

    def begin(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        return self._pool.submit(call, *given)

    def rest(self, *ids: UUID) -> None:
        """Wait until these are awaited, and only a notification can wake who waits for them."""
        eventually(lambda: at_rest(self._engine, self.door, ids))


def at_rest(engine: Engine, door: TaskQueue | AsyncTaskQueue, ids: tuple[UUID, ...] | list[UUID]) -> bool:
    quiet = door._awaiting._board.next_look > time.monotonic() + 60
    told = engine.value(
        "SELECT count(*) FROM taskrunner.task WHERE awaited AND id = ANY(%s)", list(ids)
    )  # index: the primary key
    return bool(quiet and told == len(ids) and engine.backends("taskrunner wait"))


@pytest.fixture
def waits(engine: Engine, pool: ThreadPoolExecutor) -> Iterator[Waits]:
    with engine.door() as door:
        yield Waits(engine, door, pool)


# ── whatever ends it ─────────────────────────────────────────────────────────────────────────────────────────────────


def finish(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.finish(runner, claim)


def ignore(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.finish(runner, Ending(claim.id, claim.claim_no, state="ignored"))


def bury(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no more"}]')]))


def die(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.value("UPDATE taskrunner.task SET started_at = now() WHERE id = %s RETURNING 1", claim.id)
    assert engine.die(runner, limit=1) == {claim.id: "dead"}


def release_and_cancel(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.do(store.release(runner, [(claim.id, claim.claim_no)]))
    engine.do(steering.cancel(claim.id))


def release_and_delete(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.do(store.release(runner, [(claim.id, claim.claim_no)]))
    engine.do(steering.cancel(claim.id, running=False))


def retry_and_finish(engine: Engine, runner: UUID, claim: Claimed) -> None:
    engine.retry(runner, claim)
    engine.finish(runner, *engine.claim(runner))


def finish_with_child(engine: Engine, runner: UUID, claim: Claimed) -> None:
    """By the slow ending."""
    engine.value("UPDATE taskrunner.task SET has_children = true WHERE id = %s RETURNING 1", claim.id)
    assert engine.do(ending.end(runner, Ending(claim.id, claim.claim_no, state="succeeded"))) == []


ENDS = {
    finish: "succeeded",
    finish_with_child: "succeeded",
    ignore: "ignored",
    bury: "dead",
    die: "dead",
    release_and_cancel: "cancelled",
    release_and_delete: "cancelled",
    retry_and_finish: "succeeded",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("blind")
def test_whatever_ends_a_task_wakes_who_waits_for_it(end: Any, engine: Engine, waits: Waits) -> None:
    """SPEC FLO 58: by a notification alone."""
    (id_,), runner = engine.add(), engine.join()
    waiting = waits.begin(waits.door.wait, id_, WAIT)
    waits.rest(id_)
    (claim,) = engine.claim(runner)
    end(engine, runner, claim)
    assert waiting.result(WAIT).state == ENDS[end]


def test_every_statement_that_ends_tasks_tells_who_waits() -> None:
    """Whoever writes a new one will be reminded; an enqueue that takes back what it has just added ends nothing."""
    ending_ones = {name: text for name, text in constants().items() if "DELETE FROM taskrunner.task t" in text}
    assert {name for name, text in ending_ones.items() if TOLD not in text} == {"enqueue.TAKE_BACK"}
    assert len(ending_ones) >= 8


@pytest.mark.usefixtures("blind")
def test_a_child_that_falls_with_its_parent_wakes_who_waits_for_it(engine: Engine, waits: Waits) -> None:
    """SPEC FLO 57, 58."""

    @register_task("T")
    class Plain(Task):
        async def run(self) -> None: ...

    parent = waits.door.add(Plain())
    child = waits.door.add(Plain(), after=[parent])
    grandchild = waits.door.add(Plain(), after=[child])
    waiting = waits.begin(waits.door.wait_all, [child, grandchild], WAIT)
    waits.rest(child.id, grandchild.id)
    waits.door.cancel(parent.id)
    assert [view.state for view in waiting.result(WAIT)] == ["cancelled", "cancelled"]


def test_only_awaited_tasks_are_told_of(engine: Engine) -> None:
    """A NOTIFY holds a lock of the whole server: nobody pays for it who has nobody waiting."""
    plain, told = engine.add(2)
    assert engine.do(awaited([told])) == {told: True}
    with engine.db.connect() as listener:
        listener.execute("LISTEN taskrunner_ended")
        runner = engine.join()
        engine.finish(runner, *engine.claim(runner, 2))
        assert engine.ends(plain) == engine.ends(told) == 1
        engine.value("SELECT pg_notify('taskrunner_ended', 'last')")
        heard = []
        for notify in listener.notifies(timeout=WAIT):
            heard.append(notify.payload)
            if notify.payload == "last":
                break
    assert heard == [str(told), "last"]


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("blind")
async def test_two_hundred_coroutines_wait_on_one_connection(engine: Engine) -> None:
    """SPEC FLO 58, CON 47."""
    ids, runner = engine.add(200), engine.join()
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        waiting = [asyncio.create_task(door.wait(id_, WAIT)) for id_ in ids]
        await asyncio.to_thread(eventually, lambda: at_rest(engine, door, ids))
        assert len(engine.backends("taskrunner wait")) == 1
        assert len(engine.backends("taskrunner queue")) <= 4
        engine.finish(runner, *engine.claim(runner, 200))
        assert [view.id for view in await asyncio.gather(*waiting)] == ids


@pytest.mark.usefixtures("blind")
def test_fifty_threads_wait_on_one_connection(engine: Engine, waits: Waits) -> None:
    """SPEC FLO 58, CON 47."""
    ids, runner = engine.add(50), engine.join()
    waiting = [waits.begin(waits.door.wait, id_, WAIT) for id_ in ids]
    waits.rest(*ids)
    assert len(engine.backends("taskrunner wait")) == 1
    assert len(engine.backends("taskrunner queue")) <= 4
    engine.finish(runner, *engine.claim(runner, 50))
    assert [one.result(WAIT).id for one in waiting] == ids


@pytest.mark.usefixtures("blind")
def test_who_waits_does_not_ask_the_database(engine: Engine, waits: Waits) -> None:
    """SPEC FLO 58: in three seconds with 50 threads not one statement, but for the listener's own sign of life."""
    ids, runner = engine.add(50), engine.join()
    waiting = [waits.begin(waits.door.wait, id_, WAIT) for id_ in ids]
    waits.rest(*ids)
    asked = """SELECT pid, query_start FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'taskrunner queue' ORDER BY pid"""
    before = engine.rows(asked)
    threading.Event().wait(3)
    assert before
    assert engine.rows(asked) == before
    engine.finish(runner, *engine.claim(runner, 50))
    assert all(one.result(WAIT).state == "succeeded" for one in waiting)


def test_all_waiters_of_a_door_look_together() -> None:
    """A look besides the notifications is one for all, once in five seconds."""
    board = Board()
    watches = [Watch(board, [uuid4()], None, lambda: None) for _ in range(100)]
    for watch in watches:
        board.enter(watch)
    board.listens(True)
    began = time.monotonic()
    looks = [board.look() for _ in watches]
    assert [len(look) for look in looks] == [100, *[0] * 99]
    assert began + 4 < watches[0]._board.next_look <= time.monotonic() + 5


@pytest.mark.usefixtures("blind")
def test_tasks_come_in_the_order_of_their_ends_and_results_in_the_order_asked(engine: Engine, waits: Waits) -> None:
    ids, runner = engine.add(3), engine.join()
    claims = {claim.id: claim for claim in engine.claim(runner, 3)}
    order = [ids[1], ids[2], ids[0]]
    seen: list[UUID] = []
    gone_on = threading.Semaphore(0)

    def follow() -> None:
        for view in waits.door.as_completed(ids, WAIT):
            seen.append(view.id)
            gone_on.release()

    following = waits.begin(follow)
    waits.rest(*ids)
    for number, id_ in enumerate(order):
        claim = claims[id_]
        engine.finish(runner, Ending(id_, claim.claim_no, detail=f"{number}"))
        assert gone_on.acquire(timeout=WAIT)
    following.result(WAIT)
    assert seen == order
    assert waits.door.results([*ids, ids[0]]) == [2, 0, 1, 2]
    assert [view.id for view in waits.door.wait_all(map(str, ids))] == ids
    assert [view.id for view in waits.door.as_completed(ids)] == order


def test_of_no_tasks_all_have_ended(engine: Engine) -> None:
    with engine.door() as door:
        assert door.wait_all([]) == door.results([]) == list(door.as_completed([])) == []
        assert not engine.backends("taskrunner wait")


async def test_completions_are_an_asynchronous_iteration(engine: Engine) -> None:
    ids, runner = engine.add(20), engine.join()
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        for claim in engine.claim(runner, 10):
            engine.finish(runner, claim)
        seen = []
        async for view in door.as_completed(ids, WAIT):
            seen.append(view.id)
            if len(seen) == 10:
                engine.finish(runner, *engine.claim(runner, 10))
    assert sorted(seen) == ids


async def test_what_was_added_can_be_waited_for_as_it_is(engine: Engine) -> None:
    """By the answer of `add`, by the task itself, by id as UUID or text; a repeat's answer leads to the first."""

    @register_task("Sum")
    class Sum(Task):
        a: int

        async def run(self) -> int:
            return self.a + 1

    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        task = Sum(a=1)
        first = await door.add(task, idempotency_key="one", key="one")
        again = await door.add(Sum(a=5), idempotency_key="one")
        same = await door.add(Sum(a=6), key="one")
        many = await door.add_many([Sum(a=number) for number in range(3)])
        async with engine.running():
            assert await door.results(many, WAIT) == [1, 2, 3]
            assert await door.results([first, again, same, task, str(first.id)], WAIT) == [2] * 5
            assert await door.result(task, WAIT) == 2


# ── what it comes to ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_task_raises_with_its_error_as_soon_as_it_is_dead(engine: Engine) -> None:
    """SPEC FLO 58: also among many of which others go on."""

    @register_task("Fails", max_retries=0)
    class Fails(Task):
        async def run(self) -> None:
            raise ValueError("no such street")

    async with engine.running(), AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        with pytest.raises(TaskDead, match="is dead: ValueError: no such street"):
            await door.result(await door.add(Fails()), WAIT)
        later = await door.add(Fails(), delay=NEVER)
        with pytest.raises(TaskDead, match="no such street"):
            await door.results([later, await door.add(Fails())], WAIT)
        await door.delete(later.id)
        with pytest.raises(TaskDead, match="is cancelled"):
            await door.result(later)


def test_a_wait_that_is_too_long_says_where_the_task_is(engine: Engine) -> None:
    with engine.door() as door:
        (waiting,) = engine.add()
        with pytest.raises(WaitTimeout, match=rf"task {waiting} has not ended in time: it is pending, due; .* T"):
            door.wait(waiting, 0)
        runner = engine.join()
        with pytest.raises(WaitTimeout, match="it is pending, due"):
            door.wait(waiting, 0.05)
        (claim,) = engine.claim(runner)
        with pytest.raises(WaitTimeout, match="it is running"):
            door.result(waiting, 0.05)
        engine.retry(runner, claim, delay=1000)
        with pytest.raises(WaitTimeout, match=r"due at .* after 1 failed tries"):
            door.result(waiting, timedelta(milliseconds=50))
        others = engine.add(2)
        with pytest.raises(WaitTimeout, match=f"3 tasks have not ended in time, the first is {waiting}"):
            door.wait_all([waiting, *others], 0)
        with pytest.raises(InvalidArgument, match="timeout"):
            door.wait(waiting, -1)


def test_a_task_that_never_was_is_not_waited_for(engine: Engine) -> None:
    (there,) = engine.add()
    with engine.door() as door:
        for ids in ([uuid4()], [there, uuid4()]):
            with pytest.raises(NotFound, match="never stored"):
                door.wait_all(ids, WAIT)


# ── whatever happens meanwhile ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("blind")
def test_an_end_while_the_listening_connection_is_gone_is_found(engine: Engine, waits: Waits) -> None:
    """SPEC FLO 58: who listens again looks at all that is waited for, and hears what comes after."""
    ids, runner = engine.add(3), engine.join()
    waiting = waits.begin(waits.door.wait_all, ids, WAIT)
    waits.rest(*ids)
    claims = engine.claim(runner, 3)
    for claim in claims:
        (listener,) = engine.backends("taskrunner wait")
        engine.value("SELECT pg_terminate_backend(%s, 30000)", listener)
        engine.finish(runner, claim)
        if claim is not claims[-1]:
            eventually(lambda: engine.backends("taskrunner wait") not in ([], [listener]))  # noqa: B023 - at once
    assert [view.id for view in waiting.result(WAIT)] == ids


@pytest.mark.usefixtures("blind")
async def test_an_asynchronous_door_too_outlives_its_listening_connection(engine: Engine) -> None:
    ids, runner = engine.add(2), engine.join()
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        waiting = asyncio.create_task(door.wait_all(ids, WAIT))
        await asyncio.to_thread(eventually, lambda: at_rest(engine, door, ids))
        (listener,) = engine.backends("taskrunner wait")
        first, second = engine.claim(runner, 2)
        engine.value("SELECT pg_terminate_backend(%s, 30000)", listener)
        engine.finish(runner, first)
        await asyncio.to_thread(eventually, lambda: at_rest(engine, door, [second.id]))
        engine.finish(runner, second)
        assert {view.state for view in await waiting} == {"succeeded"}


def test_somebodys_lock_on_the_row_holds_up_neither_the_wait_nor_the_end(engine: Engine, waits: Waits) -> None:
    """SPEC CLM 23: a row that cannot be marked is tried again until it can."""
    (id_,), runner = engine.add(), engine.join()
    with holding(engine.url, "SELECT 1 FROM taskrunner.task WHERE id = %s FOR UPDATE", id_):
        with pytest.raises(WaitTimeout):
            waits.door.wait(id_, 0.2)
        waiting = waits.begin(waits.door.wait, id_, WAIT)
        eventually(lambda: engine.backends("taskrunner wait"))
        assert not engine.value("SELECT awaited FROM taskrunner.task WHERE id = %s", id_)
    eventually(lambda: engine.value("SELECT awaited FROM taskrunner.task WHERE id = %s", id_))
    engine.finish(runner, *engine.claim(runner))
    assert waiting.result(WAIT).state == "succeeded"


def test_without_listen_the_end_is_looked_for(
    engine: Engine, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a transaction pooler, with TASKRUNNER_LISTEN off."""
    monkeypatch.setenv("TASKRUNNER_LISTEN", "false")
    (id_,), runner = engine.add(), engine.join()
    with engine.door() as door:
        waiting = pool.submit(door.wait, id_, WAIT)
        eventually(lambda: engine.value("SELECT awaited FROM taskrunner.task WHERE id = %s", id_))
        engine.finish(runner, *engine.claim(runner))
        assert waiting.result(WAIT).state == "succeeded"
        assert not engine.backends("taskrunner wait")


def test_notifications_that_a_pooler_swallows_are_missed_once(
    engine: Engine, waits: Waits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """LISTEN succeeds and nothing ever comes: the looks find the ends, and then come more often."""
    monkeypatch.setattr("taskrunner.waiting.SAFETY", 0.2)
    monkeypatch.setattr("taskrunner.waiting._LATE", 0.1)
    monkeypatch.setattr("taskrunner.awaiting.CHANNEL", "taskrunner_elsewhere")
    ids, runner = engine.add(2), engine.join()
    first, second = engine.claim(runner, 2)
    with caplog.at_level(logging.WARNING, "taskrunner.waiting"):
        waiting = waits.begin(waits.door.wait_all, ids, WAIT)
        eventually(
            lambda: waits.door._awaiting._board._listening and engine.do(awaited(ids)) == dict.fromkeys(ids, True)
        )
        engine.finish(runner, first)
        eventually(lambda: "TASKRUNNER_LISTEN=false" in caplog.text)
        engine.finish(runner, second)
        assert len(waiting.result(WAIT)) == 2


def test_the_listening_connection_is_closed_when_nobody_waits_and_opened_again(
    engine: Engine, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.awaiting.LINGER", 0.1)
    runner = engine.join()
    for _ in range(2):
        (id_,) = engine.add()
        waiting = waits.begin(waits.door.wait, id_, WAIT)
        eventually(lambda: engine.backends("taskrunner wait"))
        engine.finish(runner, *engine.claim(runner))
        waiting.result(WAIT)
        eventually(lambda: not engine.backends("taskrunner wait"))
        assert not [thread.name for thread in threading.enumerate() if thread.name == "taskrunner wait"]


def test_what_has_ended_already_needs_no_listening_connection(engine: Engine) -> None:
    runner = engine.join()
    ids = engine.add(3)
    engine.finish(runner, *engine.claim(runner, 3))
    with engine.door() as door:
        assert len(door.wait_all(ids)) == 3
        assert not engine.backends("taskrunner wait")


def test_a_door_that_is_bound_waits_for_none_but_its_tenants_tasks(engine: Engine) -> None:
    """SPEC TEN 54: also where the login sees all, and whether the task has ended or not."""
    (live,) = engine.add(tenant="acme")
    runner = engine.join()
    (ended,) = engine.add(tenant="acme", priority=200)
    engine.finish(runner, *engine.claim(runner))
    with (
        TaskQueue.connect(engine.url, tenant="other", registry=engine.registry) as other,
        TaskQueue.connect(engine.url, tenant="acme", registry=engine.registry) as own,
    ):
        for id_ in (live, ended):
            with pytest.raises(NotFound):
                other.wait(id_, 1)
        assert not engine.value("SELECT awaited FROM taskrunner.task WHERE id = %s", live)
        assert own.wait(ended, 1).state == "succeeded"
        with pytest.raises(WaitTimeout):
            own.wait(live, 0)


@pytest.mark.parametrize("who", ["user", "mapped", "reader"])
def test_every_login_that_may_see_a_task_can_wait_for_it(engine: Engine, pool: ThreadPoolExecutor, who: str) -> None:
    """SPEC TEN 54: a reader, who can mark nothing, looks in pauses."""
    (id_,) = engine.add(tenant="acme")
    (others,) = engine.add(tenant="globex")
    with roles_of(engine.db) as lent:
        roles.create(lent.database.url, lent.prefix)
        url = lent.mapped("acme") if who == "mapped" else lent.login(who)
        with TaskQueue.connect(url, tenant="acme", registry=engine.registry) as door:
            with pytest.raises(NotFound):
                door.wait(others, 1)
            waiting = pool.submit(door.wait, id_, WAIT)
            eventually(lambda: engine.backends("taskrunner wait"))
            runner = engine.join()
            engine.finish(runner, *engine.claim(runner, 2))
            assert waiting.result(WAIT).state == "succeeded"


@pytest.mark.usefixtures("blind")
def test_anybody_may_send_notifications(engine: Engine, waits: Waits) -> None:
    (id_,), runner = engine.add(), engine.join()
    waiting = waits.begin(waits.door.wait, id_, WAIT)
    waits.rest(id_)
    for payload in ("", "nonsense", str(uuid4()), str(id_)):
        engine.value("SELECT pg_notify('taskrunner_ended', %s)", payload)
    waits.rest(id_)
    assert not waiting.done()
    engine.finish(runner, *engine.claim(runner))
    assert waiting.result(WAIT).state == "succeeded"


def test_a_door_that_closes_does_not_wait_for_its_listener(engine: Engine, pool: ThreadPoolExecutor) -> None:
    (id_,) = engine.add()
    with engine.door() as door:
        with pytest.raises(WaitTimeout):
            door.wait(id_, 0.3)
        eventually(lambda: engine.backends("taskrunner wait"))
    assert not [thread.name for thread in threading.enumerate() if thread.name == "taskrunner wait"]


@pytest.mark.parametrize("kind", [Ear, AsyncEar])
async def test_a_listening_connection_that_goes_silent_is_given_up_and_rebuilt(
    engine: Engine, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS F16: nothing closes it, nothing comes through."""
    monkeypatch.setattr("taskrunner.awaiting.LINGER", 0.1)
    monkeypatch.setattr("taskrunner.channel.CHECK", 0.2)
    board = Board()
    async with Silencer(engine.url) as silencer:
        ear = kind(board, lambda: silencer.url)
        with Watch(board, [uuid4()], None, lambda: None):
            for connections in (1, 2):
                async with asyncio.timeout(WAIT):
                    while not board._listening or silencer.connections < connections:
                        ear.open()  # as whoever waits does at each turn
                        await asyncio.sleep(0.01)
                silencer.silent = connections == 1
                while connections == 1 and board._listening:
                    ear.open()
                    await asyncio.sleep(0.01)
            closing = await asyncio.to_thread(ear.close)
            if closing is not None:
                await closing
    assert silencer.connections >= 2
