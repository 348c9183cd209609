"""Decisions on their way to the database: none is lost, whatever comes while another is being written."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner import outbox as outbox_module
from taskrunner.attempt import Attempt
from taskrunner.crew import Crew
from taskrunner.db import Link, Op, Work
from taskrunner.effects import Effects
from taskrunner.errors import DatabaseUnreachable
from taskrunner.outbox import Outbox
from taskrunner.outcome import Bury, Finish, Release, Retry, Transition
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.statements import enqueue
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Cycle
from taskrunner.task import Task
from tests.engine import WAIT, Engine

pytestmark = pytest.mark.anyio

HOST: Any = None


class Wire:
    """The runner's connection; `meanwhile` is called before each write, as another asyncio task might be."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.loses = False
        self.meanwhile: list[Any] = []

    async def __call__(self, work: Work[Any]) -> Any:
        if self.meanwhile:
            self.meanwhile.pop()()
        answer = await self.link.run(work)
        if self.loses:
            self.loses = False
            raise DatabaseUnreachable("the reply is lost")
        return answer


async def test_the_last_word_on_progress_is_written_by_whom_writes_the_end_and_not_lost_with_a_connection(
    engine: Engine,
) -> None:
    """Two cycles: if one took the word of a task whose end the other writes, that end could be the quicker one."""
    engine.add(2)
    runner = engine.join()
    crew = Crew(
        Registry(),
        Settings(),
        recorder=None,
        effects=Effects("", Settings(), lambda: runner),  # no task here asks for any
        mark_suspect=HOST,
        changed=lambda: None,
        overrun=lambda: None,
    )
    outbox = Outbox(lambda attempt: None, crew.last_words)
    claims = engine.claim(runner, 2)
    for claim in claims:
        crew.progress[claim.id, claim.claim_no] = '{"done": 9}'
        outbox.put(Attempt(claim, HOST), Finish("succeeded"))
    letters = outbox.take()
    link = Link(engine.url, name="test")
    wire = Wire(link)
    try:
        wire.loses = True
        with pytest.raises(DatabaseUnreachable):
            await outbox.write_last_words(wire, runner, letters[:1])
        engine.conn.execute("UPDATE taskrunner.task SET progress = NULL")  # as if it was lost on its way there
        await outbox.write_last_words(wire, runner, letters[:1])
        assert [engine.view(claim.id).progress for claim in claims] == [{"done": 9}, None]
        await outbox.write_last_words(wire, runner, letters[1:])
        assert [engine.view(claim.id).progress for claim in claims] == [{"done": 9}] * 2
    finally:
        await link.close()


@pytest.mark.parametrize("decision", [Release(), Finish("succeeded")], ids=["release", "finish"])
async def test_a_decision_that_comes_while_one_on_an_older_claim_is_written_is_not_lost(
    engine: Engine, decision: Transition
) -> None:
    """SPEC CRA 36: the reply of a release was lost, the same runner claimed the task again, and that run has ended."""
    (id_,) = engine.add()
    runner = engine.join()
    (older,) = engine.claim(runner)
    settled: list[tuple[UUID, int]] = []
    outbox = Outbox(lambda attempt: settled.append((attempt.claim.id, attempt.claim.claim_no)))
    link = Link(engine.url, name="test")
    wire = Wire(link)
    try:
        outbox.put(Attempt(older, HOST), Release())
        wire.loses = True
        with pytest.raises(DatabaseUnreachable):
            await outbox.write_others(wire, runner)
        (newer,) = engine.claim(runner)
        wire.meanwhile.append(lambda: outbox.put(Attempt(newer, HOST), decision))
        await outbox.write_others(wire, runner)
        await _deliver(outbox, wire, runner)
    finally:
        await link.close()
    assert settled == [(id_, older.claim_no), (id_, newer.claim_no)]
    assert engine.do(store.unknown(runner, [])) == []
    assert engine.view(id_).state == ("pending" if decision == Release() else "succeeded")


async def test_a_finish_that_comes_while_another_of_the_same_task_is_written_is_not_taken_for_it(
    engine: Engine,
) -> None:
    engine.add()
    runner = engine.join()
    (older,) = engine.claim(runner)
    newer: Claimed = older._replace(claim_no=older.claim_no + 1)
    outbox = Outbox(lambda _: None)
    outbox.put(Attempt(older, HOST), Finish("succeeded"))
    sent = outbox.take()
    outbox.put(Attempt(newer, HOST), Finish("ignored"))
    await outbox.written(_unasked, runner, sent, [])
    assert [(letter.ending().claim_no, letter.ending().state) for letter in outbox.take()] == [(2, "ignored")]


async def test_a_finish_whose_fate_is_being_looked_up_is_in_nobody_elses_hands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36: the look-up may take longer than the pause before the next try."""
    monkeypatch.setattr(outbox_module, "_AGAIN", 0.0)
    engine.add()
    runner = engine.join()
    (claimed,) = engine.claim(runner)
    engine.finish(runner, claimed)
    settled: list[int] = []
    outbox = Outbox(lambda attempt: settled.append(attempt.claim.claim_no))
    outbox.put(Attempt(claimed, HOST), Finish("succeeded"))
    sent = outbox.take()
    link = Link(engine.url, name="test")

    async def slow(work: db.Work[Any]) -> Any:
        assert outbox.take() == [], "the other lane wants something to write meanwhile"
        return await link.run(work)

    try:
        await outbox.written(slow, runner, sent, [(claimed.id, claimed.claim_no)])
    finally:
        await link.close()
    assert settled == [claimed.claim_no]
    assert outbox.take() == []


# ── what the database refuses ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("decision", [Retry(timedelta(), {"message": "no"}), Release(), Bury(({"message": "no"},))])
async def test_one_row_whose_end_is_refused_holds_up_nobody_elses(engine: Engine, decision: Transition) -> None:
    """FAULTS I1: a value that somebody's hand put there fails its own statement alone, and that is tried again."""
    ids = engine.add(9)
    runner = engine.join()
    claims = engine.claim(runner, 9)
    bad = sorted(ids)[4]
    bad_row = "payload = '{\"bad\": 1}'"
    for table, but in (("task", " OR state = 'running'"), ("dead_letter", "")):
        engine.conn.execute(f"ALTER TABLE taskrunner.{table} ADD CONSTRAINT planted CHECK (NOT {bad_row}{but})")  # type: ignore[arg-type]
    engine.conn.execute(f"UPDATE taskrunner.task SET {bad_row} WHERE id = %s", [bad])  # type: ignore[arg-type]
    settled: list[UUID] = []
    outbox = Outbox(lambda attempt: settled.append(attempt.claim.id))
    link = Link(engine.url, name="test")
    try:
        for claim in claims:
            outbox.put(Attempt(claim, HOST), decision)
        await outbox.write_others(link.run, runner)
        assert sorted(settled) == sorted(set(ids) - {bad})
        assert engine.do(store.unknown(runner, [])) == [(bad, 1)]
        for table in ("task", "dead_letter"):
            engine.conn.execute(f"ALTER TABLE taskrunner.{table} DROP CONSTRAINT planted")  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT):
            while bad not in settled:
                await asyncio.sleep(0.01)  # the pause before it is tried again is the outbox's own
                await outbox.write_others(link.run, runner)
    finally:
        await link.close()
    assert engine.do(store.unknown(runner, [])) == []


async def test_a_finish_that_is_refused_stops_no_claim_and_no_other_finish(engine: Engine) -> None:
    """FAULTS I1: the cycle would write all of them or none, again and again."""

    @register_task("Noted")
    class Noted(Task):
        number: int

        async def run(self) -> None: ...

    engine.conn.execute(
        "ALTER TABLE taskrunner.task_history ADD CONSTRAINT planted CHECK ((payload ->> 'number') <> '7') NOT VALID"
    )
    with engine.door() as door:
        ids = [door.add(Noted(number=number)).id for number in range(20)]
        async with engine.running() as running:
            await running.ended(*ids[:7], *ids[8:])
            more = door.add(Noted(number=100)).id
            await running.ended(more)
            assert engine.view(ids[7]).state == "running"
            engine.conn.execute("ALTER TABLE taskrunner.task_history DROP CONSTRAINT planted")
            (view,) = await running.ended(ids[7])
            assert view.state == "succeeded"
            assert running.runs(ids[7]) == 1


async def test_what_is_pending_again_is_told_also_if_the_rest_of_its_batch_fails(engine: Engine) -> None:
    """Else nobody would be woken, and this runner's floors would hide it until the next survey."""
    ids = engine.add(2)
    runner = engine.join()
    first, second = engine.claim(runner, 2)
    outbox = Outbox(lambda _: None)
    link = Link(engine.url, name="test")
    wire = Wire(link)
    try:
        outbox.put(Attempt(first, HOST), Retry(timedelta(), {"message": "no"}))
        outbox.put(Attempt(second, HOST), Release())
        wire.meanwhile.append(
            lambda: setattr(wire, "loses", True)
        )  # with the second write: the last one is popped first
        wire.meanwhile.append(lambda: None)
        with pytest.raises(DatabaseUnreachable):
            await outbox.write_others(wire, runner)
        back = await outbox.write_others(wire, runner)
    finally:
        await link.close()
    assert first.id in {task.id for task in back} <= set(ids)


async def test_a_word_that_cannot_be_sent_fails_nothing(engine: Engine) -> None:
    """DESIGN 5: NOTIFY is never required; the cycle of a runner that may not send one goes on."""
    ids = engine.add(2)
    runner = engine.join()
    outbox = Outbox(lambda _: None)
    link = Link(engine.url, name="test")

    async def mute(work: Any) -> Any:
        if isinstance(work, Op) and work.sql == enqueue.WORD:
            raise psycopg.errors.InsufficientPrivilege("permission denied for function pg_notify")
        return await link.run(work)

    try:
        for claim in engine.claim(runner, 2):
            outbox.put(Attempt(claim, HOST), Retry(timedelta(), {"message": "no"}))
            assert [task.id for task in await outbox.write_others(mute, runner)] == [claim.id]
        assert await outbox.write_others(mute, runner) == []
    finally:
        await link.close()
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE state = 'pending' AND id = ANY(%s)", ids) == 2


async def _deliver(outbox: Outbox, wire: Wire, runner: UUID) -> None:
    letters = outbox.take()
    cycled = await wire(store.cycle(Cycle(runner, [letter.ending() for letter in letters])))
    await outbox.written(wire, runner, letters, cycled.left)
    await outbox.write_others(wire, runner)


async def _unasked(work: db.Work[Any]) -> Any:
    raise AssertionError(f"nothing was left to ask: {work}")
