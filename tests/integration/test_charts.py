"""What ended over time: added up from `task_stats`, which becomes coarser with age and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import janitor
from taskrunner.buckets import BOUNDS, quantile
from taskrunner.db import Link, connect, run
from taskrunner.errors import InvalidArgument
from taskrunner.reads import RANGES, Chart, ChartFilter, chart, stats
from taskrunner.settings import Settings
from taskrunner.testing.database import Database
from tests.plans import explain

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def conn(taskrunner_db: Database) -> Iterator[psycopg.Connection[Any]]:
    taskrunner_db.freeze(NOON)
    with connect(taskrunner_db.url) as connection:
        yield connection


@pytest.fixture
async def link(taskrunner_db: Database) -> AsyncIterator[Link]:
    fresh = Link(taskrunner_db.url, name="test janitor")
    yield fresh
    await fresh.close()


def histogram(place: int, count: int) -> list[int]:
    return [count if number == place else 0 for number in range(len(BOUNDS) + 1)]


def ended(
    conn: psycopg.Connection[Any],
    at: datetime,
    count: int = 1,
    outcome: str = "succeeded",
    *,
    runner: UUID = ONE,
    type_: str = "Mail",
    queue: str = "default",
    tenant: str = "default",
    run_place: int = 6,
    wait: Sequence[int] = histogram(2, 1),
) -> None:
    """A row as the statement that ends tasks writes it."""
    conn.execute(
        "INSERT INTO taskrunner.task_stats VALUES (date_trunc('minute', %s), %s, %s, %s, %s, %s, %s, 1.5, 0.5, %s, %s)",
        [at, runner, tenant, queue, type_, outcome, count, histogram(run_place, count), list(wait)],
    )


def drawn(conn: psycopg.Connection[Any], **wanted: Any) -> Chart:
    return run(conn, chart(ChartFilter(**wanted)))


@pytest.mark.parametrize("name", RANGES)
def test_a_range_ends_now_and_has_at_most_120_steps_on_a_grid(conn: psycopg.Connection[Any], name: str) -> None:
    made = drawn(conn, range=name)
    assert made.end - made.step <= NOON < made.end
    assert RANGES[name] <= made.end - made.begin <= RANGES[name] + 2 * made.step
    assert 15 <= len(made.steps) <= 121
    assert made.begin + len(made.steps) * made.step == made.end
    assert made.total.ended == 0
    assert made.names == made.lines == []


def test_what_ended_is_in_its_step_by_outcome_and_a_retried_run_is_no_end(conn: psycopg.Connection[Any]) -> None:
    ended(conn, NOON, 5)
    ended(conn, NOON, 3, runner=TWO)
    ended(conn, NOON - 10 * MINUTE, 2, "retried")
    ended(conn, NOON - 10 * MINUTE, 1, "dead")
    ended(conn, NOON - 2 * HOUR, 9)
    made = drawn(conn, range="1h")
    assert made.steps[-1].counts == {"succeeded": 8}
    assert made.steps[-11].counts == {"retried": 2, "dead": 1}
    assert (made.total.ended, made.total.failures) == (9, 3)
    assert made.instants()[-1] == NOON.replace(second=0)


def test_names_come_busiest_first_and_those_beyond_the_few_are_one_line(conn: psycopg.Connection[Any]) -> None:
    for number in range(9):
        ended(conn, NOON, 10 + number, type_=f"Type{number}", queue="a" if number % 2 else "b")
        ended(conn, NOON, 1, "dead", type_=f"Type{number}", queue="a" if number % 2 else "b")
    made = drawn(conn, range="15m")
    assert [total.name for total in made.names] == [f"Type{number}" for number in reversed(range(9))]
    assert [line.name for line in made.lines] == [*(f"Type{number}" for number in range(8, 2, -1)), None]
    assert made.lines[-1].ended[-1] == 10 + 11 + 12 + 3
    assert made.lines[-1].failures[-1] == 3
    by_queue = drawn(conn, range="15m", by="queue")
    assert {total.name: total.ended for total in by_queue.names} == {"a": 60, "b": 75}
    assert drawn(conn, range="15m", type="Type8").total.ended == 19
    assert drawn(conn, range="15m", queue="a").total.ended == 60
    assert drawn(conn, range="15m", tenant="acme").total.ended == 0


def test_times_are_shares_of_runs_within_their_buckets_and_cancelled_tasks_have_none(
    conn: psycopg.Connection[Any],
) -> None:
    ended(conn, NOON, 90, run_place=4, wait=histogram(0, 90))
    ended(conn, NOON, 10, "retried", run_place=6, wait=histogram(12, 10))
    ended(conn, NOON, 900, "cancelled", run_place=0, wait=histogram(0, 900))
    made = drawn(conn, range="15m").total
    assert made.run[0] == pytest.approx(0.05 + 0.05 * 50 / 90)
    assert made.run[1] == pytest.approx(0.5 + 0.5 * 5 / 10)
    assert made.wait[0] == pytest.approx(0.001 * 50 / 90)
    assert made.wait[2] == BOUNDS[-1]


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile([0] * 13, 0.5) is None
    assert quantile([], 0.5) is None


def test_a_time_of_ones_own_is_cut_no_finer_than_what_is_kept(conn: psycopg.Connection[Any]) -> None:
    fine = drawn(conn, since=NOON - HOUR, until=NOON - 20 * MINUTE)
    assert fine.step == MINUTE
    assert len(fine.steps) == 41
    old = drawn(conn, since=NOON - 10 * DAY, until=NOON - 10 * DAY + 6 * HOUR)
    assert old.step == HOUR
    assert drawn(conn, since=NOON - 400 * DAY).step == 4 * DAY
    with pytest.raises(InvalidArgument, match="not after its begin"):
        drawn(conn, since=NOON, until=NOON - HOUR)


async def test_old_minutes_become_coarser_and_every_sum_stays(conn: psycopg.Connection[Any], link: Link) -> None:
    for age in (0, 30, 89, 100, 101, 104, 160, 24 * 60, 26 * 60, 26 * 60 + 7, 26 * 60 + 50, 29 * 24 * 60):
        for runner in (ONE, TWO):
            ended(conn, NOON - age * MINUTE, 2, runner=runner)
            ended(conn, NOON - age * MINUTE, 1, "dead", runner=runner, tenant="acme")
    sums = "SELECT outcome, sum(count), sum(run_seconds), sum(run_histogram[7]), sum(wait_histogram[3]) FROM"
    before = conn.execute(f"{sums} taskrunner.task_stats GROUP BY 1 ORDER BY 1").fetchall()
    charts = {name: drawn(conn, range=name) for name in RANGES}
    figures = run(conn, stats())
    done = await janitor.retention(link, Settings())
    assert done.rolled_up > 0
    assert conn.execute(f"{sums} taskrunner.task_stats GROUP BY 1 ORDER BY 1").fetchall() == before
    spans = "SELECT minute FROM taskrunner.task_stats WHERE runner_id = %s GROUP BY 1 ORDER BY 1 DESC"
    coarse = [row[0] for row in conn.execute(spans, [UUID(int=0)])]
    floor = NOON.replace(second=0)
    assert coarse == [
        floor - 100 * MINUTE,
        floor - 105 * MINUTE,
        floor - 160 * MINUTE,
        floor - DAY,
        floor - 26 * HOUR,
        floor - 27 * HOUR,
        floor - 29 * DAY,
    ]
    assert conn.execute("SELECT count(*) FROM taskrunner.task_stats").fetchone() == (3 * 4 + 7 * 2,)
    assert {name: drawn(conn, range=name) for name in RANGES} == charts
    assert run(conn, stats()) == figures
    assert (await janitor.retention(link, Settings())).rolled_up == 0


async def test_what_is_counted_late_joins_the_span_that_is_coarse_already(
    conn: psycopg.Connection[Any], link: Link
) -> None:
    ended(conn, NOON - 3 * HOUR, 2)
    await janitor.retention(link, Settings())
    ended(conn, NOON - 3 * HOUR + MINUTE, 5, runner=uuid7())
    assert (await janitor.retention(link, Settings())).rolled_up == 1
    found = conn.execute("SELECT count, run_seconds, run_histogram[7] FROM taskrunner.task_stats").fetchall()
    assert found == [(7, 3.0, 7)]


async def test_two_janitors_at_once_count_nothing_twice(
    conn: psycopg.Connection[Any], link: Link, taskrunner_db: Database
) -> None:
    for hour in range(26, 40):
        for minute in range(0, 60, 10):
            ended(conn, NOON - hour * HOUR - minute * MINUTE, 1)
    other = Link(taskrunner_db.url, name="test janitor 2")
    await asyncio.gather(janitor.retention(link, Settings()), janitor.retention(other, Settings()))
    await other.close()
    assert conn.execute("SELECT sum(count) FROM taskrunner.task_stats").fetchone() == (84,)


def test_a_chart_reads_the_time_that_is_asked_for_by_its_index(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "INSERT INTO taskrunner.task_stats"
        " SELECT m, %s, 'default', 'default', 'Mail', 'succeeded', 1, 0, 0, '{}', '{}'"
        " FROM generate_series(%s::timestamptz, %s, interval '1 minute') m",
        [ONE, NOON.replace(second=0) - 10 * DAY, NOON],
    )
    conn.execute("ANALYZE taskrunner.task_stats")
    work = chart(ChartFilter(range="1h"))
    next(work)
    plan = explain(conn, work.send(NOON))
    assert plan.touched("task_stats") <= 62
