"""Lists over a long history: what a page looks at is bounded, whatever is asked for, and pages miss nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import AsyncTaskQueue, Task, TaskQueue, reads, register_task
from taskrunner.cli import pages
from taskrunner.cli.session import Session
from taskrunner.db import connect, run
from taskrunner.errors import InvalidArgument
from taskrunner.reads import Page, TaskFilter, TaskView
from taskrunner.registry import Registry
from taskrunner.settings import Settings
from taskrunner.spans import around
from taskrunner.states import State
from taskrunner.store import history, steering
from taskrunner.testing.database import Database
from tests.engine import Engine
from tests.plans import Plan, explain

DAY = timedelta(days=1)
ROWS, ROOM, LIMIT, DAYS = 50_000, 500, 20, 10

SPARSE: list[dict[str, Any]] = [
    {"type": "Nobody"},
    {"queue": "nowhere"},
    {"tenant": "nobody"},
    {"state": "cancelled"},
    {"state": "ignored", "type": "Nobody"},
    {"state": "succeeded", "type": "Nobody"},
    {"state": "pending", "type": "Nobody"},
    {"since": timedelta(days=4)},
    {"since": timedelta(days=4), "type": "Nobody"},
    {"since": timedelta(hours=1), "queue": "nowhere"},
]


@pytest.fixture(scope="module")
def long(taskrunner_template: Any) -> Iterator[Database]:
    """A database with many ended tasks over ten days, one of fifty ignored, and many that wait."""
    from taskrunner.testing.database import database

    with database(taskrunner_template) as fresh:
        fill(fresh)
        yield fresh


@pytest.fixture
def conn(long: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(long.url) as connection:
        yield connection


def fill(database: Database) -> None:
    now = database.now()
    with connect(database.url) as conn:
        for back in range(DAYS):
            run(conn, history.create(around((now - back * DAY).date(), "day"), timedelta(seconds=5)))
        conn.execute(
            """INSERT INTO taskrunner.task_history (id, finished_at, maturity_at, created_at, claim_no, priority, tries,
                   crashes, max_retries, tenant, queue, type, state, payload, meta, errors)
               SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' ||
                       substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
                      at, at, at, 1, 100, 0, 0, 3, 'default', 'default', 'Mail',
                      CASE WHEN n %% 50 = 0 THEN 'ignored' ELSE 'succeeded' END, '{}', '{}', '[]'
                 FROM generate_series(1, %s) AS n,
                      LATERAL (SELECT now() - n * interval '1 day' * 9.0 / %s AS at) AS a""",
            [ROWS, ROWS],
        )
        conn.execute(
            """INSERT INTO taskrunner.task (id, type, maturity_at, created_at)
               SELECT gen_random_uuid(), 'Mail', now(), now() FROM generate_series(1, 5000)"""
        )
        conn.execute("VACUUM (ANALYZE) taskrunner.task, taskrunner.task_history")


def asked(database: Database, wanted: dict[str, Any]) -> TaskFilter:
    given = {**wanted, "since": database.now() - wanted["since"]} if "since" in wanted else wanted
    return TaskFilter(limit=LIMIT, **given)


def planned(conn: psycopg.Connection[Any], wanted: TaskFilter, *, generic: bool) -> tuple[list[Plan], Page[TaskView]]:
    """Read a page, and return the plans of its statements too."""
    steps, plans, value = reads.list_tasks(wanted, ROOM), [], None
    while True:
        try:
            op = steps.send(value)
        except StopIteration as end:
            return plans, end.value
        plans.append(explain(conn, op, generic=generic))
        value = run(conn, op)


def touched(plan: Plan) -> int:
    """Count the rows that were read from the tables of tasks, those thrown away included."""
    tables = {str(node.get("Relation Name", "")) for node in plan.nodes}
    return sum(plan.touched(table) for table in tables if table.startswith(("task", "dead_letter")))


@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize("wanted", SPARSE, ids=str)
def test_a_page_looks_at_a_bounded_number_of_rows_whatever_is_asked_for(
    conn: psycopg.Connection[Any], long: Database, wanted: dict[str, Any], generic: bool
) -> None:
    """SPEED 12. By the room of each table in which something is looked for, and a row of each partition.

    Today's partition, as long as it is small, is cheaper read whole than by its index: up to three rooms of it.
    """
    plans, page = planned(conn, asked(long, wanted), generic=generic)
    assert len(page.items) <= LIMIT
    assert all(touched(plan) <= 4 * ROOM + LIMIT + DAYS + 5 for plan in plans), [touched(plan) for plan in plans]


def test_an_unfiltered_page_reads_no_more_rows_than_it_shows(conn: psycopg.Connection[Any]) -> None:
    """SPEC OPS 49, SPEED 12."""
    plans, page = planned(conn, TaskFilter(limit=LIMIT, after=uuid7()), generic=False)
    assert len(page.items) == LIMIT
    assert [touched(plan) <= 2 * LIMIT + DAYS + 5 for plan in plans] == [True]


def test_the_rare_states_of_history_are_found_by_their_index(conn: psycopg.Connection[Any]) -> None:
    """SPEED 12."""
    plans, page = planned(conn, TaskFilter(limit=LIMIT, state="ignored"), generic=True)
    assert len(page.items) == LIMIT
    assert all(touched(plan) <= ROOM + DAYS + 5 for plan in plans)


def walk(conn: psycopg.Connection[Any], wanted: TaskFilter, room: int) -> list[UUID]:
    found, after = [], None
    while True:
        page = run(conn, reads.list_tasks(wanted.model_copy(update={"after": after}), room))
        found += [task.id for task in page.items]
        assert page.next is None or after is None or page.next < after, "the cursor only goes down"
        if (after := page.next) is None:
            return found


@pytest.mark.parametrize(
    "wanted", [{"state": "ignored"}, {"type": "Mail", "limit": 1000}, {"since": timedelta(days=3), "limit": 1000}]
)
def test_pages_with_little_room_find_the_same_as_one_question(
    conn: psycopg.Connection[Any], long: Database, wanted: dict[str, Any]
) -> None:
    """SPEC OPS 49."""
    given = TaskFilter(**{**wanted, **({"since": long.now() - wanted["since"]} if "since" in wanted else {})})
    everything = conn.execute(
        """SELECT id FROM taskrunner.task WHERE %(state)s::text IS NULL AND created_at >= %(since)s
            UNION ALL
           SELECT id FROM taskrunner.task_history
            WHERE state = coalesce(%(state)s, state) AND created_at >= %(since)s
            ORDER BY 1 DESC""",
        {"state": given.state and given.state.value, "since": given.since or long.now() - 99 * DAY},
    ).fetchall()
    assert walk(conn, given, 3000) == [id_ for (id_,) in everything]


def test_a_list_at_the_terminal_goes_on_until_it_is_full_or_at_its_end(
    conn: psycopg.Connection[Any], long: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC OPS 49."""
    monkeypatch.setattr(reads, "ROOM", 200)
    session = Session(Settings(), long.url, conn)
    assert pages.listed(session, reads.list_tasks, TaskFilter(type="Nobody")) == []
    assert capsys.readouterr().err == ""
    assert len(pages.listed(session, reads.list_tasks, TaskFilter(state="succeeded", limit=300))) == 300
    assert "there may be more: --after" in capsys.readouterr().err
    monkeypatch.setattr(pages, "PATIENCE", 0.0)
    assert pages.listed(session, reads.list_tasks, TaskFilter(type="Nobody")) == []
    assert "not all was looked at" in capsys.readouterr().err


def test_a_task_that_moves_from_live_to_history_between_pages_is_neither_missed_nor_shown_twice(engine: Engine) -> None:
    """SPEC HIS 52, OPS 49."""
    ids = [uuid7() for _ in range(40)]
    for id_ in ids:
        engine.conn.execute(
            "INSERT INTO taskrunner.task (id, type, maturity_at, created_at) VALUES (%s, 'T', now(), now())", [id_]
        )
    left, found, after = set(ids), [], None
    while True:
        page = engine.do(reads.list_tasks(TaskFilter(type="T", limit=7, after=after), 5))
        found += [task.id for task in page.items]
        if (after := page.next) is None:
            break
        for id_ in (min(left), max(left)):  # one of the pages to come, and one of those that were
            engine.do(steering.cancel(id_))
            left.remove(id_)
    assert found == sorted(ids, reverse=True)


class Letter(Task):
    """A task of a type that has nothing to do."""

    def run(self) -> None: ...


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_both_doors_list_live_and_ended_tasks_page_by_page(engine: Engine, registry: Registry) -> None:
    """SPEC HIS 52, OPS 49."""
    register_task("Letter", queue="mail")(Letter)
    with TaskQueue.connect(engine.url, registry=registry) as queue:
        ids = [queue.add(Letter()).id for _ in range(5)]
        queue.cancel(ids[1])
        pages = [queue.list_tasks(type=Letter, limit=2)]
        while pages[-1].next is not None:
            pages.append(queue.list_tasks(type="Letter", limit=2, after=str(pages[-1].next)))
        assert [task.id for page in pages for task in page.items] == ids[::-1]
        assert [task.id for task in queue.list_tasks(state="cancelled", queue="mail").items] == [ids[1]]
        assert queue.list_tasks(since=datetime.now(UTC) + DAY).items == []
    async with AsyncTaskQueue.connect(engine.url, registry=registry) as door:
        assert [task.id for task in (await door.list_tasks(state=State.CANCELLED)).items] == [ids[1]]
        assert (await door.list_tasks(queue="nowhere")).items == []


def test_a_bound_door_lists_what_is_its_tenants(engine: Engine, registry: Registry) -> None:
    """SPEC TEN 54."""
    register_task("Letter")(Letter)
    with TaskQueue.connect(engine.url, registry=registry) as anybody:
        ids = {tenant: anybody.add(Letter(), tenant=tenant).id for tenant in ("acme", "other")}
        assert [task.id for task in anybody.list_tasks(tenant="other").items] == [ids["other"]]
        assert len(anybody.list_tasks().items) == 2
    with TaskQueue.connect(engine.url, tenant="acme", registry=registry) as bound:
        assert [task.id for task in bound.list_tasks().items] == [ids["acme"]]
        with pytest.raises(InvalidArgument, match="acme"):
            bound.list_tasks(tenant="other")


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"limit": 0}, "limit"),
        ({"state": "lost"}, "state"),
        ({"since": datetime(2026, 1, 1)}, "since"),  # noqa: DTZ001
        ({"after": "x"}, "after"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_its_name(
    engine: Engine, registry: Registry, wrong: dict[str, Any], word: str
) -> None:
    with (
        TaskQueue.connect(engine.url, registry=registry) as queue,
        pytest.raises(InvalidArgument, match=f"^{word}: "),
    ):
        queue.list_tasks(**wrong)
