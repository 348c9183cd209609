"""Ticks: every due time becomes exactly one task, whoever ticks, whatever breaks off in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from uuid_utils.compat import uuid7

from taskrunner import db
from taskrunner.db import Steps, run
from taskrunner.errors import Conflict, InvalidArgument, NotFound, PayloadInvalid, TriggerInvalid
from taskrunner.statements import schedule as sql
from taskrunner.store import declaration, enqueue, runner, schedule, timetable
from taskrunner.store.declaration import Declaration
from taskrunner.store.enqueue import NewTask
from taskrunner.store.schedule import Known, Schedule, Template
from taskrunner.store.timetable import NewSchedule
from taskrunner.testing.database import Database
from taskrunner.triggers import parse
from tests.processes import eventually

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def make(template: Template) -> NewTask:
    """As a registry would: `Once` is unique, `Picky` takes no payload but its own."""
    if template.type == "Picky" and template.payload != '{"ok": true}':
        raise PayloadInvalid("Picky.ok: Field required")
    key = "type:" if template.type == "Once" else f"key:{template.key}" if template.key else None
    return NewTask(
        uuid7(), template.type, template.payload, "default", tenant=template.tenant, unique_key=key, max_retries=0
    )


KNOWN = Known(("Plain", "Once", "Picky"), make)


class Desk:
    """One connection to the test's database, its clock, and short words for what tests do all the time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.conn = db.connect(database.url)

    def run(self, work: db.Work[Any]) -> Any:
        return run(self.conn, work)

    def declare(self, name: str = "Plain", frequency: Any = 60, version: int = 1, **more: Any) -> str:
        timezone = more.pop("timezone", "UTC")
        return self.run(declaration.declare(Declaration(name, parse(frequency, timezone=timezone), version, **more)))

    def tick_all(self, known: Known = KNOWN, limit: int = 100) -> int:
        """Tick as a scheduler does, until nothing is due."""
        ticks = 0
        while due := [each for each in self.run(schedule.line(known.types, (), 100)) if each.due_in <= 0]:
            for waiting in due:
                ticks += self.run(schedule.tick(waiting.id, known, limit)) is not None
        return ticks

    def schedule(self, name: str = "Plain") -> Schedule:
        return self.run(timetable.get(name))

    def tasks(self) -> list[Any]:
        with self.conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute("SELECT * FROM taskrunner.task ORDER BY schedule_id, tick_at").fetchall()

    def tick_times(self) -> list[datetime]:
        return [task.tick_at for task in self.tasks()]

    def finish_all(self) -> None:
        self.conn.execute("DELETE FROM taskrunner.task")


@pytest.fixture
def desk(taskrunner_db: Database) -> Iterator[Desk]:
    taskrunner_db.freeze(NOON)
    fresh = Desk(taskrunner_db)
    yield fresh
    fresh.conn.close()


# ── ticks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_interval_fires_at_once_and_then_on_a_grid_without_drift(desk: Desk) -> None:
    """SPEC SCH 38."""
    desk.declare(frequency=60)
    desk.tick_all()
    for late in (61, 62.5, 58.25):
        desk.database.travel(timedelta(seconds=late))
        desk.tick_all()

    assert desk.tick_times() == [NOON, NOON + MINUTE, NOON + 2 * MINUTE, NOON + 3 * MINUTE]
    assert [task.maturity_at for task in desk.tasks()] == desk.tick_times()
    assert desk.schedule().next_tick_at == NOON + 4 * MINUTE
    assert desk.schedule().ticks == 4


def test_a_new_crontab_waits_for_its_first_due_time(desk: Desk) -> None:
    """SPEC SCH 38."""
    desk.declare(frequency="0 12 * * *")
    assert desk.tick_all() == 0
    assert desk.schedule().next_tick_at == NOON + timedelta(days=1)


def test_five_restarts_in_one_period_add_nothing(desk: Desk) -> None:
    """SPEC SCH 38."""
    assert desk.declare(frequency=60) == "added"
    desk.tick_all()
    for _ in range(5):
        desk.database.travel(timedelta(seconds=10))
        assert desk.declare(frequency=60) == "unchanged"
        desk.tick_all()
    assert desk.tick_times() == [NOON]


@pytest.mark.parametrize("frequency", [0.2, 1, 5, 60, 86400, "*/5 * * * *"])
@pytest.mark.parametrize("beyond", [0.0, 0.4, 0.9])
@pytest.mark.parametrize(("catch_up", "expected"), [("latest", 1), ("all", 5), ("skip", 0)])
def test_after_five_periods_away_the_catch_up_rule_decides_and_the_grid_is_the_old_one(
    catch_up: str, expected: int, beyond: float, frequency: Any
) -> None:
    """SPEC SCH 39; FAULTS F9."""
    trigger = parse(frequency)
    period = trigger.next_after(NOON, NOON) - NOON  # type: ignore[operator]  # these have a next
    stored = stub(trigger.text(), catch_up, next_tick_at=NOON + period, now=NOON + period * (5 + beyond))
    dues = schedule.due_times(stored, trigger, 100)
    assert dues == [NOON + period * n for n in range(6 - expected, 6)]


def stub(trigger: str, catch_up: str, *, next_tick_at: datetime, now: datetime) -> Schedule:
    values: dict[str, Any] = dict.fromkeys(Schedule._fields)
    return Schedule(**values | {"trigger": trigger, "catch_up": catch_up, "next_tick_at": next_tick_at, "now": now})


@pytest.mark.parametrize(("catch_up", "expected"), [("latest", [5]), ("all", [1, 2, 3, 4, 5]), ("skip", [])])
def test_what_was_missed_is_made_up_for_once_and_ticking_goes_on(
    desk: Desk, catch_up: str, expected: list[int]
) -> None:
    """SPEC SCH 39."""
    desk.declare(catch_up=catch_up)
    desk.tick_all()
    desk.finish_all()
    desk.database.travel(5 * MINUTE + timedelta(seconds=7))
    desk.tick_all()
    assert desk.tick_times() == [NOON + n * MINUTE for n in expected]
    desk.finish_all()
    desk.database.travel(MINUTE)
    desk.tick_all()
    assert desk.tick_times() == [NOON + 6 * MINUTE]


def test_a_tick_that_is_merely_a_second_late_is_not_missed(desk: Desk) -> None:
    """SPEC SCH 39."""
    desk.declare(catch_up="skip", frequency=1)
    desk.tick_all()
    desk.database.travel(timedelta(seconds=1.9))
    desk.tick_all()
    assert desk.tick_times() == [NOON, NOON + timedelta(seconds=1)]


def test_three_days_away_are_made_up_for_within_the_bound(desk: Desk) -> None:
    """SPEC SCH 39; FAULTS F9."""
    desk.declare(catch_up="all")
    desk.tick_all()
    desk.finish_all()
    desk.database.travel(timedelta(days=3))
    desk.tick_all(limit=7)
    assert desk.tick_times() == [NOON + timedelta(days=3) - n * MINUTE for n in range(6, -1, -1)]


def test_a_tick_that_meets_a_live_unique_task_is_skipped_and_counted(desk: Desk) -> None:
    """SPEC UNQ 14."""
    desk.declare("Once")
    desk.tick_all()
    for _ in range(3):
        desk.database.travel(MINUTE)
        desk.tick_all()
    assert desk.tick_times() == [NOON]
    assert (desk.schedule("Once").ticks, desk.schedule("Once").skipped) == (1, 3)
    desk.finish_all()
    desk.database.travel(MINUTE)
    desk.tick_all()
    assert desk.tick_times() == [NOON + 4 * MINUTE]


def test_five_missed_ticks_of_a_unique_type_are_one_task_and_four_skipped(desk: Desk) -> None:
    """SPEC UNQ 14, SCH 39."""
    desk.declare("Once", catch_up="all")
    desk.tick_all()
    desk.finish_all()
    desk.database.travel(5 * MINUTE)
    desk.tick_all()
    assert desk.tick_times() == [NOON + MINUTE]
    assert (desk.schedule("Once").ticks, desk.schedule("Once").skipped) == (2, 4)


def test_jitter_is_the_same_for_every_scheduler_and_stays_in_its_bounds(desk: Desk) -> None:
    desk.declare(frequency=1, jitter=timedelta(seconds=30), catch_up="all")
    desk.database.travel(timedelta(seconds=49))
    row = desk.schedule()
    expected = [schedule._delay(row, NOON + timedelta(seconds=n)) for n in range(50)]
    desk.tick_all()
    delays = [task.maturity_at - task.tick_at for task in desk.tasks()]
    assert delays == expected
    assert all(timedelta(0) <= delay < timedelta(seconds=30) for delay in delays)
    assert max(delays) - min(delays) > timedelta(seconds=15)


def test_a_database_clock_that_is_set_back_does_not_tick_again(desk: Desk) -> None:
    desk.declare()
    desk.database.travel(5 * MINUTE)
    desk.tick_all()
    desk.database.freeze(NOON - 3 * MINUTE)
    desk.conn.execute("UPDATE taskrunner.schedule SET next_tick_at = %s", [NOON - 3 * MINUTE])
    for _ in range(12):
        desk.tick_all()
        desk.database.travel(MINUTE)
    assert desk.tick_times() == [NOON + 5 * MINUTE, NOON + 6 * MINUTE, NOON + 7 * MINUTE, NOON + 8 * MINUTE]


def test_the_schedule_ends_with_its_end(desk: Desk) -> None:
    end = NOON + 2 * MINUTE
    desk.run(timetable.add(NewSchedule("short", "Plain", parse(60), end_at=end, catch_up="all"), KNOWN))
    desk.database.travel(10 * MINUTE)
    desk.tick_all()
    assert desk.tick_times() == [NOON, NOON + MINUTE, NOON + 2 * MINUTE]
    assert desk.schedule("short").next_tick_at is None
    assert desk.tick_all() == 0


def test_types_that_a_scheduler_does_not_know_are_left_alone(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare("Foreign")
    assert desk.tick_all() == 0
    assert desk.run(schedule.tick(desk.schedule("Foreign").id, KNOWN, 100)) is None


def test_a_rows_columns_are_the_fields_that_they_fill(desk: Desk) -> None:
    described = desk.conn.execute(sql.SEEN).description
    assert [column.name for column in described or ()] == list(Schedule._fields)


def test_the_look_at_what_is_due_reads_its_index_and_no_more_rows_than_asked_for(desk: Desk) -> None:
    desk.conn.execute(
        "INSERT INTO taskrunner.schedule (id, name, type, trigger, next_tick_at, created_at)"
        " SELECT gen_random_uuid(), 's' || n, 'Plain', 'interval 60', %(now)s + n * interval '1 s', %(now)s"
        "   FROM generate_series(1, 5000) n",
        {"now": NOON},
    )
    desk.conn.execute("ANALYZE taskrunner.schedule")
    look = schedule.line(KNOWN.types, (), 10)
    plan = "\n".join(line for (line,) in desk.conn.execute("EXPLAIN (ANALYZE, TIMING OFF) " + look.sql, look.params))
    assert "Index Scan using schedule_due" in plan
    assert "rows=10 " in plan or "rows=10.00 " in plan
    assert "Sort" not in plan


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def drive(conn: psycopg.Connection[Any], steps: Steps[Any], count: int) -> int:
    """Execute the first `count` statements in an open transaction; returns how many there were."""
    value: Any = None
    conn.execute("BEGIN")
    for place in range(count):
        try:
            op = steps.send(value)
        except StopIteration:
            return place
        cursor = conn.execute(op.sql, op.params, binary=True)
        value = op.read(cursor.fetchall() if cursor.description else ())
    return count


def count_steps(desk: Desk, work: Callable[[], Steps[Any]]) -> int:
    total = drive(desk.conn, work(), 1000)
    desk.conn.execute("ROLLBACK")
    return total


def test_a_scheduler_killed_between_any_two_statements_neither_loses_nor_doubles_a_tick(desk: Desk) -> None:
    """SPEC SCH 38; FAULTS F7."""
    desk.declare()
    id_ = desk.schedule().id
    statements = count_steps(desk, lambda: schedule.tick(id_, KNOWN, 100))
    assert statements >= 4
    for killed_after in range(statements + 1):
        victim = db.connect(desk.database.url)
        drive(victim, schedule.tick(id_, KNOWN, 100), killed_after)
        desk.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        victim.close()
        desk.tick_all()
        desk.database.travel(MINUTE)
    assert desk.tick_times() == [NOON + n * MINUTE for n in range(statements + 1)]
    assert desk.schedule().ticks == statements + 1


def test_a_scheduler_killed_at_a_schedule_of_people_neither_loses_nor_doubles_a_tick(desk: Desk) -> None:
    """SPEC SCH 38, 41; FAULTS F7: with payload, tenant, key, jitter and several rules."""
    rules = parse(["* * * * *", MINUTE, timedelta(minutes=2)])
    jitter = timedelta(seconds=30)
    new = NewSchedule("one", "Plain", rules, '{"to": "a@b.c"}', "acme", "k", jitter=jitter, queue="slow", priority=3)
    id_ = desk.run(timetable.add(new, KNOWN)).id
    statements = count_steps(desk, lambda: schedule.tick(id_, KNOWN, 100))
    made: list[Any] = []
    for killed_after in range(statements + 1):
        victim = db.connect(desk.database.url)
        drive(victim, schedule.tick(id_, KNOWN, 100), killed_after)
        desk.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        victim.close()
        desk.tick_all()
        made += desk.tasks()
        desk.finish_all()
        desk.database.travel(MINUTE)
    assert [task.tick_at for task in made] == [NOON + n * MINUTE for n in range(statements + 1)]
    assert {(task.tenant, task.unique_key, task.payload["to"]) for task in made} == {("acme", "key:k", "a@b.c")}
    late = [task.maturity_at - task.tick_at for task in made]
    assert all(timedelta(0) <= each < jitter for each in late)
    assert len(set(late)) == len(late), "each tick has a share of its own"
    there = desk.run(timetable.get("one", "acme"))
    assert (there.ticks, there.skipped) == (statements + 1, 0)


def test_a_change_that_is_broken_off_leaves_nothing_half_done(desk: Desk) -> None:
    """SPEC SCH 41; FAULTS F7."""
    old = NewSchedule("one", "Plain", parse(60))
    before = desk.run(timetable.add(old, KNOWN))
    new = replace(old, trigger=parse("0 3 * * *"), payload='{"to": "x"}', id=uuid7())
    for work in (
        lambda: timetable.change("one", "default", lambda _: new, KNOWN),
        lambda: timetable.add(new, KNOWN, overwrite=True),
        lambda: timetable.remove("one"),
    ):
        statements = count_steps(desk, work)
        assert statements >= 2
        for killed_after in range(statements + 1):
            drive(desk.conn, work(), killed_after)
            desk.conn.execute("ROLLBACK")
            assert desk.schedule("one") == before


def test_a_change_waits_for_the_tick_that_is_under_way_and_takes_nothing_of_it_back(desk: Desk) -> None:
    """SPEC SCH 41."""
    id_ = desk.run(timetable.add(NewSchedule("one", "Plain", parse(60)), KNOWN)).id
    ticking = db.connect(desk.database.url)
    drive(ticking, schedule.tick(id_, KNOWN, 100), 1000)
    new = NewSchedule("one", "Plain", parse(90))
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(lambda: desk.run(timetable.change("one", "default", lambda _: new, KNOWN)))
        with db.connect(desk.database.url) as watcher:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            eventually(lambda: watcher.execute(waiting).fetchone(), "the change waits")
        ticking.execute("COMMIT")
        assert changed.result(60).next_tick_at == NOON + timedelta(seconds=90)
    ticking.close()
    assert (desk.tick_times(), desk.schedule("one").ticks) == ([NOON], 1)


def test_a_tick_whose_commit_got_no_reply_is_not_repeated(desk: Desk) -> None:
    """SPEC CRA 36; FAULTS F15."""
    desk.declare()
    id_ = desk.schedule().id
    desk.run(schedule.tick(id_, KNOWN, 100))
    assert desk.run(schedule.tick(id_, KNOWN, 100)) is None
    assert desk.tick_times() == [NOON]


def test_a_killed_declaration_leaves_nothing_half_done(desk: Desk) -> None:
    """SPEC SCH 38; FAULTS F7."""
    before = Declaration("Old", parse(60), 1)
    desk.run(declaration.declare(before))
    renamed = Declaration("Plain", parse(60), 2, aliases=("Old",))
    for killed_after in range(count_steps(desk, lambda: declaration.declare(renamed)) + 1):
        drive(desk.conn, declaration.declare(renamed), killed_after)
        desk.conn.execute("ROLLBACK")
    assert desk.schedule("Old").next_tick_at == NOON
    with pytest.raises(NotFound):
        desk.schedule("Plain")


def test_three_schedulers_and_a_thousand_due_ticks_make_exactly_a_thousand_tasks(desk: Desk) -> None:
    """SPEC SCH 38; FAULTS F8."""
    known = replace(KNOWN, types=[f"T{n}" for n in range(50)])
    for name in known.types:
        desk.declare(name)
    schedulers = [Desk(desk.database) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            assert sum(pool.map(lambda each: each.tick_all(known), schedulers)) == 50
            desk.database.travel(MINUTE)
    for each in schedulers:
        each.conn.close()
    found = {(task.schedule_id, task.tick_at) for task in desk.tasks()}
    assert len(desk.tasks()) == len(found) == 1000
    assert {tick_at for _, tick_at in found} == {NOON + n * MINUTE for n in range(20)}


def test_two_schedulers_at_one_schedule_at_the_same_instant_tick_once(desk: Desk) -> None:
    """SPEC SCH 38."""
    desk.declare()
    id_ = desk.schedule().id
    other = db.connect(desk.database.url)
    drive(other, schedule.tick(id_, KNOWN, 100), 1000)
    assert desk.run(schedule.tick(id_, KNOWN, 100)) is None, "the other one has the lock"
    other.execute("COMMIT")
    other.close()
    assert desk.tick_all() == 0
    assert desk.tick_times() == [NOON]


def test_an_open_enqueue_of_the_same_key_holds_up_only_that_tick_and_not_for_long(desk: Desk) -> None:
    """SPEC UNQ 15, SCH 43."""
    desk.declare("Once")
    stranger = db.connect(desk.database.url)
    drive(stranger, enqueue.add([make(Template("Once", "{}", "default", None))]), 100)
    id_ = desk.schedule("Once").id
    desk.conn.execute("SET statement_timeout = '2s'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        desk.run(schedule.tick(id_, KNOWN, 100))
    stranger.execute("ROLLBACK")
    stranger.close()
    desk.tick_all()
    assert desk.tick_times() == [NOON]


def test_a_failed_tick_is_kept_beside_its_schedule_and_forgotten_after_the_next_good_one(desk: Desk) -> None:
    """SPEC SCH 43."""
    desk.run(timetable.add(NewSchedule("picky", "Picky", parse(60), '{"ok": true}'), KNOWN))
    id_ = desk.schedule("picky").id
    desk.conn.execute("UPDATE taskrunner.schedule SET payload = '{}'")
    with pytest.raises(PayloadInvalid):
        desk.run(schedule.tick(id_, KNOWN, 100))
    desk.run(schedule.fail(id_, "PayloadInvalid: Picky.ok"))
    assert desk.schedule("picky").last_error == "PayloadInvalid: Picky.ok"
    assert desk.schedule("picky").next_tick_at == NOON, "the tick is not lost"
    desk.conn.execute("""UPDATE taskrunner.schedule SET payload = '{"ok": true}'""")
    desk.tick_all()
    assert desk.schedule("picky").last_error is None
    assert desk.tick_times() == [NOON]


def test_a_failure_is_not_written_over_somebodys_lock(desk: Desk) -> None:
    desk.declare()
    id_ = desk.schedule().id
    stranger = db.connect(desk.database.url)
    stranger.execute("BEGIN")
    stranger.execute("SELECT 1 FROM taskrunner.schedule FOR UPDATE")
    desk.run(schedule.fail(id_, "trouble"))
    stranger.execute("ROLLBACK")
    stranger.close()
    assert desk.schedule().last_error is None


def test_a_trigger_of_a_newer_release_stops_only_its_own_schedule(desk: Desk) -> None:
    """SPEC SCH 43."""
    desk.declare()
    desk.conn.execute("UPDATE taskrunner.schedule SET trigger = 'lunar 3'")
    with pytest.raises(TriggerInvalid, match="newer release"):
        desk.run(schedule.tick(desk.schedule().id, KNOWN, 100))


# ── clock changes ────────────────────────────────────────────────────────────────────────────────────────────────────


def instants(*texts: str) -> list[datetime]:
    return [datetime.fromisoformat(f"2026-{text}+00:00") for text in texts]


WARSAW = [
    ("0 0 * * *", "03-28T12:00", instants("03-28T23:00", "03-29T22:00", "03-30T22:00")),
    ("30 2 * * *", "03-28T12:00", instants("03-29T01:00", "03-30T00:30")),
    ("30 2 * * *", "10-24T12:00", instants("10-25T00:30", "10-26T01:30")),
    ("0 * * * *", "03-28T23:30", instants("03-29T00:00", "03-29T01:00", "03-29T02:00")),
    ("0 * * * *", "10-24T23:30", instants("10-25T00:00", "10-25T01:00", "10-25T02:00")),
    ("0 9 * * 0", "03-27T12:00", instants("03-29T07:00", "04-05T07:00")),
    ("0 9 * * 7", "03-27T12:00", instants("03-29T07:00", "04-05T07:00")),
]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize(("crontab", "begin", "expected"), WARSAW)
def test_clock_changes_in_warsaw_are_kept_by_the_store_whatever_the_servers_zone(
    taskrunner_db: Database, crontab: str, begin: str, expected: list[datetime], zone: str
) -> None:
    """SPEC SCH 42, CLM 22."""
    with taskrunner_db.connect() as conn:
        conn.execute(f"ALTER DATABASE \"{taskrunner_db.name}\" SET timezone = '{zone}'")
    taskrunner_db.freeze(*instants(begin))
    desk = Desk(taskrunner_db)
    desk.declare(frequency=crontab, timezone="Europe/Warsaw")
    for due in expected:
        taskrunner_db.freeze(due - timedelta(seconds=1))
        assert desk.tick_all() == 0
        taskrunner_db.freeze(due)
        assert desk.tick_all() == 1
    assert desk.tick_times() == expected
    desk.conn.close()


# ── declarations ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_frequency_takes_effect_on_a_new_grid(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare(frequency=3600)
    desk.tick_all()
    desk.database.travel(timedelta(seconds=90))
    assert desk.declare(frequency=60, version=2) == "changed"
    assert desk.schedule().next_tick_at == NOON + 2 * MINUTE, "an interval counts from the last tick"
    assert desk.declare(frequency="0 0 * * *", version=3, timezone="Europe/Warsaw") == "changed"
    assert desk.schedule().next_tick_at == NOON + timedelta(hours=11)
    assert desk.tick_all() == 0


def test_code_may_declare_several_rules_and_the_same_ones_again_change_nothing(desk: Desk) -> None:
    """SPEC REG 5, SCH 40."""
    assert desk.declare(frequency=["0 13 * * *", 2 * MINUTE]) == "added"
    assert desk.declare(frequency=[120, "0 13 * * *"], version=2) == "unchanged"
    desk.database.travel(2 * MINUTE)
    desk.tick_all()
    assert desk.tick_times() == [NOON + 2 * MINUTE]
    assert desk.declare(frequency=[120, "0 14 * * *"], version=3) == "changed"
    assert desk.schedule().next_tick_at == NOON + 4 * MINUTE


def test_catch_up_and_jitter_change_without_a_new_grid(desk: Desk) -> None:
    desk.declare(frequency="0 0 * * *")
    before = desk.schedule()
    assert desk.declare(frequency="0 0 * * *", catch_up="all", jitter=MINUTE, version=2) == "changed"
    after = desk.schedule()
    assert (after.catch_up, after.jitter, after.next_tick_at) == ("all", MINUTE, before.next_tick_at)


def test_an_older_release_beside_a_newer_one_changes_nothing(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare(frequency=60, version=2)
    before = desk.schedule()
    assert desk.declare(frequency=3600, version=1) == "older"
    assert desk.schedule() == before


def test_a_newer_release_with_the_same_frequency_still_counts_as_newer(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare(frequency=60, version=1)
    assert desk.declare(frequency=60, version=3) == "unchanged"
    assert desk.declare(frequency=5, version=2) == "older"


def test_a_frequency_taken_out_of_the_code_ends_its_schedule_even_for_an_older_release(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare(version=1)
    assert desk.run(declaration.end({"Plain": 2})) == ["Plain"]
    assert desk.run(declaration.end({"Plain": 2})) == []
    assert desk.declare(version=1) == "older"
    assert desk.tick_all() == 0
    assert desk.declare(version=3) == "changed", "it came back"
    assert desk.tick_all() == 1


def test_an_older_release_cannot_end_a_newer_ones_schedule(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare(version=2)
    assert desk.run(declaration.end({"Plain": 1})) == []
    assert desk.tick_all() == 1


def test_somebodys_lock_keeps_a_declaration_waiting_for_a_moment_only(desk: Desk) -> None:
    """SPEC SCH 43."""
    desk.declare(version=1)
    desk.conn.execute("SET statement_timeout = '2s'")
    stranger = db.connect(desk.database.url)
    stranger.execute("BEGIN")
    stranger.execute("SELECT 1 FROM taskrunner.schedule FOR UPDATE")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        desk.run(declaration.end({"Plain": 2}))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        desk.declare(version=2)
    stranger.execute("ROLLBACK")
    stranger.close()
    assert desk.run(declaration.end({"Plain": 2})) == ["Plain"]


def test_a_renamed_type_takes_over_the_grid_of_its_old_name(desk: Desk) -> None:
    """SPEC REG 6, SCH 40."""
    desk.declare("Old", 60, 1)
    desk.tick_all(replace(KNOWN, types=["Old"]))
    desk.database.travel(timedelta(seconds=30))
    assert desk.declare("Plain", 60, 2, aliases=("Old",)) == "added"
    assert desk.schedule("Plain").next_tick_at == NOON + MINUTE
    assert desk.schedule("Plain").ticks == 1
    assert desk.schedule("Old").next_tick_at is None
    assert desk.declare("Old", 60, 1) == "older"
    desk.database.travel(MINUTE)
    desk.tick_all(replace(KNOWN, types=["Old", "Plain"]))
    assert desk.tick_times() == [NOON, NOON + MINUTE]


def test_two_schedulers_may_declare_the_same_at_once(desk: Desk) -> None:
    """SPEC SCH 38."""
    other = Desk(desk.database)
    names = [f"T{n}" for n in range(20)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = [list(pool.map(lambda each, name=name: each.declare(name), [desk, other])) for name in names]
    other.conn.close()
    assert all(sorted(pair) == ["added", "unchanged"] for pair in outcomes), outcomes


def test_a_schedule_made_at_run_time_is_not_overwritten_by_code(desk: Desk) -> None:
    desk.run(timetable.add(NewSchedule("Plain", "Plain", parse(5)), KNOWN))
    assert desk.declare("Plain", 60, 9) == "taken"
    assert desk.schedule().trigger == "interval 5"


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def join(desk: Desk, *types: str) -> None:
    process = runner.Process(uuid4(), "scheduler", "host", 1, (), types, 0, "1")
    desk.run(runner.join(process, timedelta(seconds=15)))


def test_a_schedule_whose_type_no_live_process_knows_is_shown_as_orphaned(desk: Desk) -> None:
    """SPEC SCH 40."""
    desk.declare()
    assert desk.schedule().orphaned
    join(desk, "Plain")
    assert not desk.schedule().orphaned
    desk.database.travel(timedelta(seconds=16))
    assert [each.orphaned for each in desk.run(timetable.listing())] == [True]


def test_a_paused_schedule_makes_nothing_and_goes_on_in_the_future(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare(catch_up="all")
    desk.tick_all()
    desk.run(timetable.pause("Plain"))
    desk.database.travel(timedelta(seconds=150))
    assert desk.tick_all() == 0
    assert desk.run(timetable.resume("Plain")) == NOON + 3 * MINUTE
    assert desk.tick_all() == 0
    desk.database.travel(timedelta(seconds=30))
    desk.tick_all()
    assert desk.tick_times() == [NOON, NOON + 3 * MINUTE]


def test_resuming_what_is_not_paused_loses_no_tick(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare()
    assert desk.run(timetable.resume("Plain")) == NOON
    assert desk.tick_all() == 1


def test_a_short_pause_between_two_ticks_loses_no_tick(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare()
    desk.tick_all()
    desk.run(timetable.pause("Plain"))
    assert desk.run(timetable.resume("Plain")) == NOON + MINUTE


def test_run_now_adds_a_task_beside_the_ticks_also_of_a_paused_schedule(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare("Once")
    desk.run(timetable.pause("Once"))
    first = desk.run(timetable.run_now("Once", KNOWN))
    assert first.created
    assert desk.run(timetable.run_now("Once", KNOWN)) == (first.id, False)
    (task,) = desk.tasks()
    assert (task.schedule_id, task.tick_at, task.maturity_at) == (desk.schedule("Once").id, None, NOON)
    assert desk.schedule("Once").next_tick_at == NOON


def test_a_schedule_added_at_run_time_has_its_payload_tenant_and_key(desk: Desk) -> None:
    """SPEC SCH 41."""
    new = NewSchedule("nightly", "Plain", parse("0 0 * * *"), '{"to": "a@b.c"}', tenant="acme", key="one")
    added = desk.run(timetable.add(new, KNOWN))
    assert added.next_tick_at == NOON + timedelta(hours=12)
    desk.database.travel(timedelta(hours=12))
    desk.tick_all()
    (task,) = desk.tasks()
    assert (task.tenant, task.payload, task.unique_key) == ("acme", {"to": "a@b.c"}, "key:one")
    assert [each.name for each in desk.run(timetable.listing("acme"))] == ["nightly"]
    assert desk.run(timetable.listing("other")) == []


@pytest.mark.parametrize(
    ("frequency", "start", "first"),
    [(60, MINUTE * 1.5, MINUTE * 1.5), ("* * * * *", MINUTE * 2, MINUTE * 2), ("0 13 * * *", MINUTE, MINUTE * 60)],
)
def test_a_start_is_included(desk: Desk, frequency: Any, start: timedelta, first: timedelta) -> None:
    new = NewSchedule("later", "Plain", parse(frequency), start_at=NOON + start)
    assert desk.run(timetable.add(new, KNOWN)).next_tick_at == NOON + first


def test_what_cannot_be_added_is_refused_and_leaves_nothing(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.run(timetable.add(NewSchedule("one", "Plain", parse(60)), KNOWN))
    with pytest.raises(Conflict, match="'one' already"):
        desk.run(timetable.add(NewSchedule("one", "Plain", parse(5)), KNOWN))
    with pytest.raises(PayloadInvalid, match=r"Picky\.ok"):
        desk.run(timetable.add(NewSchedule("two", "Picky", parse(5)), KNOWN))
    with pytest.raises(InvalidArgument, match="never fire"):
        desk.run(timetable.add(NewSchedule("two", "Plain", parse(5), end_at=NOON - MINUTE), KNOWN))
    assert [each.name for each in desk.run(timetable.listing())] == ["one"]


def test_remove_takes_runtime_and_orphaned_schedules_but_not_what_live_code_declares(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.run(timetable.add(NewSchedule("one", "Plain", parse(60)), KNOWN))
    desk.declare("Plain")
    join(desk, "Plain")
    assert desk.run(timetable.remove("one")) == "one"
    with pytest.raises(Conflict, match="declared in code"):
        desk.run(timetable.remove("Plain"))
    desk.database.travel(timedelta(seconds=16))
    assert desk.run(timetable.remove("Plain")) == "Plain"
    assert desk.run(timetable.listing()) == []


@pytest.mark.parametrize("act", [timetable.get, timetable.pause, timetable.resume, timetable.remove])
def test_an_unknown_schedule_is_not_found(desk: Desk, act: Callable[[str], Steps[Any]]) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        desk.run(act("nobody"))


def test_a_look_ahead_says_what_then_happens(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare(frequency="0 2,14 * * *", timezone="Europe/Warsaw")
    promised = timetable.ahead(desk.schedule(), 4)
    for due in promised:
        desk.database.freeze(due)
        desk.tick_all()
    assert desk.tick_times() == promised


def test_a_look_ahead_at_a_paused_schedule_begins_after_now(desk: Desk) -> None:
    """SPEC SCH 41."""
    desk.declare()
    desk.run(timetable.pause("Plain"))
    desk.database.travel(timedelta(seconds=90))
    assert timetable.ahead(desk.schedule(), 2) == [NOON + 2 * MINUTE, NOON + 3 * MINUTE]
    assert desk.run(timetable.resume("Plain")) == NOON + 2 * MINUTE


def test_a_look_ahead_ends_with_the_schedule(desk: Desk) -> None:
    new = NewSchedule("short", "Plain", parse(60), end_at=NOON + MINUTE)
    assert timetable.ahead(desk.run(timetable.add(new, KNOWN)), 5) == [NOON, NOON + MINUTE]
