"""What goes from history and what stays: by queue and state, archived before it goes, by any number of janitors."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from taskrunner import archive, db, janitor
from taskrunner.db import Link, run
from taskrunner.settings import Settings
from taskrunner.spans import Unit
from taskrunner.store import history
from taskrunner.testing.database import Database

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST = "task_history_p20260301"
KEEP = {"*/ignored": 1 * DAY, "audit": 90 * DAY}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def link(taskrunner_db: Database) -> AsyncIterator[Link]:
    taskrunner_db.freeze(NOON)
    fresh = Link(taskrunner_db.url, name="test janitor")
    yield fresh
    await fresh.close()


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with taskrunner_db.connect() as fresh:
        yield fresh


def settings(**given: Any) -> Settings:
    return Settings(**given)


def end(
    conn: psycopg.Connection[Any],
    at: datetime = NOON,
    *,
    count: int = 1,
    queue: str = "default",
    state: str = "succeeded",
    payload: str = "{}",
) -> None:
    """Terminal rows, as FINISH writes them."""
    conn.execute(
        """INSERT INTO taskrunner.task_history (id, finished_at, maturity_at, created_at, claim_no, priority, tries,
                  crashes, max_retries, tenant, queue, type, state, payload, meta, errors)
           SELECT gen_random_uuid(), %(at)s, %(at)s, %(at)s, 1, 100, 0, 0, 3, 'default', %(queue)s, 'T', %(state)s,
                  %(payload)s, '{}', '[]' FROM generate_series(1, %(count)s)""",
        {"at": at, "queue": queue, "state": state, "payload": payload, "count": count},
    )


def left(conn: psycopg.Connection[Any]) -> dict[tuple[str, str], int]:
    rows = conn.execute("SELECT queue, state, count(*) FROM taskrunner.task_history GROUP BY 1, 2")
    return {(queue, state): count for queue, state, count in rows}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def names(conn: psycopg.Connection[Any]) -> list[str]:
    return [partition.name for partition in run(conn, history.partitions())]


# ── partitions of other sizes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Marquesas"])
@pytest.mark.parametrize(
    ("unit", "midnight", "begin"),
    [
        ("week", datetime(2027, 1, 4, tzinfo=UTC), date(2026, 12, 28)),
        ("week", datetime(2028, 3, 6, tzinfo=UTC), date(2028, 2, 28)),
        ("month", datetime(2027, 1, 1, tzinfo=UTC), date(2026, 12, 1)),
        ("month", datetime(2028, 3, 1, tzinfo=UTC), date(2028, 2, 1)),
    ],
)
async def test_the_ends_of_weeks_months_and_years_land_right_in_any_zone(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], unit: Unit, midnight: datetime, begin: date,
    zone: str,
) -> None:  # fmt: skip
    """SPEC HIS 52."""
    conn.execute(f"ALTER DATABASE \"{taskrunner_db.name}\" SET timezone = '{zone}'")  # type: ignore[arg-type]
    taskrunner_db.freeze(midnight - timedelta(hours=1))
    with taskrunner_db.connect() as fresh:
        end(fresh, midnight - timedelta(microseconds=1))
        end(fresh, midnight)
        done = await janitor.partitions(link, settings(history_partition=unit))
        assert done.moved == 2
        assert done.created[:2] == [history.name_of(begin), history.name_of(midnight.date())]
        for name in done.created[:2]:
            assert fresh.execute(f"SELECT count(*) FROM taskrunner.{name}").fetchone() == (1,)  # type: ignore[arg-type]
    assert (await janitor.partitions(link, settings(history_partition=unit))).created == []


async def test_a_changed_unit_goes_on_where_the_partitions_end(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any]
) -> None:
    """SPEC HIS 52."""
    await janitor.partitions(link, settings())
    assert (await janitor.partitions(link, settings(history_partition="month"))).created == []
    taskrunner_db.travel(DAY)
    done = await janitor.partitions(link, settings(history_partition="month"))
    assert done.created == ["task_history_p20260401"]  # the daily ones end with March
    taskrunner_db.travel(40 * DAY)
    done = await janitor.partitions(link, settings(history_partition="week"))
    assert done.created[0] == "task_history_p20260501"  # a Friday: until Monday
    assert done.created[1] == "task_history_p20260504"
    for days in range(70):
        end(conn, NOON + days * DAY)
    assert conn.execute("SELECT count(*) FROM taskrunner.task_history_default").fetchone() == (0,)
    taskrunner_db.travel(365 * DAY)
    done = await janitor.retention(link, settings())
    assert len(done.dropped) > 31 + 1
    assert left(conn) == {}
    assert names(conn) == []


async def test_a_month_is_kept_until_its_last_day_is_old(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any]
) -> None:
    """SPEC HIS 52."""
    monthly = settings(history_partition="month")
    await janitor.partitions(link, monthly)
    end(conn)
    taskrunner_db.freeze(datetime(2026, 4, 30, 23, 59, tzinfo=UTC))
    assert (await janitor.retention(link, monthly)).dropped == []
    taskrunner_db.freeze(datetime(2026, 5, 1, tzinfo=UTC))
    assert (await janitor.retention(link, monthly)).dropped == [FIRST]


# ── by queue and state ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_queues_and_states_are_kept_for_times_of_their_own(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC HIS 52."""
    monkeypatch.setattr(janitor, "BATCH", 3)
    kept = settings(history_keep=KEEP)
    await janitor.partitions(link, kept)
    end(conn, count=10, state="ignored")
    end(conn, count=2, state="ignored", queue="audit")
    end(conn, count=4)
    end(conn, count=1, queue="audit")

    taskrunner_db.freeze(NOON + 2 * DAY)
    done = await janitor.retention(link, kept)
    assert (done.swept, done.dropped) == ({FIRST: 10}, [])
    assert left(conn) == {("audit", "ignored"): 2, ("default", "succeeded"): 4, ("audit", "succeeded"): 1}

    taskrunner_db.freeze(NOON + 31 * DAY)
    done = await janitor.retention(link, kept)
    assert done.swept == {FIRST: 4}
    assert FIRST not in done.dropped
    assert left(conn) == {("audit", "ignored"): 2, ("audit", "succeeded"): 1}

    taskrunner_db.freeze(NOON + 91 * DAY)
    assert FIRST in (await janitor.retention(link, kept)).dropped
    assert left(conn) == {}


async def test_a_partition_of_which_all_may_go_is_dropped_without_deleting_rows(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any]
) -> None:
    """SPEC HIS 52. Long before the longest time is over, and without touching its rows."""
    kept = settings(history_keep=KEEP)
    await janitor.partitions(link, kept)
    end(conn, count=10, state="ignored")
    end(conn, NOON + DAY, queue="audit")
    taskrunner_db.freeze(NOON + 3 * DAY)
    done = await janitor.retention(link, kept)
    assert done.dropped == [FIRST]
    assert done.swept == {}
    assert left(conn) == {("audit", "succeeded"): 1}


async def test_what_was_swept_is_not_looked_at_again_until_the_rules_change(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC HIS 52."""
    kept = settings(history_keep=KEEP)
    await janitor.partitions(link, kept)
    end(conn, state="ignored")
    end(conn, queue="audit")
    taskrunner_db.freeze(NOON + 2 * DAY)
    assert (await janitor.retention(link, kept)).swept == {FIRST: 1}
    end(conn, state="ignored")  # nobody writes to a day gone by: so it shows who looks
    assert (await janitor.retention(link, kept)).swept == {}
    other = settings(history_keep={**KEEP, "audit": 80 * DAY, "mail": 2 * DAY})
    assert (await janitor.retention(link, other)).swept == {FIRST: 1}


async def test_rows_that_somebody_has_locked_go_in_a_later_round(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any]
) -> None:
    """SPEC HIS 52, CLM 23."""
    kept = settings(history_keep=KEEP)
    await janitor.partitions(link, kept)
    end(conn, state="ignored", count=3)
    end(conn, queue="audit")
    taskrunner_db.freeze(NOON + 2 * DAY)
    with taskrunner_db.connect() as stranger, stranger.transaction():
        stranger.execute("SELECT id FROM taskrunner.task_history WHERE state = 'ignored' LIMIT 1 FOR UPDATE")
        assert (await janitor.retention(link, kept)).swept == {FIRST: 2}
    assert (await janitor.retention(link, kept)).swept == {FIRST: 1}


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_partition_is_in_its_archive_before_it_is_dropped_and_can_be_read_back(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path)
    await janitor.partitions(link, kept)
    for payload in ('{"text": "two\\nlines, \\"quotes\\" and ü"}', "{}", '{"big": "' + "x" * 300_000 + '"}'):
        end(conn, payload=payload, count=2)
    conn.execute("UPDATE taskrunner.task_history SET unique_key = '', result = '\"\\n\"' WHERE payload = '{}'")
    conn.execute("CREATE TABLE public.before AS SELECT * FROM taskrunner.task_history")
    taskrunner_db.freeze(NOON + 31 * DAY)
    done = await janitor.retention(link, kept)
    file = tmp_path / f"{FIRST}.csv.gz"
    assert (done.dropped, done.archived, done.failed) == ([FIRST], [str(file)], {})
    assert files(tmp_path) == [file.name]
    assert file.stat().st_mode & 0o777 == 0o600
    assert left(conn) == {}

    conn.execute("CREATE TABLE public.restored (LIKE taskrunner.task_history)")
    with (
        gzip.open(file) as packed,
        conn.cursor() as cursor,
        cursor.copy("COPY public.restored FROM STDIN (FORMAT csv, HEADER)") as copy,
    ):
        copy.write(packed.read())
    different = """SELECT count(*) FROM ((TABLE public.before EXCEPT TABLE public.restored)
                    UNION ALL (TABLE public.restored EXCEPT TABLE public.before)) d"""
    assert conn.execute(different).fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM public.restored").fetchone() == (6,)


async def test_rows_that_go_from_a_partition_that_stays_are_archived_too(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path, history_keep=KEEP)
    await janitor.partitions(link, kept)
    end(conn, state="ignored", count=3)
    end(conn, queue="audit")
    taskrunner_db.freeze(NOON + 2 * DAY)
    assert (await janitor.retention(link, kept)).swept == {FIRST: 3}
    with gzip.open(tmp_path / f"{FIRST}-swept.csv.gz", "rt") as packed:
        lines = packed.read().splitlines()
    assert len(lines) == 4
    assert all("ignored" in line for line in lines[1:])


@pytest.mark.parametrize("trouble", ["missing", "short", "full"])
async def test_what_cannot_be_archived_stays_and_the_log_says_so(
    link: Link,
    taskrunner_db: Database,
    conn: psycopg.Connection[Any],
    tmp_path: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path / "there")
    if trouble != "missing":
        (tmp_path / "there").mkdir()
    if trouble == "short":
        monkeypatch.setattr(archive.Archive, "_count", lambda _self, _path: 1)
    if trouble == "full":
        monkeypatch.setattr(archive.os, "fsync", no_space)
    await janitor.partitions(link, kept)
    end(conn, count=2)
    taskrunner_db.freeze(NOON + 31 * DAY)
    with caplog.at_level(logging.ERROR):
        done = await janitor.retention(link, kept)
    assert (done.dropped, list(done.failed)) == ([], [FIRST])
    assert f"{FIRST} is kept, because it could not be archived" in caplog.text
    assert left(conn) == {("default", "succeeded"): 2}
    assert files(tmp_path / "there") == []
    monkeypatch.undo()
    (tmp_path / "there").mkdir(exist_ok=True)
    assert (await janitor.retention(link, kept)).dropped == [FIRST]


def no_space(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


async def test_a_partition_that_changes_after_it_was_archived_is_not_dropped(
    link: Link,
    taskrunner_db: Database,
    conn: psycopg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path)
    await janitor.partitions(link, kept)
    end(conn)
    taskrunner_db.freeze(NOON + 31 * DAY)
    count = archive.Archive._count

    def late(self: archive.Archive, path: Path) -> int:
        with taskrunner_db.connect() as other:
            end(other)
        return count(self, path)

    monkeypatch.setattr(archive.Archive, "_count", late)
    done = await janitor.retention(link, kept)
    assert (done.dropped, list(done.failed)) == ([], [FIRST])
    monkeypatch.undo()
    done = await janitor.retention(link, kept)
    assert done.dropped == [FIRST]
    assert done.archived == [str(tmp_path / f"{FIRST}-2.csv.gz")], "the file that holds other rows is not replaced"
    assert len(files(tmp_path)) == 2


async def test_janitors_that_archive_at_once_make_one_file_and_lose_nothing(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path)
    await janitor.partitions(link, kept)
    for days in range(4):
        end(conn, NOON + days * DAY, count=50)
    taskrunner_db.freeze(NOON + 40 * DAY)
    others = [Link(taskrunner_db.url, name=f"janitor {n}") for n in range(3)]
    rounds = await asyncio.gather(*(janitor.retention(each, kept) for each in others))
    rounds.append(await janitor.retention(link, kept))
    for each in others:
        await each.close()
    dropped = sorted(name for done in rounds for name in done.dropped)
    assert dropped == [history.name_of((NOON + n * DAY).date()) for n in range(10)]
    assert all(done.failed == {} for done in rounds)
    assert files(tmp_path) == [f"{name}.csv.gz" for name in dropped]


async def test_a_janitor_that_is_stopped_while_it_archives_leaves_no_trace(
    link: Link,
    taskrunner_db: Database,
    conn: psycopg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SPEC HIS 52, SHU 44."""
    kept = settings(archive_dir=tmp_path)
    await janitor.partitions(link, kept)
    end(conn, count=5)
    taskrunner_db.freeze(NOON + 31 * DAY)
    begun, ended = asyncio.Event(), asyncio.Event()
    loop, copy = asyncio.get_running_loop(), archive.Archive._copy

    def watched(self: archive.Archive, *given: Any) -> int:
        loop.call_soon_threadsafe(begun.set)
        try:
            self._aborted.wait(30)
            return copy(self, *given)
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(archive.Archive, "_copy", watched)
    work = asyncio.create_task(janitor.retention(link, kept))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await ended.wait()
    monkeypatch.undo()
    assert left(conn) == {("default", "succeeded"): 5}
    assert (await janitor.retention(link, kept)).dropped == [FIRST]
    assert files(tmp_path) == [f"{FIRST}.csv.gz"]


async def test_what_found_no_partition_is_archived_with_one_and_never_just_deleted(
    link: Link, taskrunner_db: Database, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """SPEC HIS 52."""
    kept = settings(archive_dir=tmp_path)
    end(conn, NOON - 99 * DAY)
    done = await janitor.retention(link, kept)
    assert left(conn) == {("default", "succeeded"): 1}
    assert "stranded" not in done.deleted
    done = await janitor.maintain(link, kept)
    assert done.dropped == [history.name_of((NOON - 99 * DAY).date())]
    assert len(files(tmp_path)) == 1


def test_drafts_of_writers_that_were_killed_go_and_young_ones_stay(taskrunner_db: Database, tmp_path: Path) -> None:
    old, young = (tmp_path / f".{FIRST}.{name}.tmp" for name in ("old", "young"))
    for draft in (old, young):
        draft.touch()
    os.utime(old, (0, 0))
    archive.Archive(taskrunner_db.url, tmp_path).write(FIRST, SQL("SELECT 1 AS n"))
    assert files(tmp_path) == sorted([young.name, f"{FIRST}.csv.gz"])


def test_a_file_of_other_rows_is_never_replaced(taskrunner_db: Database, tmp_path: Path) -> None:
    writer = archive.Archive(taskrunner_db.url, tmp_path)
    for number, name in [(1, "a"), (1, "a"), (2, "a-2"), (2, "a-2"), (3, "a-3")]:
        written = writer.write("a", SQL("SELECT generate_series(1, {}) AS n").format(number))
        assert written == (tmp_path / f"{name}.csv.gz", number)


@pytest.mark.parametrize("select", ["SELECT 1 AS n", "SELECT 1 / 0 AS n"], ids=["written", "failed"])
def test_the_next_file_does_not_wait_for_the_last_ones_connection_to_end(
    taskrunner_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    """A server that is busy ends a connection a moment after it was closed, and kept its lock until then."""
    left = []
    monkeypatch.setattr(db.OwnConnection, "__exit__", lambda conn, *_: left.append(conn))
    with suppress(archive.ArchiveError):
        archive.Archive(taskrunner_db.url, tmp_path).write(FIRST, SQL(select))
    assert archive.Archive(taskrunner_db.url, tmp_path).write(FIRST, SQL("SELECT 1 AS n")) is not None
    for conn in left:
        conn.close()
