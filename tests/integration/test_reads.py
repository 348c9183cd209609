"""What people look at, read from a real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import reads
from taskrunner.db import arun, connect, run
from taskrunner.reads import TaskFilter
from taskrunner.states import State
from taskrunner.store import enqueue, steering
from taskrunner.store import runner as runners
from taskrunner.store import task as store
from taskrunner.testing.database import Database
from tests.engine import claim as claim_due

LEASE = timedelta(seconds=15)


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(taskrunner_db.url) as connection:
        yield connection


def add(conn: psycopg.Connection[Any], count: int = 1, **fields: Any) -> list[UUID]:
    """Enqueue tasks, oldest id first."""
    tasks = [
        enqueue.NewTask(**{"id": uuid7(), "type": "Mail", "payload": "{}", "queue": "default", **fields})
        for _ in range(count)
    ]
    return [enqueued.id for enqueued in run(conn, enqueue.add(tasks))]


def join(conn: psycopg.Connection[Any], *types: str, queues: tuple[str, ...] = ("default",)) -> UUID:
    process = runners.Process(uuid7(), "runner", "host", 1, queues, types, 5, "0.1")
    return run(conn, runners.join(process, LEASE))[0]


def finish(conn: psycopg.Connection[Any], runner: UUID, *, state: str = "succeeded", type_: str = "Mail") -> UUID:
    """Claim the next task and end it."""
    claimed = claim_due(conn, runner, 1, [type_])[0]
    ending = store.Ending(claimed.id, claimed.claim_no, 0.1, 0.1, state, '{"ok": true}')
    run(conn, store.cycle(store.Cycle(runner, [ending])))
    return claimed.id


def bury(conn: psycopg.Connection[Any], runner: UUID) -> UUID:
    claimed = claim_due(conn, runner, 1, ["Mail"])[0]
    run(
        conn,
        store.bury(runner, [store.Ending(claimed.id, claimed.claim_no, detail='[{"message": "no", "traceback": ""}]')]),
    )
    return claimed.id


def every_state(conn: psycopg.Connection[Any]) -> dict[State, UUID]:
    """Make one task in each of the states, in the order of their ids, and return them."""
    runner = join(conn, "Mail")
    made: dict[State, UUID] = {}
    for state in (State.SUCCEEDED, State.IGNORED):
        add(conn)
        made[state] = finish(conn, runner, state=state)
    made[State.CANCELLED] = add(conn)[0]
    run(conn, steering.cancel(made[State.CANCELLED]))
    add(conn)
    made[State.DEAD] = bury(conn, runner)
    made[State.RUNNING] = add(conn)[0]
    claim_due(conn, runner, 1, ["Mail"])
    made[State.BLOCKED], made[State.PENDING] = add(conn, 2)
    conn.execute("UPDATE taskrunner.task SET state = 'blocked' WHERE id = %s", [made[State.BLOCKED]])
    return made


def listed(conn: psycopg.Connection[Any], **wanted: Any) -> list[UUID]:
    return [task.id for task in run(conn, reads.list_tasks(TaskFilter(**wanted))).items]


def test_a_task_is_found_in_whatever_state_it_is(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    for state, id_ in every_state(conn).items():
        task = run(conn, reads.task_by_id(id_))
        assert task is not None
        assert (task.id, task.state) == (id_, state)
    assert run(conn, reads.task_by_id(uuid7())) is None


def test_a_shown_task_has_its_result_its_times_and_its_errors(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49, RTY 32."""
    made = every_state(conn)
    done, dead = (run(conn, reads.task_by_id(made[state])) for state in (State.SUCCEEDED, State.DEAD))
    assert done is not None
    assert done.result == {"ok": True}
    assert done.started_at is not None
    assert done.finished_at is not None
    assert dead is not None
    assert [error["message"] for error in dead.errors] == ["no"]
    assert dead.result is None


def test_a_list_holds_all_states_newest_first(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    made = every_state(conn)
    assert listed(conn) == sorted(made.values(), reverse=True)


@pytest.mark.parametrize("state", State)
def test_a_list_of_one_state_has_only_that(conn: psycopg.Connection[Any], state: State) -> None:
    """SPEC OPS 49."""
    made = every_state(conn)
    assert listed(conn, state=state) == [made[state]]


def test_pages_follow_each_other_without_gap_or_repeat_while_tasks_are_added_and_end(
    conn: psycopg.Connection[Any],
) -> None:
    """SPEC OPS 49: stable keyset cursors."""
    ids = sorted(add(conn, 25), reverse=True)
    runner = join(conn, "Mail")
    seen = listed(conn, limit=10)
    while page := listed(conn, limit=10, after=seen[-1]):
        seen += page
        add(conn)
        finish(conn, runner)
    assert seen == ids


def test_filters_narrow_a_list(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    mail = add(conn)[0]
    report = add(conn, type="Report", queue="slow", tenant="acme")[0]
    assert listed(conn, type="Report") == listed(conn, queue="slow") == listed(conn, tenant="acme") == [report]
    assert listed(conn, type="Mail", queue="default", tenant="default") == [mail]
    assert listed(conn, type="Mail", queue="slow") == []


def test_since_leaves_out_what_was_created_before(conn: psycopg.Connection[Any], taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    runner = join(conn, "Mail")
    old = add(conn, 2)
    finish(conn, runner)
    taskrunner_db.travel(timedelta(days=2))
    new = add(conn)[0]
    assert listed(conn, since=taskrunner_db.now() - timedelta(days=1)) == [new]
    assert len(listed(conn, since=taskrunner_db.now() - timedelta(days=3))) == len(old) + 1


def test_a_requeued_dead_letter_leaves_the_lists_and_can_still_be_shown(conn: psycopg.Connection[Any]) -> None:
    """SPEC RTY 32."""
    add(conn)
    dead = bury(conn, join(conn, "Mail"))
    assert [letter.id for letter in run(conn, reads.dead_letters(TaskFilter())).items] == [dead]
    fresh = run(conn, steering.requeue(dead, uuid7()))
    assert run(conn, reads.dead_letters(TaskFilter())).items == []
    assert listed(conn) == [fresh]
    kept = run(conn, reads.dead_letters(TaskFilter(), requeued=True)).items
    assert [(letter.id, letter.requeued_as) for letter in kept] == [(dead, fresh)]
    letter = run(conn, reads.dead_letter_by_id(dead))
    assert letter is not None
    assert letter.requeued_as == fresh


def test_status_of_an_empty_database_is_zeros(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49: zero-filled states."""
    status = run(conn, reads.status())
    assert set(status.tasks.model_dump().values()) == {0}
    assert (status.types, status.queues, status.runners, status.schedules) == ([], [], [], [])


def test_status_counts_every_state_by_type(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    every_state(conn)
    add(conn, delay=timedelta(hours=1), type="Report")
    status = run(conn, reads.status())
    counts = status.tasks.model_dump()
    assert counts == {
        "pending": 2, "due": 1, "running": 1, "blocked": 1, "retrying": 0,
        "succeeded": 1, "ignored": 1, "cancelled": 1, "dead": 1,
    }  # fmt: skip
    assert [(one.type, one.pending, one.due) for one in status.types] == [("Mail", 1, 1), ("Report", 1, 0)]
    assert run(conn, reads.stats()) == counts


def test_status_counts_a_waiting_retry_as_retrying_and_pending(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    add(conn)
    runner = join(conn, "Mail")
    claimed = claim_due(conn, runner, 1, ["Mail"])[0]
    error = '{"message": "no", "traceback": ""}'
    run(conn, store.retry(runner, [store.Ending(claimed.id, claimed.claim_no, detail=error, delay=60)]))
    counts = run(conn, reads.stats())
    assert (counts["pending"], counts["retrying"], counts["due"]) == (1, 1, 0)


def test_what_ended_counts_for_a_day_and_the_dead_for_good(
    conn: psycopg.Connection[Any], taskrunner_db: Database
) -> None:
    """SPEC OPS 49."""
    every_state(conn)
    taskrunner_db.travel(timedelta(hours=25))
    counts = run(conn, reads.stats())
    assert [counts[state] for state in ("succeeded", "ignored", "cancelled", "dead")] == [0, 0, 0, 1]


def test_the_age_of_the_oldest_due_task_is_told(conn: psycopg.Connection[Any], taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    add(conn)
    taskrunner_db.travel(timedelta(minutes=5))
    add(conn)
    status = run(conn, reads.status())
    assert status.types[0].oldest_due_seconds == pytest.approx(300, abs=30)
    assert status.queues[0].oldest_due_seconds == pytest.approx(300, abs=30)


def test_a_type_that_no_live_process_knows_is_unregistered(
    conn: psycopg.Connection[Any], taskrunner_db: Database
) -> None:
    """SPEC CLM 21."""
    add(conn)
    add(conn, type="Gone")
    join(conn, "Mail", "Idle")
    by_type = {one.type: one.unregistered for one in run(conn, reads.status()).types}
    assert by_type == {"Mail": False, "Gone": True, "Idle": False}
    taskrunner_db.travel(LEASE * 2)
    by_type = {one.type: one.unregistered for one in run(conn, reads.status()).types}
    assert by_type == {"Mail": True, "Gone": True}


def test_a_runner_whose_lease_is_over_is_shown_dead_after_the_live_ones(
    conn: psycopg.Connection[Any], taskrunner_db: Database
) -> None:
    """SPEC OPS 49: dead runners."""
    gone = join(conn, "Mail")
    taskrunner_db.travel(LEASE * 2)
    live = join(conn, "Mail")
    found = run(conn, reads.runners())
    assert [(runner.id, runner.alive) for runner in found] == [(live, True), (gone, False)]
    assert found[1].lease_seconds == pytest.approx(-15, abs=10)
    assert run(conn, reads.live_runners()) == 1


def test_queues_come_from_tasks_settings_and_runners(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    add(conn, 3, queue="mail")
    add(conn, queue="mail", delay=timedelta(hours=1))
    run(conn, steering.pause_queue("stopped", paused=True))
    join(conn, "Mail", queues=("mail", "idle"))
    found = {queue.name: queue for queue in run(conn, reads.queues())}
    assert sorted(found) == ["idle", "mail", "stopped"]
    assert (found["mail"].pending, found["mail"].due, found["mail"].runners, found["mail"].paused) == (4, 3, 1, False)
    assert (found["stopped"].paused, found["idle"].runners) == (True, 1)


def test_a_schedule_of_a_type_that_no_live_process_knows_is_orphaned(conn: psycopg.Connection[Any]) -> None:
    """SPEC SCH 40."""
    add_schedule(conn, "nightly", "Mail", "cron 0 3 * * *")
    add_schedule(conn, "old", "Gone", "a newer release's rule")
    join(conn, "Mail")
    found = {schedule.name: schedule for schedule in run(conn, reads.schedules())}
    assert (found["nightly"].orphaned, found["old"].orphaned) == (False, True)
    assert found["old"].description == "a newer release's rule"
    assert run(conn, reads.schedule_named("nightly")) == found["nightly"]
    assert run(conn, reads.schedule_named("nightly", "acme")) is None


def test_the_next_tick_of_a_type_is_that_of_its_schedules_that_are_not_paused(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49."""
    soon, later = (datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2))
    add_schedule(conn, "soon", "Mail", "cron 0 3 * * *", next_tick_at=soon, paused=True)
    add_schedule(conn, "later", "Mail", "cron 0 3 * * *", next_tick_at=later)
    assert [one.next_tick_at for one in run(conn, reads.status()).types] == [later]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_asynchronous_pump_reads_the_same(conn: psycopg.Connection[Any], taskrunner_db: Database) -> None:
    made = every_state(conn)
    async with await psycopg.AsyncConnection.connect(taskrunner_db.url, autocommit=True) as link:
        assert [task.id for task in (await arun(link, reads.list_tasks(TaskFilter()))).items] == sorted(
            made.values(), reverse=True
        )
        assert await arun(link, reads.stats()) == run(conn, reads.stats())


def add_schedule(conn: psycopg.Connection[Any], name: str, type_: str, trigger: str, **fields: Any) -> None:
    conn.execute(
        """INSERT INTO taskrunner.schedule (id, name, type, trigger, next_tick_at, paused, created_at)
           VALUES (%s, %s, %s, %s, %s, %s, now())""",
        [uuid7(), name, type_, trigger, fields.get("next_tick_at"), fields.get("paused", False)],
    )
