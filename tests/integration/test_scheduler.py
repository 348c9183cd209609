"""Whole schedulers, one or many, in this process and in others, killed and cut off: the ticks come out even."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from taskrunner import AsyncTaskQueue, Task, declared, duties, register_task
from taskrunner import scheduler as scheduling
from taskrunner.db import aconnect, arun, connect, run
from taskrunner.errors import PayloadInvalid, UnknownType
from taskrunner.registry import Registry, discover, isolated
from taskrunner.scheduler import Scheduler
from taskrunner.settings import Settings
from taskrunner.store import enqueue, runner, timetable
from taskrunner.store.enqueue import NewTask
from taskrunner.store.runner import Process
from taskrunner.store.schedule import Template
from taskrunner.store.timetable import NewSchedule
from taskrunner.testing.database import Database
from taskrunner.triggers import parse
from tests.engine import claim as claim_due

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SETTINGS = Settings(poll=timedelta(milliseconds=20), heartbeat=timedelta(milliseconds=100))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": False}


both_loops = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": uvloop}) for uvloop in (False, True)], ids=["asyncio", "uvloop"]
)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with isolated() as fresh:
        yield fresh


def register(count: int, frequency: Any = 60, **options: Any) -> None:
    for n in range(count):

        class Job(Task):
            async def run(self) -> None: ...

        register_task(f"T{n:02}", frequency, **options)(Job)


@asynccontextmanager
async def running(url: str, registry: Registry, settings: Settings = SETTINGS) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(url, registry, settings)
    run_ = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        scheduler.stop()
        await asyncio.wait_for(run_, 30)


async def until(true: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Look at the outside world until it is so."""
    end = time.monotonic() + seconds
    while not (await answer if isinstance(answer := true(), Awaitable) else answer):
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


def fetch(database: Database, query: str, *values: Any) -> list[Any]:
    with database.connect() as conn:
        return conn.execute(query, values).fetchall()  # type: ignore[arg-type]  # literals


def count(database: Database) -> int:
    return int(fetch(database, "SELECT count(*) FROM taskrunner.task")[0][0])


def assert_ticked(database: Database, schedules: int, rounds: int) -> None:
    """FAULTS I6: the set of (schedule, due time) equals the reference."""
    rows = fetch(
        database,
        "SELECT s.name, t.tick_at FROM taskrunner.task t JOIN taskrunner.schedule s ON s.id = t.schedule_id",
    )
    assert sorted(rows) == [(f"T{n:02}", NOON + step * MINUTE) for n in range(schedules) for step in range(rounds)]


# ── exactly once ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_three_schedulers_turn_a_thousand_due_times_into_a_thousand_tasks(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC SCH 38; FAULTS F8."""
    taskrunner_db.freeze(NOON)
    register(50)
    url = taskrunner_db.url
    async with running(url, registry), running(url, registry), running(url, registry):
        for step in range(20):
            await until(lambda done=(step + 1) * 50: count(taskrunner_db) >= done)
            if step < 19:
                taskrunner_db.travel(MINUTE)
    assert_ticked(taskrunner_db, 50, 20)


PROCESS = """
import asyncio, sys
from datetime import timedelta
from taskrunner import Task, register_task
from taskrunner.registry import registry
from taskrunner.scheduler import Scheduler
from taskrunner.settings import Settings

for n in range(10):
    class Job(Task):
        async def run(self): ...
    register_task(f"T{n:02}", 60)(Job)
asyncio.run(Scheduler(sys.argv[1], registry, Settings(poll=timedelta(milliseconds=10))).run())
"""


async def test_scheduler_processes_killed_while_they_tick_lose_and_double_nothing(taskrunner_db: Database) -> None:
    """SPEC SCH 38; FAULTS F7, F8."""
    taskrunner_db.freeze(NOON)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROCESS, taskrunner_db.url])

    alive = [start() for _ in range(3)]
    try:
        for step in range(8):
            # The kill comes at another moment of the ticking each time: after 1, 2, 3 … tasks of this round.
            await until(lambda done=step * 10 + step + 1: count(taskrunner_db) >= done, 60)
            victim = alive.pop(0)
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
            alive.append(start())
            await until(lambda done=(step + 1) * 10: count(taskrunner_db) >= done, 60)
            if step < 7:
                taskrunner_db.travel(MINUTE)
    finally:
        for process in alive:
            process.kill()
            process.wait()
    assert_ticked(taskrunner_db, 10, 8)


async def test_restarts_add_nothing(taskrunner_db: Database, registry: Registry) -> None:
    """SPEC SCH 38."""
    taskrunner_db.freeze(NOON)
    register(3)
    for _ in range(5):
        async with running(taskrunner_db.url, registry) as scheduler:
            await until(lambda scheduler=scheduler: scheduler.id is not None and count(taskrunner_db) >= 3)
    assert_ticked(taskrunner_db, 3, 1)


@both_loops
async def test_a_schedule_made_at_run_time_is_taken_up_by_a_scheduler_that_waits_for_a_far_tick(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC SCH 41: it looks once a `poll`, whatever it waits for; nobody has to wake it."""
    taskrunner_db.freeze(NOON)
    register(1, "@yearly")
    url = taskrunner_db.url
    async with AsyncTaskQueue.connect(url, registry=registry) as queue, running(url, registry, Settings()):
        await until(lambda: bool(fetch(taskrunner_db, "SELECT FROM taskrunner.schedule")))
        made = await queue.schedules.add("near", "T00", "1 12 * * *")
        assert made.next_tick_at == NOON + MINUTE
        taskrunner_db.travel(MINUTE)
        await until(lambda: count(taskrunner_db) == 1)
        assert (await queue.schedules.get("near")).ticks == 1


async def test_terminated_connections_cost_no_tick(taskrunner_db: Database, registry: Registry) -> None:
    """SPEC CRA 36; FAULTS F12."""
    taskrunner_db.freeze(NOON)
    register(10)
    async with running(taskrunner_db.url, registry):
        for step in range(6):
            await until(lambda done=step * 10 + 3: count(taskrunner_db) >= done)
            fetch(
                taskrunner_db,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'taskrunner%%'",
            )
            await until(lambda done=(step + 1) * 10: count(taskrunner_db) >= done)
            if step < 5:
                taskrunner_db.travel(MINUTE)
    assert_ticked(taskrunner_db, 10, 6)


async def test_one_schedule_that_cannot_tick_does_not_stop_the_others_and_goes_on_when_it_can(
    taskrunner_db: Database, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC SCH 43."""
    taskrunner_db.freeze(NOON)
    register(1)

    @register_task("Mail")
    class Mail(Task):
        to: str

        def run(self) -> None: ...

    with connect(taskrunner_db.url) as conn:
        new = NewSchedule("bad", "Mail", parse(60), '{"to": "a@b.c"}', start_at=NOON - MINUTE)
        run(conn, timetable.add(new, declared.known(registry)))
    fetch(taskrunner_db, "UPDATE taskrunner.schedule SET payload = '{}' RETURNING 1")
    async with running(taskrunner_db.url, registry):
        await until(lambda: count(taskrunner_db) == 1)
        await until(lambda: "Mail: to: Field required" in str(error_of("bad", taskrunner_db)))
        taskrunner_db.travel(MINUTE)
        await until(lambda: count(taskrunner_db) == 2)
        fetch(
            taskrunner_db, """UPDATE taskrunner.schedule SET payload = '{"to": "a"}' WHERE name = 'bad' RETURNING 1"""
        )
        await until(lambda: count(taskrunner_db) == 3)
        await until(lambda: error_of("bad", taskrunner_db) is None)
    held = [record for record in caplog.records if "schedule bad could not tick" in record.getMessage()]
    assert len(held) < 10, "it is left alone for longer each time"


def error_of(name: str, database: Database) -> str | None:
    ((error,),) = fetch(database, "SELECT last_error FROM taskrunner.schedule WHERE name = %s", name)
    return error  # type: ignore[no-any-return]  # a column


async def test_an_enqueue_left_open_holds_up_only_its_own_type(taskrunner_db: Database, registry: Registry) -> None:
    """SPEC UNQ 15."""
    taskrunner_db.freeze(NOON)
    register(5, unique=True)
    stranger = await aconnect(taskrunner_db.url)
    async with stranger.transaction():
        blocker = NewTask(uuid7(), "T00", "{}", "default", unique_key="type:")
        await arun(stranger, enqueue.add([blocker]))
        async with running(taskrunner_db.url, registry):
            await until(lambda: count(taskrunner_db) == 4)
    await stranger.close()
    assert count(taskrunner_db) == 5


async def test_a_locked_schedule_keeps_no_other_from_being_declared_and_ticked(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC SCH 43."""
    taskrunner_db.freeze(NOON)
    register(1)
    async with running(taskrunner_db.url, registry):
        await until(lambda: count(taskrunner_db) == 1)
    register(3, catch_up="all")
    stranger = await aconnect(taskrunner_db.url)
    async with stranger.transaction():
        await stranger.execute("SELECT 1 FROM taskrunner.schedule FOR UPDATE")
        async with running(taskrunner_db.url, registry):
            await until(lambda: count(taskrunner_db) == 3)
    await stranger.close()


# ── lease and duties ─────────────────────────────────────────────────────────────────────────────────────────────────


def lease_ids(database: Database) -> list[UUID]:
    return [id_ for (id_,) in fetch(database, "SELECT id FROM taskrunner.runner WHERE kind = 'scheduler'")]


async def test_a_scheduler_is_registered_with_its_types_while_it_runs(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC SCH 40."""
    register(1, aliases=("Old",))
    async with running(taskrunner_db.url, registry) as scheduler:
        await until(lambda: scheduler.id is not None)
        assert fetch(taskrunner_db, "SELECT id, kind, types, pid FROM taskrunner.runner") == [
            (scheduler.id, "scheduler", ["Old", "T00"], os.getpid())
        ]
        ((first,),) = fetch(taskrunner_db, "SELECT lease_until FROM taskrunner.runner")
        await until(lambda: fetch(taskrunner_db, "SELECT lease_until > %s FROM taskrunner.runner", first) == [(True,)])
    assert lease_ids(taskrunner_db) == []


async def test_a_scheduler_whose_lease_has_ended_joins_again_under_a_new_id(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC CRA 35."""
    async with running(taskrunner_db.url, registry) as scheduler:
        await until(lambda: scheduler.id is not None)
        before = scheduler.id
        taskrunner_db.travel(timedelta(minutes=1))
        await until(lambda: scheduler.id not in (None, before))
        await until(lambda: lease_ids(taskrunner_db) == [scheduler.id])


async def test_beside_the_ticks_dead_runners_are_rescued_and_partitions_made(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC CRA 33, HIS 52."""
    with connect(taskrunner_db.url) as conn:
        dead = Process(uuid4(), "runner", "host", 1, (), ("T",), 1, "1")
        run(conn, runner.join(dead, timedelta(seconds=15)))
        run(conn, enqueue.add([NewTask(uuid7(), "T", "{}", "default")]))
        claim_due(conn, dead.id)
    taskrunner_db.travel(timedelta(seconds=16))
    async with running(taskrunner_db.url, registry):
        await until(lambda: fetch(taskrunner_db, "SELECT state FROM taskrunner.task") == [("pending",)])
        made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'taskrunner.task_history'::regclass"
        await until(lambda: fetch(taskrunner_db, made) == [(32,)])


async def test_a_duty_begins_anew_when_the_machines_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS F11."""
    turns = asyncio.Semaphore(0)

    async def duty() -> None:
        turns.release()

    driver = duties.Duties()
    driver.start({"duty": (timedelta(days=1), duty)})
    await asyncio.wait_for(turns.acquire(), 30)
    driver.follow_clock()
    monkeypatch.setattr(duties, "_clock_offset", lambda: time.time() - time.monotonic() - 86400)
    driver.follow_clock()
    await asyncio.wait_for(turns.acquire(), 30)
    assert driver.stop() == []


async def test_a_duty_that_fails_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    turns = asyncio.Semaphore(0)

    async def duty() -> None:
        turns.release()
        raise OSError("no route to host")

    driver = duties.Duties()
    with caplog.at_level(logging.INFO):
        driver.start({"rescue": (timedelta(milliseconds=20), duty)})
        for _ in range(3):
            await asyncio.wait_for(turns.acquire(), 30)
        driver.stop()
    told = [(record.name, record.levelname) for record in caplog.records]
    assert told == [("taskrunner.scheduler", "WARNING")], "and APScheduler says nothing of its own"


# ── leaving, and a database that is away ─────────────────────────────────────────────────────────────────────────────


AGES = timedelta(hours=1)
"""A time-out that does not come within a test: what happens then, happened without it."""

PATIENT = Settings(poll=AGES, heartbeat=AGES, lease=3 * AGES)


@asynccontextmanager
async def stopped(url: str, registry: Registry, settings: Settings = PATIENT) -> AsyncIterator[Scheduler]:
    """Stop it at the end, which none of its time-outs for the database helps along."""
    assert 2 * sum(scheduling._PARTING) < 1, "what its loops are given, and then its leave: SPEC SHU 44"
    scheduler = Scheduler(url, registry, settings)
    for link in (scheduler._ticks, scheduler._leases, scheduler._maintenance):
        link._patience = AGES.total_seconds()
    run_ = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
        assert not run_.done()
    finally:
        scheduler.stop()
        await asyncio.wait_for(run_, 60)


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[tuple[str, list[None]]]:
    """Something that listens where a database should; yields its URL, and an entry for each call."""
    calls: list[None] = []
    writers = []

    async def called(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(None)
        writers.append(writer)
        answer(writer)

    listening = await asyncio.start_server(called, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://nobody@127.0.0.1:{port}/nothing?sslmode=disable&connect_timeout=3600", calls
    finally:
        listening.close()
        for writer in writers:
            writer.close()


@both_loops
async def test_an_idle_scheduler_stops_at_once_and_leaves_no_connection(
    taskrunner_db: Database, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC SHU 44: its loops end by themselves, in the midst of their pauses."""
    monkeypatch.setattr(scheduling, "_part", asyncio.gather)
    async with stopped(taskrunner_db.url, registry) as scheduler:
        await until(lambda: scheduler.id is not None)
    left = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'taskr%%'"
    )
    await until(lambda: fetch(taskrunner_db, left) == [(0,)])


@both_loops
async def test_a_scheduler_behind_somebodys_lock_stops_all_the_same(
    taskrunner_db: Database, registry: Registry
) -> None:
    """SPEC SHU 44."""
    register(1)
    stranger = await aconnect(taskrunner_db.url)
    async with stranger.transaction():
        await stranger.execute("LOCK TABLE taskrunner.schedule, taskrunner.runner IN ACCESS EXCLUSIVE MODE")
        waiting = (
            "SELECT count(*) > 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE NOT granted AND datname = current_database()"
        )
        async with stopped(taskrunner_db.url, registry, SETTINGS):
            await until(lambda: fetch(taskrunner_db, waiting) == [(True,)])
    await stranger.close()


@both_loops
async def test_a_scheduler_whose_database_does_not_answer_stops_all_the_same(registry: Registry) -> None:
    """SPEC SHU 44, CRA 36; FAULTS F6."""
    async with server(lambda writer: None) as (url, calls), stopped(url, registry):
        await until(lambda: len(calls) >= 2)


@both_loops
async def test_a_scheduler_whose_database_is_away_tries_again_less_and_less_often(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC CRA 36; FAULTS F14."""
    pauses: dict[asyncio.Task[Any] | None, list[float]] = {}
    pause, loop = Scheduler._pause, asyncio.get_running_loop()

    async def noted(scheduler: Scheduler, seconds: float) -> None:
        pauses.setdefault(asyncio.current_task(), []).append(seconds)
        begin = loop.time()
        await pause(scheduler, seconds)
        assert scheduler._stopping.is_set() or loop.time() - begin > seconds - 0.05, "it waits that long"

    monkeypatch.setattr(Scheduler, "_pause", noted)
    async with server(lambda writer: writer.close()) as (url, calls), stopped(url, registry):
        await until(lambda: len(pauses) == 2 and all(len(seconds) >= 4 for seconds in pauses.values()))
        assert len(calls) >= 8, "each of its two loops has tried four times"
    for seconds in pauses.values():
        for times, length in enumerate(seconds[:4]):
            assert 0.05 * 2**times <= length <= 0.1 * 2**times
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == len({text.split()[0] for text in told}) <= 4, "each is told once"


async def test_a_scheduler_started_before_the_schema_waits_for_it(
    taskrunner_db: Database, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC CRA 36."""
    register(2)
    with taskrunner_db.connect() as conn:
        conn.execute("ALTER SCHEMA taskrunner RENAME TO later")
    async with running(taskrunner_db.url, registry) as scheduler:
        await until(lambda: "its lease is interrupted" in caplog.text)
        assert scheduler.id is None
        with taskrunner_db.connect() as conn:
            conn.execute("ALTER SCHEMA later RENAME TO taskrunner")
        await until(lambda: count(taskrunner_db) == 2)


# ── what the registry says ───────────────────────────────────────────────────────────────────────────────────────────


MODULE = """
from taskrunner import Task, register_task

@register_task("Report"{frequency})
class Report(Task):
    async def run(self): ...
"""


async def test_a_frequency_changed_in_its_file_takes_effect_at_the_next_start(
    taskrunner_db: Database, tmp_path: Path
) -> None:
    """SPEC SCH 40."""
    taskrunner_db.freeze(NOON)

    async def start(frequency: str, written_at: int) -> tuple[str, datetime | None]:
        file = tmp_path / "jobs.py"
        file.write_text(MODULE.format(frequency=frequency))
        os.utime(file, (written_at, written_at))
        sys.modules.pop("jobs", None)
        with isolated():
            found = discover(tmp_path, "jobs")
            async with running(taskrunner_db.url, found) as scheduler:
                await until(lambda: not scheduler._undeclared and not scheduler._ended)
        return fetch(taskrunner_db, "SELECT trigger, next_tick_at FROM taskrunner.schedule")[0]  # type: ignore[no-any-return]  # a row

    assert (await start(", 3600", 1_700_000_000))[0] == "interval 3600"
    assert (await start(", '0 0 * * *'", 1_700_000_060)) == ("cron 0 0 * * *", NOON + timedelta(hours=12))
    assert (await start(", 3600", 1_700_000_000)) == ("cron 0 0 * * *", NOON + timedelta(hours=12)), "older"
    assert (await start("", 1_700_000_120)) == ("", None)


async def test_a_payload_given_by_people_is_checked_and_makes_a_whole_task(registry: Registry) -> None:
    @register_task("Mail", queue="mail", priority=7, max_retries=2, unique=("to",), aliases=("Post",))
    class Mail(Task):
        to: str
        subject: str = "Hello"

        def run(self) -> None: ...

    known = declared.known(registry)
    made = known.make(Template("Post", '{"to": "a@b.c"}', "acme", None))
    assert (made.type, made.queue, made.priority, made.max_retries, made.tenant) == ("Mail", "mail", 7, 2, "acme")
    assert made.unique_key == 'fields:{"to":"a@b.c"}'
    assert known.types == ["Mail", "Post"]
    assert known.aliases == {"Mail": ("Post",)}
    with pytest.raises(PayloadInvalid, match="too"):
        known.make(Template("Mail", '{"too": 1}', "acme", None))
    with pytest.raises(UnknownType):
        known.make(Template("Mial", "{}", "acme", None))
