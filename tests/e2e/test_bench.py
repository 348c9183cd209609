"""`taskrunner bench`: the real command on a real server, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from taskrunner.testing.database import Database
from tests.processes import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'taskrunner%' ORDER BY 1"


def environment(url: str, folder: Path) -> dict[str, str]:
    """Return what a command is run with: no settings but the database's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKRUNNER_", "COV_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "TASKRUNNER_PROJECT": str(folder), "COLUMNS": "80"}


def words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "taskrunner", "bench", *arguments]


def bench(url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without a terminal."""
    return subprocess.run(
        words(*arguments),
        env=environment(url, folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def going(url: str, folder: Path, *arguments: str) -> Iterator[psutil.Popen]:
    """Run the command beside the test; whatever is left of it is killed."""
    with psutil.Popen(
        words(*arguments),
        env=environment(url, folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            for one in family(process):
                one.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return the process with all below it, as long as it lives."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def tables(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    with taskrunner_db.connect() as conn:
        yield conn


def schemas(tables: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in tables.execute(SCHEMAS).fetchall()]


@pytest.fixture
def login(taskrunner_db: Database, tables: psycopg.Connection[Any]) -> Iterator[Callable[[str], str]]:
    """Return a function that makes an ordinary login with this right on the database, and returns its URL."""
    made: list[Identifier] = []

    def make(right: str) -> str:
        name, password = f"bench_{uuid4().hex[:12]}", uuid4().hex
        role, database = Identifier(name), Identifier(taskrunner_db.name)
        tables.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, Literal(password)))
        made.append(role)
        if right:
            tables.execute(SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
        parts = urlsplit(taskrunner_db.url)
        return parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()

    yield make
    for role in made:
        tables.execute(SQL("DROP OWNED BY {} CASCADE").format(role))
        tables.execute(SQL("DROP ROLE {}").format(role))


def test_a_bench_tells_its_figures_and_touches_nobodys_tables_and_channels(
    taskrunner_db: Database, tables: psycopg.Connection[Any], login: Callable[[str], str], tmp_path: Path
) -> None:
    """DESIGN 12: with no more rights than to make a schema."""
    tables.execute("LISTEN taskrunner")
    tables.execute("LISTEN taskrunner_cancel")
    before = contents(tables)
    done = bench(login("CREATE"), tmp_path, "--tasks", "1500", "--processes", "2", "--concurrency", "7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["processes"], report["concurrency"], report["synchronous_commit"]) == (2, 7, "off")
    assert [report[name]["tasks"] for name in ("enqueue_singly", "enqueue_many", "drain")] == [150, 1500, 1650]
    assert report["pickups"] == 150
    for name in ("enqueue_singly_waits", "pickup_waits"):
        assert 0 <= report[name]["p50_ms"] <= report[name]["p95_ms"] <= report[name]["p99_ms"]
    assert schemas(tables) == ["taskrunner"]
    assert contents(tables) == before
    assert list(tables.notifies(timeout=0)) == []


def contents(tables: psycopg.Connection[Any]) -> dict[str, int]:
    names = tables.execute("SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'taskrunner'").fetchall()
    count = SQL("SELECT count(*) FROM taskrunner.{}")
    return {name: tables.execute(count.format(Identifier(name))).fetchall()[0][0] for (name,) in names}


def test_the_table_fits_into_80_columns(taskrunner_db: Database, tmp_path: Path) -> None:
    """SPEC OPS 49."""
    done = bench(taskrunner_db.url, tmp_path, "--tasks", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "enqueue, one by one",
        "enqueue, 1,000 at once",
        "drain",
        "pickup, idle runner",
    ]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["task", "task_history"], ids=["while it enqueues", "while it drains"])
def test_a_bench_that_is_interrupted_leaves_no_schema_and_no_process(
    taskrunner_db: Database, tables: psycopg.Connection[Any], tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    with going(taskrunner_db.url, tmp_path, "--tasks", "200000" if moment == "task" else "30000") as process:
        eventually(lambda: rows_in(tables, moment), f"rows in {moment}")
        everybody = family(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, errors
        assert errors == "interrupted: the schema is dropped\n"
        eventually(lambda: not any(one.is_running() for one in everybody), "the end of its processes")
    assert schemas(tables) == ["taskrunner"]


def rows_in(tables: psycopg.Connection[Any], table: str) -> bool:
    """Whether the schema of the bench that goes on has rows in this table."""
    for name in schemas(tables)[1:]:
        try:
            query = SQL("SELECT EXISTS (SELECT FROM {})").format(Identifier(name, table))
            return tables.execute(query).fetchone() == (True,)
        except psycopg.errors.UndefinedTable:
            return False
    return False


def test_what_a_killed_bench_has_left_is_told_of_and_dropped_when_asked_and_nothing_else(
    taskrunner_db: Database, tables: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with going(taskrunner_db.url, tmp_path, "--tasks", "30000") as process:
        eventually(lambda: rows_in(tables, "task_history"), "a task that has been run")
        everybody = family(process)
        process.kill()
        eventually(lambda: not any(one.is_running() for one in everybody[1:]), "the end of its runners")
    [killed] = schemas(tables)[1:]
    others = ["taskrunner_bench_0123456789ab", "taskrunner_bench_mine", "taskrunner_bench_ffffffffffff"]
    for name in others:
        tables.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
    tables.execute(f"COMMENT ON SCHEMA {others[1]} IS 'made by `taskrunner bench`, or so it says'")
    tables.execute(f"COMMENT ON SCHEMA {others[2]} IS 'made by `taskrunner bench`, which still goes on'")
    tables.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [others[2]])

    told = bench(taskrunner_db.url, tmp_path, "--tasks", "10")
    assert told.returncode == 0
    assert f"schema {killed}, made by `taskrunner bench` at 20" in told.stderr
    assert "`taskrunner bench --clean` drops them" in told.stderr
    refused = bench(taskrunner_db.url, tmp_path, "--clean")
    assert (refused.returncode, "give --yes" in refused.stderr) == (1, True)
    assert killed in schemas(tables)

    dropped = bench(taskrunner_db.url, tmp_path, "--clean", "--yes", "--json")
    assert json.loads(dropped.stdout) == {"dropped": [killed]}
    assert schemas(tables) == sorted(["taskrunner", *others])


def test_a_login_that_may_make_no_schema_is_told_what_it_needs(
    taskrunner_db: Database, tables: psycopg.Connection[Any], login: Callable[[str], str], tmp_path: Path
) -> None:
    done = bench(login(""), tmp_path, "--tasks", "10")
    assert done.returncode == 3
    assert f'GRANT CREATE ON DATABASE "{taskrunner_db.name}" TO "bench_' in done.stderr
    assert done.stderr.count("\n") == 1
    assert schemas(tables) == ["taskrunner"]
