"""The janitor beside a working queue: it holds up no finish, and removes what is past its time and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from taskrunner import janitor
from taskrunner.db import Link, aconnect, connect, run
from taskrunner.leases import rescue_dead
from taskrunner.settings import Settings
from taskrunner.store import enqueue, history, runner
from taskrunner.store import task as tasks
from taskrunner.store.enqueue import NewTask
from taskrunner.store.runner import Process
from taskrunner.store.task import Cycle, Ending, Started
from taskrunner.testing.database import Database
from tests.engine import claim as claim_due

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LEASE = timedelta(seconds=15)
SETTINGS = Settings()
TODAY = Settings.model_construct(**{**dict(SETTINGS), "partitions_ahead": 0})


def days(first: date, count: int) -> list[str]:
    """The names of so many daily partitions."""
    return [history.name_of(first + DAY * n) for n in range(count)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def link(taskrunner_db: Database) -> AsyncIterator[Link]:
    taskrunner_db.freeze(NOON)
    fresh = Link(taskrunner_db.url, name="test janitor")
    yield fresh
    await fresh.close()


def a_runner(database: Database) -> UUID:
    id_ = uuid4()
    with connect(database.url) as conn:
        run(conn, runner.join(Process(id_, "runner", "host", 1, (), ("T",), 1, "1"), LEASE))
    return id_


def claimed(database: Database, runner_id: UUID, count: int = 1) -> list[tuple[UUID, int]]:
    """Add `count` tasks and claim them for the runner."""
    with connect(database.url) as conn:
        run(conn, enqueue.add([NewTask(uuid7(), "T", "{}", "default") for _ in range(count)]))
        return [(task.id, task.claim_no) for task in claim_due(conn, runner_id, count)]


def finish(database: Database, runner_id: UUID, claims: list[tuple[UUID, int]]) -> None:
    """Finish the claims as a runner does, who waits for nobody's lock for long."""
    with connect(database.url) as conn:
        conn.execute("SET lock_timeout = '2s'")
        cycled = run(conn, tasks.cycle(Cycle(runner_id, [Ending(id_, number) for id_, number in claims])))
        assert cycled.left == []


def fetch(database: Database, query: str, *values: Any) -> list[Any]:
    with database.connect() as conn:
        return conn.execute(query, values).fetchall()  # type: ignore[arg-type]  # literals


def partition_names(database: Database) -> list[str]:
    return [
        name
        for (name,) in fetch(
            database,
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'taskrunner.task_history'::regclass ORDER BY 1",
        )
    ]


# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_partitions_are_there_thirty_days_ahead_and_tasks_end_in_them(
    link: Link, taskrunner_db: Database
) -> None:
    """SPEC HIS 52."""
    done = await janitor.partitions(link, SETTINGS)
    assert done.created == days(date(2026, 3, 1), 31)
    assert partition_names(taskrunner_db) == ["task_history_default", *done.created]
    runner_id = a_runner(taskrunner_db)
    finish(taskrunner_db, runner_id, claimed(taskrunner_db, runner_id, 3))
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history_p20260301") == [(3,)]
    assert (await janitor.partitions(link, SETTINGS)).created == []


async def test_a_task_that_ends_without_a_partition_is_moved_into_its_own_later(
    link: Link, taskrunner_db: Database
) -> None:
    """SPEC HIS 52."""
    runner_id = a_runner(taskrunner_db)
    claims = claimed(taskrunner_db, runner_id, 3)
    finish(taskrunner_db, runner_id, claims)
    done = await janitor.partitions(link, SETTINGS)
    assert done.moved == 3
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history_default") == [(0,)]
    rows = fetch(taskrunner_db, "SELECT id FROM taskrunner.task_history_p20260301")
    assert {id_ for (id_,) in rows} == {id_ for id_, _ in claims}


@pytest.mark.usefixtures("link")
async def test_janitors_at_once_are_harmless_and_one_of_them_does_all(taskrunner_db: Database) -> None:
    """SPEC HIS 52."""
    others = [Link(taskrunner_db.url, name=f"janitor {n}") for n in range(3)]
    rounds = await asyncio.gather(*(janitor.maintain(each, SETTINGS) for each in others))
    for each in others:
        await each.close()
    created = [day for done in rounds for day in done.created]
    assert len(created) == len(set(created)) == len(partition_names(taskrunner_db)) - 1 == 31


@pytest.mark.parametrize("work", ["create", "drop", "archive"])
async def test_a_long_reader_keeps_the_janitor_waiting_and_no_finish(
    link: Link, taskrunner_db: Database, work: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SPEC HIS 52: nobody queues behind the janitor, who waits for its lock longer than a finish here would."""
    await janitor.partitions(link, SETTINGS)
    taskrunner_db.travel(10 * DAY)
    monkeypatch.setattr(janitor, "PAUSES", (0.05, 0.05, 0.05))
    monkeypatch.setattr(janitor, "PATIENCE", timedelta(seconds=3))
    runner_id = a_runner(taskrunner_db)
    claims = claimed(taskrunner_db, runner_id, 40)
    settings = Settings(history_retention=DAY, archive_dir=tmp_path if work == "archive" else None)
    reader = await aconnect(taskrunner_db.url)
    async with reader.transaction():
        await reader.execute("SELECT count(*) FROM taskrunner.task_history")
        round_ = janitor.partitions(link, SETTINGS) if work == "create" else janitor.retention(link, settings)
        janitors = asyncio.create_task(round_)
        finished = 0
        while not janitors.done() and claims:
            await asyncio.to_thread(finish, taskrunner_db, runner_id, [claims.pop()])
            finished += 1
            await asyncio.sleep(0)
        done = await janitors
    await reader.close()
    assert len(done.blocked) == (10 if work == "create" else 9)
    assert finished >= 3
    again = await (janitor.partitions(link, SETTINGS) if work == "create" else janitor.retention(link, settings))
    assert again.blocked == []
    assert len(again.created if work == "create" else again.dropped) >= 9


async def test_a_finish_on_its_way_into_default_does_not_fail_when_its_partition_comes(
    link: Link, taskrunner_db: Database
) -> None:
    """SPEC HIS 52. Its row would have waited for DEFAULT's lock, to find that it does not belong there any more."""
    runner_id = a_runner(taskrunner_db)
    for day in range(5):
        taskrunner_db.freeze(NOON + day * DAY)
        runner_id = a_runner(taskrunner_db)
        claims = claimed(taskrunner_db, runner_id, 8)
        finishes = [asyncio.to_thread(finish, taskrunner_db, runner_id, [claim]) for claim in claims]
        await asyncio.gather(janitor.partitions(link, TODAY), *finishes)
        await janitor.partitions(link, TODAY)
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history") == [(40,)]
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history_default") == [(0,)]


async def test_a_busy_queue_does_not_keep_partitions_from_being_made_and_dropped(
    link: Link, taskrunner_db: Database
) -> None:
    """SPEC HIS 52."""
    await janitor.partitions(link, SETTINGS)
    taskrunner_db.travel(40 * DAY)
    runner_id = a_runner(taskrunner_db)
    claims = [claimed(taskrunner_db, runner_id, 30) for _ in range(2)]
    stop = asyncio.Event()

    async def finish_on_and_on(mine: list[tuple[UUID, int]]) -> None:
        while not stop.is_set() and mine:
            await asyncio.to_thread(finish, taskrunner_db, runner_id, [mine.pop()])

    busy = [asyncio.create_task(finish_on_and_on(mine)) for mine in claims]
    done = await janitor.partitions(link, SETTINGS)
    done = await janitor.retention(link, SETTINGS, done)
    stop.set()
    await asyncio.gather(*busy)
    assert done.blocked == []
    assert len(done.created) == 31
    assert done.dropped == days(date(2026, 3, 1), 10)
    ended = fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history")[0][0]
    assert ended == 60 - sum(map(len, claims))


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retention_drops_whole_days_that_are_older_than_it_and_keeps_the_rest(
    link: Link, taskrunner_db: Database
) -> None:
    """SPEC HIS 52."""
    await janitor.partitions(link, SETTINGS)
    runner_id = a_runner(taskrunner_db)
    finish(taskrunner_db, runner_id, claimed(taskrunner_db, runner_id))
    taskrunner_db.freeze(NOON + 30 * DAY)
    assert (await janitor.retention(link, SETTINGS)).dropped == []
    taskrunner_db.freeze(NOON + 31 * DAY)
    assert (await janitor.retention(link, SETTINGS)).dropped == days(NOON.date(), 1)
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.task_history") == [(0,)]


async def test_dead_letters_stay_until_they_are_requeued_and_old(link: Link, taskrunner_db: Database) -> None:
    """SPEC HIS 52, RTY 32."""
    for requeued_as, age in [(None, 99), (uuid4(), 99), (uuid4(), 1)]:
        dead_letter(taskrunner_db, uuid4(), NOON - age * DAY, requeued_as)
    done = await janitor.retention(link, SETTINGS)
    assert done.deleted["requeued"] == 1
    left = fetch(taskrunner_db, "SELECT requeued_as IS NULL, finished_at FROM taskrunner.dead_letter ORDER BY 2")
    assert left == [(True, NOON - 99 * DAY), (False, NOON - DAY)]


def dead_letter(database: Database, id_: UUID, at: datetime, requeued_as: UUID | None = None) -> None:
    fetch(
        database,
        """INSERT INTO taskrunner.dead_letter (id, finished_at, maturity_at, created_at, claim_no, priority, tries,
                  crashes, max_retries, tenant, queue, type, payload, meta, errors, requeued_as)
           VALUES (%s, %s, %s, %s, 1, 100, 3, 0, 3, 'default', 'default', 'T', '{}', '{}', '[]', %s) RETURNING 1""",
        id_,
        at,
        at,
        at,
        requeued_as,
    )


async def test_expired_keys_and_old_figures_go_and_the_others_stay(link: Link, taskrunner_db: Database) -> None:
    """SPEC UNQ 16, HIS 52."""
    for key, expires_at in [("old", NOON - DAY), ("new", NOON + DAY)]:
        fetch(
            taskrunner_db,
            "INSERT INTO taskrunner.idempotency_key VALUES ('default', 'T', %s, %s, %s) RETURNING 1",
            key,
            uuid4(),
            expires_at,
        )
    for minute in (NOON - 31 * DAY, NOON - 29 * DAY):
        fetch(
            taskrunner_db,
            "INSERT INTO taskrunner.task_stats"
            " VALUES (%s, %s, 'default', 'default', 'T', 'succeeded', 1, 0, 0, '{}', '{}') RETURNING 1",
            minute,
            uuid4(),
        )
    done = await janitor.retention(link, SETTINGS)
    assert (done.deleted["keys"], done.deleted["stats"]) == (1, 1)
    assert fetch(taskrunner_db, "SELECT key FROM taskrunner.idempotency_key") == [("new",)]
    assert fetch(taskrunner_db, "SELECT minute FROM taskrunner.task_stats") == [(NOON - 29 * DAY,)]


async def test_logs_and_effects_go_with_their_task_and_not_before(link: Link, taskrunner_db: Database) -> None:
    """SPEC HIS 52, ONC 56."""
    live, dead, gone = uuid7(), uuid4(), uuid4()
    with connect(taskrunner_db.url) as conn:
        run(conn, enqueue.add([NewTask(live, "T", "{}", "default")]))
    dead_letter(taskrunner_db, dead, NOON - 99 * DAY)
    for id_ in (live, dead, gone):
        fetch(
            taskrunner_db,
            "INSERT INTO taskrunner.task_log (task_id, claim_no, logged_at, level, message)"
            " VALUES (%s, 1, %s, 'INFO', 'line') RETURNING 1",
            id_,
            NOON - 99 * DAY,
        )
        fetch(
            taskrunner_db,
            "INSERT INTO taskrunner.effect (task_id, key, claim_no, done_at) VALUES (%s, 'paid', 1, %s) RETURNING 1",
            id_,
            NOON - 99 * DAY,
        )
    done = await janitor.retention(link, SETTINGS)
    assert (done.deleted["logs"], done.deleted["effects"]) == (1, 1)
    for table in ("task_log", "effect"):
        assert {id_ for (id_,) in fetch(taskrunner_db, f"SELECT task_id FROM taskrunner.{table}")} == {live, dead}


async def test_dependencies_go_with_the_child_and_not_before(link: Link, taskrunner_db: Database) -> None:
    """SPEC HIS 52, FLO 57."""
    live, ended, dead, gone, young = old_id(1), old_id(2), old_id(3), old_id(4), uuid7()
    with connect(taskrunner_db.url) as conn:
        run(conn, enqueue.add([NewTask(live, "T", "{}", "default")]))
    dead_letter(taskrunner_db, dead, NOON - 99 * DAY)
    fetch(
        taskrunner_db,
        "INSERT INTO taskrunner.task_history (id, finished_at, maturity_at, created_at, claim_no, priority, tries,"
        " crashes, max_retries, tenant, queue, type, state, payload, meta, errors)"
        " VALUES (%s, %s, %s, %s, 1, 1, 0, 0, 3, 'default', 'default', 'T', 'succeeded', '{}', '{}', '[]') RETURNING 1",
        ended,
        *[NOON] * 3,
    )
    for child in (live, ended, dead, gone, young):
        fetch(
            taskrunner_db,
            "INSERT INTO taskrunner.dependency (parent_id, child_id) VALUES (%s, %s) RETURNING 1",
            old_id(9),
            child,
        )
    done = await janitor.retention(link, SETTINGS)
    assert done.deleted["dependencies"] == 1
    kept = fetch(taskrunner_db, "SELECT child_id FROM taskrunner.dependency")
    assert {id_ for (id_,) in kept} == {live, ended, dead, young}


def old_id(number: int) -> UUID:
    """Return a UUIDv7 that was made a hundred days ago."""
    made = round((NOON - 100 * DAY).timestamp() * 1000)
    return UUID(int=made << 80 | 7 << 76 | 2 << 62 | number)


async def test_more_rows_than_one_deletion_takes_all_go(
    link: Link, taskrunner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 10)
    fetch(
        taskrunner_db,
        "INSERT INTO taskrunner.idempotency_key SELECT 'default', 'T', 'k' || n, gen_random_uuid(), %s"
        "  FROM generate_series(1, 25) n RETURNING 1",
        NOON - DAY,
    )
    assert (await janitor.retention(link, SETTINGS)).deleted["keys"] == 25


# ── rescue ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_tasks_of_every_dead_runner_come_back_and_its_row_goes(link: Link, taskrunner_db: Database) -> None:
    """SPEC CRA 33."""
    runners = [a_runner(taskrunner_db) for _ in range(3)]
    claims = [claimed(taskrunner_db, runner_id, 2) for runner_id in runners]
    with connect(taskrunner_db.url) as conn:
        for runner_id, ((id_, number), _) in zip(runners, claims, strict=True):
            run(conn, tasks.cycle(Cycle(runner_id, started=[Started(id_, number, 0.0)])))
    assert await rescue_dead(link.run, 3) == []
    taskrunner_db.travel(LEASE + timedelta(seconds=1))
    rescued = await rescue_dead(link.run, 3)
    assert sorted(task.verdict for task in rescued) == ["charged"] * 3 + ["released"] * 3
    assert fetch(taskrunner_db, "SELECT DISTINCT state FROM taskrunner.task") == [("pending",)]
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.runner") == [(0,)]


async def test_tasks_of_a_runner_that_is_not_registered_come_back_too(link: Link, taskrunner_db: Database) -> None:
    """SPEC CRA 33."""
    runner_id = a_runner(taskrunner_db)
    claimed(taskrunner_db, runner_id, 2)
    fetch(taskrunner_db, "DELETE FROM taskrunner.runner RETURNING 1")
    assert [task.verdict for task in await rescue_dead(link.run, 3)] == ["released"] * 2


async def test_a_task_that_somebody_has_locked_is_rescued_in_a_later_round(link: Link, taskrunner_db: Database) -> None:
    """SPEC CLM 23, CRA 33."""
    claimed(taskrunner_db, a_runner(taskrunner_db), 2)
    taskrunner_db.travel(LEASE + timedelta(seconds=1))
    with taskrunner_db.connect() as stranger, stranger.transaction():
        stranger.execute("SELECT id FROM taskrunner.task ORDER BY id LIMIT 1 FOR UPDATE")
        assert len(await rescue_dead(link.run, 3)) == 1
    assert len(await rescue_dead(link.run, 3)) == 1
    assert fetch(taskrunner_db, "SELECT count(*) FROM taskrunner.runner") == [(0,)]
