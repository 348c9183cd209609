"""What runners are told of new tasks: soon, of the last one too, and not of each."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.errors import DatabaseUnreachable
from taskrunner.herald import AsyncHerald, Herald
from taskrunner.queue import TaskQueue
from taskrunner.store.task import CHANNEL, Due, Hint, announce, announce_alone, hint
from taskrunner.task import Task
from tests.engine import WAIT, Engine
from tests.integration.test_enqueue import AnyDoor

pytestmark = pytest.mark.anyio


@pytest.fixture
def echo(engine: Engine) -> Any:
    @register_task("Echo")
    class Echo(Task):
        n: int = 0

        async def run(self) -> None: ...

    return Echo


@pytest.fixture(params=["sync", "async"])
async def door(engine: Engine, echo: Any, request: pytest.FixtureRequest, anyio_backend: Any) -> AsyncIterator[AnyDoor]:
    if request.param == "sync":
        with TaskQueue.connect(engine.url, registry=engine.registry) as queue:
            yield AnyDoor(queue)
    else:
        async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as queue:
            yield AnyDoor(queue)


class Ear:
    """Listens as a runner does, in a thread of its own."""

    def __init__(self, engine: Engine) -> None:
        self._conn = psycopg.connect(engine.url, autocommit=True, application_name="ear")
        self._conn.execute(f"LISTEN {CHANNEL}")  # type: ignore[arg-type]  # a constant
        self.heard: list[Hint] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, name="ear")
        self._thread.start()

    def _listen(self) -> None:
        try:
            for notify in self._conn.notifies():
                with self._changed:
                    self.heard.append(hint(notify.payload))
                    self._changed.notify_all()
        except psycopg.Error:
            return  # closed

    def until(self, condition: Callable[[list[Hint]], bool]) -> None:
        """Wait until what was heard is as it should be."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.heard), WAIT), f"heard only {self.heard}"

    def close(self) -> None:
        db.hang_up(self._conn)
        self._thread.join()
        self._conn.close()


@pytest.fixture
def ear(engine: Engine) -> Iterator[Ear]:
    made = Ear(engine)
    yield made
    made.close()


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_after_a_quiet_time_is_told_before_add_returns(engine: Engine, echo: Any, door: AnyDoor) -> None:
    """SPEC WAK 46."""
    engine.conn.execute(f"LISTEN {CHANNEL}")  # type: ignore[arg-type]  # a constant
    await door.add(echo(), delay=20)
    (heard,) = engine.conn.notifies(timeout=WAIT, stop_after=1)
    said = json.loads(heard.payload)
    assert (said["queue"], said["type"], said["priority"]) == ("default", "Echo", 100)
    assert 10 < said["due_in"] <= 20


async def test_a_stream_of_tasks_is_told_in_few_words_and_the_last_task_too(echo: Any, door: AnyDoor, ear: Ear) -> None:
    """SPEED 4: nobody adds anything after it, and the door stays open."""
    for n in range(200):
        await door.add(echo(n=n))
    last = await door.add(echo(), queue="last")
    await heard(ear, lambda heard: any(word.queue == "last" for word in heard))
    assert last.created
    assert len(ear.heard) < 100


async def test_what_waits_is_told_when_the_door_closes(engine: Engine, echo: Any, ear: Ear) -> None:
    for _ in range(5):
        with engine.door() as door:
            for n in range(3):
                door.add(echo(n=n))
            door.add(echo(), queue="last")
        ear.until(lambda heard: any(word.queue == "last" for word in heard))
        ear.heard.clear()
        async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as adoor:
            for n in range(3):
                await adoor.add(echo(n=n))
            await adoor.add(echo(), queue="last")
        ear.until(lambda heard: any(word.queue == "last" for word in heard))
        ear.heard.clear()


def test_a_program_that_ends_without_closing_its_door_has_told_of_its_last_task(engine: Engine, ear: Ear) -> None:
    program = f"""
from taskrunner import Task, TaskQueue, register_task
@register_task("Echo")
class Echo(Task):
    def run(self): ...
queue = TaskQueue.connect({engine.url!r})
for n in range(20): queue.add(Echo())
queue.add(Echo(), queue="last")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT)
    ear.until(lambda heard: any(word.queue == "last" for word in heard))


# ── what ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_queue_type_and_priority_is_told_with_its_earliest_maturity(
    echo: Any, door: AnyDoor, ear: Ear
) -> None:
    for _ in range(3):
        await door.add(echo(), delay=60)
        await door.add(echo(), priority=7, queue="slow")
        await door.add(echo(), delay=30)
    await door.add_many([echo() for _ in range(10)], spacing=1)
    wanted = {("default", 100), ("slow", 7)}
    await heard(ear, lambda heard: {(word.queue, word.priority) for word in heard} == wanted)
    await heard(ear, lambda heard: min(word.due_in for word in heard if word.queue == "default") <= 0)
    assert {word.type for word in ear.heard} == {"Echo"}


async def test_a_task_for_an_instant_is_told_by_the_databases_clock(
    engine: Engine, echo: Any, door: AnyDoor, ear: Ear
) -> None:
    """SPEC CLM 22: the client's clock may be hours wrong."""
    engine.db.travel(timedelta(days=-3))
    await door.add(echo(), at=engine.db.now() + timedelta(seconds=20))
    await heard(ear, lambda heard: len(heard) == 1)
    assert 15 < ear.heard[0].due_in <= 20


async def test_an_enqueue_that_created_nothing_is_told_to_nobody(echo: Any, door: AnyDoor, ear: Ear) -> None:
    task = echo()
    await door.add(task, key="k")
    await heard(ear, lambda heard: len(heard) == 1)
    await door.add(echo(), key="k")
    await door.add(task, key="k")
    await door.add(echo(), queue="last")
    await heard(ear, lambda heard: len(heard) == 2)
    assert ear.heard[1].queue == "last"


def test_in_the_callers_transaction_the_commit_tells_and_a_rollback_says_nothing(
    engine: Engine, echo: Any, ear: Ear
) -> None:
    """SPEC ENQ 11."""
    with engine.door() as door, psycopg.connect(engine.url) as conn:
        door.add(echo(), connection=conn, queue="never")
        conn.rollback()
        door.add(echo(), connection=conn, queue="mine")
        door.add(echo(), queue="other")
        ear.until(lambda heard: [word.queue for word in heard] == ["other"])
        conn.commit()
        ear.until(lambda heard: [word.queue for word in heard] == ["other", "mine"])


# ── never in the way ─────────────────────────────────────────────────────────────────────────────────────────────────

DUE = Due(None, "q", 1, 0.0, "T")  # type: ignore[arg-type]  # whose id nobody looks at


async def test_a_word_that_cannot_be_sent_harms_nobody() -> None:
    def lost(*_: Any) -> Any:
        raise DatabaseUnreachable("gone")

    herald, loops = Herald(lost), AsyncHerald(lost)
    for _ in range(3):
        herald.tell([DUE], time.monotonic())
        await loops.tell([DUE], time.monotonic())
    herald.close()
    await loops.close()


def test_the_thread_of_a_door_leaves_with_it(engine: Engine, echo: Any) -> None:
    with engine.door() as door:
        for n in range(10):
            door.add(echo(n=n))
        assert [thread.name for thread in threading.enumerate()].count("taskrunner herald") == 1
    assert "taskrunner herald" not in [thread.name for thread in threading.enumerate()]


def test_many_threads_of_one_door_share_its_words(engine: Engine, echo: Any, ear: Ear) -> None:
    with engine.door() as door:

        def add() -> None:
            for n in range(50):
                door.add(echo(n=n))

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        door.add(echo(), queue="last")
        ear.until(lambda heard: any(word.queue == "last" for word in heard))
    assert len(ear.heard) < 100


async def heard(ear: Ear, condition: Callable[[list[Hint]], bool]) -> None:
    """Wait without holding up the loop, which may have something to tell."""
    await asyncio.to_thread(ear.until, condition)


def test_a_word_is_not_made_durable_and_what_its_connection_does_next_is(engine: Engine) -> None:
    with db.connect(engine.url) as conn:
        conn.execute("SET synchronous_commit = on")
        with conn.transaction():
            db.execute(conn, announce_alone([Due(UUID(int=1), "default", 100, 0.0, "Echo")]))
            assert conn.execute("SHOW synchronous_commit").fetchone() == ("off",)
        assert conn.execute("SHOW synchronous_commit").fetchone() == ("on",)
        with conn.transaction():
            db.execute(conn, announce([Due(UUID(int=1), "default", 100, 0.0, "Echo")]))
            assert conn.execute("SHOW synchronous_commit").fetchone() == ("on",)
