"""Wake-up: a runner finds new work by NOTIFY, by its poll, and by its timer, and mends what it listens by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from taskrunner import events, register_task
from taskrunner.db import PATIENCE
from taskrunner.store import steering
from taskrunner.task import Task
from taskrunner.wake import Listener
from tests.engine import WAIT, Engine, Running, holding
from tests.silencer import Silencer

pytestmark = pytest.mark.anyio

NEVER = timedelta(hours=1)
"""A poll that does not come within a test: what happens then, happened by another way."""


@pytest.fixture
def echo(engine: Engine) -> type[Task]:
    @register_task("Echo")
    class Echo(Task):
        n: int = 0

        async def run(self) -> None: ...

    return Echo


@asynccontextmanager
async def idle(engine: Engine, **settings: Any) -> AsyncIterator[Running]:
    """Run a runner that has looked at everything and now waits."""
    async with engine.running(**settings) as running:
        if settings.get("listen", True):
            await running.until(events.Listening)
        yield running


async def test_a_notification_alone_wakes_an_idle_runner(engine: Engine, echo: Any) -> None:
    """SPEC WAK 46."""
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            for _ in range(5):
                await running.ended(door.add(echo()).id)


SLOW_END = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(58); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON taskrunner.task_history FOR EACH ROW WHEN (NEW.payload ->> 'n' = '1')
EXECUTE FUNCTION slow()
"""


async def test_an_ending_that_is_held_up_keeps_no_new_task_from_starting(engine: Engine, echo: Any) -> None:
    """SPEC CLM 23: one of the two cycles in flight waits, and what there is to do is less than the other's share."""
    engine.conn.execute(SLOW_END)
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            with holding(engine.url, "SELECT pg_advisory_xact_lock(58)"):
                slow = door.add(echo(n=1)).id
                await running.until(events.Ended)
                async with asyncio.timeout(PATIENCE / 2):  # before the connection that waits is given up
                    await running.ended(door.add(echo(n=2)).id)
                assert engine.value("SELECT count(*) FROM taskrunner.task WHERE id = %s", slow) == 1
            await running.ended(slow)


async def test_the_poll_alone_finds_work_too(engine: Engine, echo: Any) -> None:
    """SPEC WAK 46."""
    with engine.door() as door:
        async with idle(engine, listen=False, poll=timedelta(milliseconds=50)) as running:
            for _ in range(3):
                await running.ended(door.add(echo()).id)
            assert engine.backends("taskrunner listen%") == []


async def test_an_idle_runner_starts_a_new_task_at_once(engine: Engine, echo: Any) -> None:
    """SPEC WAK 46: it happens, whatever else this machine is busy with; the benchmark tells how often."""
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running, asyncio.timeout(WAIT):
            delay = 1.0
            while delay > 0.2:
                asked = time.monotonic()
                await running.started((await asyncio.to_thread(door.add, echo())).id)
                delay = time.monotonic() - asked


async def test_a_task_that_matures_soon_starts_then_by_a_timer(engine: Engine, echo: Any) -> None:
    """SPEC WAK 46."""
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            (view,) = await running.ended(door.add(echo(), delay=0.3).id)
    assert view.started_at is not None
    assert view.started_at >= view.maturity_at


async def test_of_a_batch_the_earliest_maturity_wakes_and_the_rest_follows(engine: Engine, echo: Any) -> None:
    """SPEC WAK 46: one notification for all of them."""
    with engine.door() as door:
        async with idle(engine, poll=timedelta(milliseconds=200)) as running:
            added = door.add_many([echo(n=n) for n in range(4)], spacing=0.1)
            views = await running.ended(*[answer.id for answer in added])
    assert all(view.started_at is not None and view.started_at >= view.maturity_at for view in views)


async def test_what_comes_back_to_pending_is_announced(engine: Engine, echo: Any) -> None:
    """DESIGN 5: a reschedule, a resumed queue and a requeue wake runners as well as an enqueue."""
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            later = door.add(echo(), delay=NEVER).id
            door.reschedule(later)
            await running.ended(later)
            engine.do(steering.pause_queue("default", paused=True))
            held = door.add(echo()).id
            await asyncio.to_thread(door.get, held)
            engine.do(steering.resume_queue("default"))
            await running.ended(held)


async def test_a_notification_comes_when_the_callers_transaction_commits(engine: Engine, echo: Any) -> None:
    """SPEC ENQ 11: it rides in the same transaction."""
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            with psycopg.connect(engine.url) as conn:
                id_ = door.add(echo(), connection=conn).id
                conn.commit()
            await running.ended(id_)


async def test_a_listening_connection_that_the_server_ends_is_noticed_and_rebuilt(
    engine: Engine, echo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC WAK 46."""
    with engine.door() as door, caplog.at_level(logging.WARNING, "taskrunner.wake"):
        async with idle(engine, poll=NEVER) as running:
            first = running.seen[events.Listening][0].pid
            engine.value("SELECT pg_terminate_backend(%s)", first)
            second = (await running.until(events.Listening, 2))[1].pid
            assert second != first
            await running.ended(door.add(echo()).id)
    assert "polling until it is back" in caplog.text


async def test_a_listening_connection_that_goes_silent_is_noticed_and_rebuilt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC WAK 46; FAULTS F16: nothing closes it, nothing comes through."""
    monkeypatch.setattr("taskrunner.channel.CHECK", 0.2)
    async with Silencer(engine.url) as silencer:
        due: list[str] = []
        listener = Listener(
            silencer.url, who=uuid4, on_due=lambda hint: due.append(hint.queue), on_cancel=lambda _: None
        )
        heard = asyncio.Event()
        with events.on(events.Listening, lambda _: heard.set()):
            listening = asyncio.create_task(listener.listen())
            await asyncio.wait_for(heard.wait(), WAIT)
            heard.clear()
            silencer.silent = True
            await asyncio.wait_for(heard.wait(), WAIT)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert silencer.connections >= 2


async def test_a_notification_that_cannot_be_read_harms_nobody(engine: Engine, echo: Any) -> None:
    with engine.door() as door:
        async with idle(engine, poll=NEVER) as running:
            for payload in ("", "nonsense", "[]", '{"queue": 7}', '{"queue": "default", "due_in": "x"}', "null"):
                engine.value("SELECT pg_notify('taskrunner', %s)", payload)
                engine.value("SELECT pg_notify('taskrunner_cancel', %s)", payload)
            await running.ended(door.add(echo()).id)
            assert len(running.seen[events.Listening]) == 1


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_several_queues_are_all_served_while_one_is_never_empty(engine: Engine) -> None:
    """DESIGN 5: a claim is for one queue, and none starves."""

    @register_task("Busy", queue="busy")
    class Busy(Task):
        async def run(self) -> None: ...

    @register_task("Rare", queue="rare")
    class Rare(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        door.add_many([Busy() for _ in range(500)])
        async with engine.running(concurrency=5) as running:
            id_ = door.add(Rare()).id
            await running.ended(id_)
            ahead = len(running.seen[events.Started])
            await running.until(events.Settled, 501)
    assert ahead < 450
