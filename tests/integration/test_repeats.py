"""An enqueue that is repeated makes one task, whatever became of the first try: lost before, during, after, or late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.intake import Options, compose
from taskrunner.queue import TaskQueue
from taskrunner.store import enqueue, fresh
from taskrunner.store.enqueue import Enqueued
from taskrunner.task import Task
from tests.chaos.proxy import Manner, Proxy, Rule
from tests.engine import Engine, holding

REPEATS = "SELECT count(*) FROM taskrunner.idempotency_key WHERE key LIKE 'repeat %%'"


@pytest.fixture
def mail(engine: Engine) -> Any:
    @register_task("T")
    class Mail(Task):
        n: int = 0

        async def run(self) -> None: ...

    return Mail


@contextmanager
def proxied(engine: Engine) -> Iterator[tuple[Proxy, str]]:
    """Stand between a door and the server; returns the URL that leads by way of the proxy."""
    told = psycopg.conninfo.conninfo_to_dict(engine.url)
    with Proxy(f"{told['host']}/.s.PGSQL.{told.get('port', 5432)}") as proxy:
        way = {**told, "host": "127.0.0.1", "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
        yield proxy, psycopg.conninfo.make_conninfo(**way)  # type: ignore[arg-type]  # all of them text or numbers


def run_all(engine: Engine) -> int:
    """Let everything that is due run and end; returns how many tasks that were."""
    runner = engine.join()
    claims = engine.claim(runner, 100)
    engine.finish(runner, *claims)
    return len(claims)


def kept(engine: Engine, id_: UUID) -> int:
    """Count all rows of a task, live or ended."""
    live = engine.value("SELECT count(*) FROM taskrunner.task WHERE id = %s", id_)
    return int(live) + engine.ends(id_)


SINGLE, BATCH = "taskrunner.add_one", "INSERT INTO taskrunner.task "
WAYS: dict[str, tuple[str, Callable[[TaskQueue, Task], Any]]] = {
    "add": (SINGLE, lambda door, task: door.add(task)),
    "add_many": (BATCH, lambda door, task: door.add_many([task])),
    "add with a key": (BATCH, lambda door, task: door.add(task, key="k")),
}


# ── lost on the way ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("manner", ["before", "during", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_a_connection_lost_at_any_point_of_an_enqueue_costs_and_doubles_nothing(
    engine: Engine, mail: Any, way: str, manner: Manner
) -> None:
    """SPEC CRA 36, FAULTS F15: the door tries again by itself."""
    statement, add = WAYS[way]
    task, rule = mail(), Rule("queue", statement, manner, most=1)
    with proxied(engine) as (proxy, url), TaskQueue.connect(url, registry=engine.registry) as door:
        door.stats()
        proxy.rules.append(rule)
        add(door, task)
        assert rule.hits
        add(door, task)
    assert (run_all(engine), kept(engine, task.id)) == (1, 1)


@pytest.mark.parametrize("manner", ["during", "after"])
def test_a_lost_reply_of_a_commit_doubles_nothing(engine: Engine, mail: Any, manner: Manner) -> None:
    """SPEC CRA 36, FAULTS F15."""
    tasks, rule = [mail(n=n) for n in range(3)], Rule("queue", "COMMIT", manner, most=1)
    with proxied(engine) as (proxy, url), TaskQueue.connect(url, registry=engine.registry) as door:
        door.stats()
        proxy.rules.append(rule)
        assert [answer.id for answer in door.add_many(tasks)] == [task.id for task in tasks]
        assert rule.hits
    assert run_all(engine) == 3
    assert [kept(engine, task.id) for task in tasks] == [1, 1, 1]


@pytest.mark.parametrize("way", WAYS)
def test_a_statement_that_the_server_gets_after_its_repeat_has_run_and_ended_makes_no_second_task(
    engine: Engine, mail: Any, way: str
) -> None:
    """FAULTS I2: the client has given up, the statement has not: it lay in somebody's buffer."""
    statement, add = WAYS[way]
    task, rule = mail(), Rule("queue", statement, "late", most=1)
    with proxied(engine) as (proxy, url), TaskQueue.connect(url, registry=engine.registry) as door:
        door.stats()
        proxy.rules.append(rule)
        add(door, task)
        assert rule.hits
        assert run_all(engine) == 1
        engine.conn.execute("DELETE FROM taskrunner.task_history")  # retention, as it were
        proxy.let_go()
    assert kept(engine, task.id) == 0, "the late statement made the task anew"


def test_a_late_insert_does_nothing_once_it_has_been_repeated(engine: Engine) -> None:
    a_late_insert_does_nothing(engine)


def a_late_insert_does_nothing(engine: Engine) -> None:
    """The statements of the test above, in the order in which the server gets them."""
    new = engine.new()
    engine.do(fresh.note_repeats([new]))
    engine.do(enqueue.store([new]))
    run_all(engine)
    with suppress(psycopg.errors.UniqueViolation):
        engine.do(fresh.insert(new))
    assert kept(engine, new.id) == 1, "a task that had ended lives again"


def test_a_repeat_waits_for_the_first_try_where_that_is_still_at_it(engine: Engine, mail: Any) -> None:
    task = mail()
    row = compose(engine.registry, task, Options(), "default")
    with engine.door() as door, ThreadPoolExecutor(1) as pool, holding(engine.url, "SELECT 1") as first:
        db.run(first, fresh.insert(row))
        again = pool.submit(door.add, task)
        until(lambda: bool(engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted")))
        first.commit()
        assert again.result(30) == Enqueued(task.id, created=False)
    assert kept(engine, task.id) == 1


# ── repeated by the program ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", WAYS)
def test_one_task_added_by_many_threads_at_once_is_one_task(engine: Engine, mail: Any, way: str) -> None:
    """The first try of one meets the repeat of another."""
    people = 4
    together = threading.Barrier(people)
    with engine.door() as door, ThreadPoolExecutor(people) as pool:
        for _ in range(10):
            task = mail()
            assert task.id

            def add(task: Any = task) -> list[Enqueued]:
                together.wait(30)
                answer = WAYS[way][1](door, task)
                return [answer] if isinstance(answer, Enqueued) else answer  # type: ignore[return-value]

            answers = [job.result(30)[0] for job in [pool.submit(add) for _ in range(people)]]
            assert {answer.id for answer in answers} == {task.id}
            assert sum(answer.created for answer in answers) == 1
            assert kept(engine, task.id) == 1
            run_all(engine)


def test_a_repeat_leaves_a_note_for_a_day_a_first_try_leaves_none(engine: Engine, mail: Any) -> None:
    task, seen = mail(), mail()
    assert seen.id == seen.id, "to look at the id does not send it"
    with engine.door() as door:
        assert door.add(task).created
        assert door.add(seen).created
        assert all(answer.created for answer in door.add_many([mail(), mail()]))
        assert engine.value(REPEATS) == 0
        assert not door.add(task).created
        assert engine.value(REPEATS) == 1
    left = engine.value("SELECT expires_at - taskrunner.clock() FROM taskrunner.idempotency_key")
    assert 0.99 < left.total_seconds() / 86_400 <= 1


def test_a_task_that_was_refused_has_not_been_sent(engine: Engine, mail: Any) -> None:
    task, other = mail(), mail()
    with engine.door() as door:
        with pytest.raises(ValueError, match="priority"):
            door.add(task, priority=2**40)
        other.__dict__["n"] = float("nan")
        with pytest.raises(ValueError, match=r"Mail\.n"):
            door.add_many([task, other])
        assert door.add(task).created
    assert engine.value(REPEATS) == 0


def test_a_task_twice_in_a_batch_is_created_once(engine: Engine, mail: Any) -> None:
    task = mail()
    with engine.door() as door:
        assert [answer.created for answer in door.add_many([task, mail(), task])] == [True, True, False]
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 2


def test_a_copy_of_a_task_is_another_task(engine: Engine, mail: Any) -> None:
    task = mail()
    with engine.door() as door:
        first, second = door.add(task), door.add(task.model_copy())
    assert second.created
    assert first.id != second.id


def test_an_enqueue_in_the_callers_transaction_may_be_repeated_after_its_rollback(engine: Engine, mail: Any) -> None:
    task = mail()
    with engine.door() as door, psycopg.connect(engine.url) as conn:
        assert door.add(task, connection=conn).created
        conn.rollback()
        assert door.add(task, connection=conn).created
        conn.commit()
        assert not door.add(task, connection=conn).created
        assert not door.add(task).created
    assert kept(engine, task.id) == 1


@pytest.mark.anyio
async def test_an_asynchronous_door_repeats_what_was_lost(engine: Engine, mail: Any) -> None:
    """SPEC CRA 36, FAULTS F15."""
    task, rule = mail(), Rule("queue", SINGLE, "after", most=1)
    with proxied(engine) as (proxy, url):
        async with AsyncTaskQueue.connect(url, registry=engine.registry) as door:
            await door.stats()
            proxy.rules.append(rule)
            await door.add(task)
    assert rule.hits
    assert kept(engine, task.id) == 1


# ── many of several types ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_of_several_types_keeps_what_each_type_says_and_the_order(engine: Engine, mail: Any) -> None:
    """SPEC ENQ 10."""

    @register_task("Fax", queue="fax", priority=7, max_retries=1)
    class Fax(Task):
        to: str

        async def run(self) -> None: ...

    tasks = [mail(n=1), Fax(to="a"), Fax(to="b"), mail(n=2)]
    with engine.door() as door:
        ids = [answer.id for answer in door.add_many(tasks, spacing=1, tenant="acme")]
    found = engine.rows(
        "SELECT id, type, queue, priority, max_retries, tenant, payload, extract(epoch FROM maturity_at - created_at)"
        "  FROM taskrunner.task ORDER BY maturity_at"
    )
    assert [(row[0], *row[1:7], int(row[7])) for row in found] == [
        (ids[0], "T", "default", 100, 3, "acme", {"n": 1}, 0),
        (ids[1], "Fax", "fax", 7, 1, "acme", {"to": "a"}, 1),
        (ids[2], "Fax", "fax", 7, 1, "acme", {"to": "b"}, 2),
        (ids[3], "T", "default", 100, 3, "acme", {"n": 2}, 3),
    ]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread of the test is about to do."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it does not happen")
