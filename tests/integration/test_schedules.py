"""Schedules made and steered at run time, through both doors, and what schedulers then make of them."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.date import DateTrigger
from psycopg.rows import namedtuple_row

from taskrunner import AsyncTaskQueue, Task, TaskQueue, db, declared, reads, register_task, roles
from taskrunner.errors import Conflict, InvalidArgument, NotFound, PayloadInvalid, UnknownType
from taskrunner.registry import Registry
from taskrunner.schedules import AsyncSchedules, Schedules
from taskrunner.store import declaration, schedule
from taskrunner.testing.database import Database
from taskrunner.wishes import Changes
from tests.chaos.proxy import Proxy, Rule
from tests.processes import eventually
from tests.roles import roles_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NAIVE = NOON.replace(tzinfo=None)

Ask = Callable[..., Any]


class Mail(Task):
    to: str = "nobody@example.org"
    copies: int = 1

    async def run(self) -> None: ...


class Once(Task):
    async def run(self) -> None: ...


class Coded(Task):
    async def run(self) -> None: ...


class Stranger(Task):
    async def run(self) -> None: ...


@pytest.fixture
def types(registry: Registry) -> Registry:
    """Two types for schedules of people, and one whose schedule is in its code."""
    register_task("Mail", queue="mail", priority=7, aliases=("Post",))(Mail)
    register_task("Once", unique=True)(Once)
    register_task("Coded", MINUTE)(Coded)
    return registry


class World:
    """The test's database with its clock stopped at noon, ticked by hand."""

    def __init__(self, database: Database, types: Registry) -> None:
        self.database, self.types = database, types
        self.known = declared.known(types)
        self.conn = db.connect(database.url)
        database.freeze(NOON)

    def do(self, work: db.Work[Any]) -> Any:
        return db.run(self.conn, work)

    def tick(self) -> int:
        """Tick as a scheduler does, until nothing is due; returns how many ticks that took."""
        ticks = 0
        while due := [each for each in self.do(schedule.line(self.known.types, (), 100)) if each.due_in <= 0]:
            for waiting in due:
                ticks += self.do(schedule.tick(waiting.id, self.known, 100)) is not None
        return ticks

    def declare(self) -> None:
        for one in declared.declarations(self.types):
            self.do(declaration.declare(one))

    def join(self) -> None:
        """Let a process live that knows the types."""
        from uuid import uuid4

        from taskrunner.store import runner

        process = runner.Process(uuid4(), "runner", "host", 1, (), tuple(self.known.types), 1, "0.1")
        self.do(runner.join(process, timedelta(seconds=15)))

    def tasks(self) -> list[Any]:
        with self.conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute("SELECT * FROM taskrunner.task ORDER BY tick_at, id").fetchall()

    def ticked(self) -> list[datetime]:
        return [task.tick_at for task in self.tasks() if task.tick_at is not None]

    def finish(self) -> None:
        self.conn.execute("DELETE FROM taskrunner.task")

    def names(self) -> list[str]:
        return [one.name for one in self.do(reads.schedules())]


@pytest.fixture
def world(taskrunner_db: Database, types: Registry) -> Iterator[World]:
    made = World(taskrunner_db, types)
    yield made
    made.conn.close()


@pytest.fixture(params=["TaskQueue", "AsyncTaskQueue"])
def ask(request: pytest.FixtureRequest, world: World) -> Iterator[Ask]:
    """Call a method of `queue.schedules`, of either door."""
    if request.param == "TaskQueue":
        with TaskQueue.connect(world.database.url, registry=world.types) as queue:
            yield lambda name, *args, **options: getattr(queue.schedules, name)(*args, **options)
        return
    with asyncio.Runner() as loop:
        door = AsyncTaskQueue.connect(world.database.url, registry=world.types)
        loop.run(door.open())
        yield lambda name, *args, **options: loop.run(getattr(door.schedules, name)(*args, **options))
        loop.run(door.close())


# ── add ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_has_all_that_it_was_given_and_so_have_its_tasks(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    made = ask(
        "add", "nightly", Mail(to="a@b.c", copies=2), "0 3 * * *", timezone="Europe/Warsaw", tenant="acme", key="one",
        start_at=NOON + DAY, end_at=NOON + 3 * DAY, jitter=30, catch_up="all", queue="slow", priority=-5,
    )  # fmt: skip
    assert made == ask("get", "nightly", tenant="acme")
    assert (made.name, made.type, made.tenant, made.key) == ("nightly", "Mail", "acme", "one")
    assert (made.timezone, made.trigger, made.catch_up) == ("Europe/Warsaw", "cron 0 3 * * *", "all")
    assert (made.start_at, made.end_at, made.jitter) == (NOON + DAY, NOON + 3 * DAY, timedelta(seconds=30))
    assert (made.queue, made.priority, made.payload) == ("slow", -5, {"to": "a@b.c", "copies": 2})
    assert (made.declared_in, made.paused, made.ended) == ("runtime", False, False)
    due = datetime(2026, 3, 3, 2, tzinfo=UTC)
    assert made.next_tick_at == due

    world.database.freeze(due)
    assert world.tick() == 1
    (task,) = world.tasks()
    assert (task.type, task.tenant, task.queue, task.priority) == ("Mail", "acme", "slow", -5)
    assert (task.payload, task.unique_key, task.tick_at) == ({"to": "a@b.c", "copies": 2}, "key:one", due)
    assert due <= task.maturity_at < due + timedelta(seconds=30)
    after = ask("get", "nightly", tenant="acme")
    assert (after.next_tick_at, after.ticks, after.last_task_id) == (due + DAY, 1, task.id)


@pytest.mark.parametrize("task", ["Mail", "Post", Mail])
def test_a_type_can_be_given_by_name_alias_or_class_with_its_payload(ask: Ask, world: World, task: Any) -> None:
    made = ask("add", "one", task, HOUR, payload={"to": "x@y.z"})
    assert (made.type, made.payload) == ("Mail", {"to": "x@y.z"})
    world.tick()
    assert [task.payload for task in world.tasks()] == [{"to": "x@y.z", "copies": 1}]
    assert ask("add", "two", task, HOUR).payload == {}


def test_schedules_of_two_tenants_may_have_one_name(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "report", Mail(), HOUR, tenant="acme")
    ask("add", "report", Mail(), HOUR)
    ask("pause", "report", tenant="acme")
    assert [one.tenant for one in ask("list", tenant="acme")] == ["acme"]
    assert [(one.tenant, one.paused) for one in ask("list")] == [("default", False)]
    world.tick()
    assert [task.tenant for task in world.tasks()] == ["default"]


def test_a_door_of_a_tenant_makes_and_sees_that_tenants_schedules(world: World) -> None:
    with TaskQueue.connect(world.database.url, tenant="acme", registry=world.types) as queue:
        assert queue.schedules.add("mine", Mail(), HOUR).tenant == "acme"
        assert [one.name for one in queue.schedules.list()] == ["mine"]
        with pytest.raises(InvalidArgument, match="this door is the tenant acme's"):
            queue.schedules.add("theirs", Mail(), HOUR, tenant="other")
    with TaskQueue.connect(world.database.url, registry=world.types) as queue:
        assert queue.schedules.list() == []
        with pytest.raises(NotFound):
            queue.schedules.get("mine")


@pytest.mark.parametrize("who", ["owner", "trusted", "mapped"])
def test_a_login_of_a_tenant_makes_and_steers_its_own_schedules_and_finds_no_other(world: World, who: str) -> None:
    """SPEC TEN 54, SCH 41: under row security."""
    with roles_of(world.database) as lent:
        roles.create(world.database.url, lent.prefix)
        world.conn.execute("GRANT SELECT ON taskrunner.test_clock TO PUBLIC")
        url = {"owner": world.database.url, "mapped": lent.mapped("acme"), "trusted": lent.login("user")}[who]
        with TaskQueue.connect(world.database.url, registry=world.types) as queue:
            queue.schedules.add("theirs", Mail(), HOUR, tenant="globex")
        with TaskQueue.connect(url, tenant="acme", registry=world.types) as queue:
            mine = queue.schedules
            assert mine.add("mine", Mail(to="a@b.c"), HOUR, key="k").tenant == "acme"
            assert mine.add("mine", Mail(to="x@y.z"), HOUR, key="k", replace=True).payload["to"] == "x@y.z"
            assert mine.change("mine", frequency=2 * HOUR).next_tick_at == NOON
            with pytest.raises(InvalidArgument, match="nothing to change"):
                mine.change("mine")
            assert mine.pause("mine").paused
            assert mine.resume("mine").next_tick_at == NOON + 2 * HOUR
            assert mine.next("mine", 1) == [NOON + 2 * HOUR]
            assert queue.get(mine.run("mine").id).tenant == "acme"
            assert [one.name for one in mine.list()] == ["mine"]
            for method in (mine.get, mine.pause, mine.resume, mine.run, mine.remove, mine.next):
                with pytest.raises(NotFound):
                    method("theirs")
            with pytest.raises(NotFound):
                mine.change("theirs", priority=1)
            mine.remove("mine")
            assert mine.list() == []
        assert world.names() == ["theirs"]


def test_a_tick_that_meets_a_live_task_of_its_key_is_skipped_and_counted(ask: Ask, world: World) -> None:
    """SPEC UNQ 14, SCH 41."""
    ask("add", "one", Mail(), MINUTE, key="k")
    ask("add", "other", Mail(), MINUTE, key="k", tenant="acme")
    world.tick()
    world.database.travel(MINUTE)
    world.tick()
    assert len(world.tasks()) == 2
    assert [(one.ticks, one.skipped) for one in (ask("get", "one"), ask("get", "other", tenant="acme"))] == [(1, 1)] * 2
    world.finish()
    world.database.travel(MINUTE)
    world.tick()
    assert ask("get", "one").ticks == 2


def test_a_name_that_is_taken_is_a_conflict_unless_it_is_to_be_replaced(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    first = ask("add", "one", Mail(to="a@b.c"), HOUR, key="k", jitter=5)
    world.tick()
    with pytest.raises(Conflict, match="'one' already"):
        ask("add", "one", Mail(), HOUR)
    assert ask("get", "one").payload["to"] == "a@b.c"
    world.database.travel(MINUTE)
    second = ask("add", "one", Mail(to="x@y.z"), HOUR, replace=True)
    assert (second.payload["to"], second.key, second.jitter) == ("x@y.z", None, None)
    assert second.next_tick_at == NOON + HOUR, "its place on the grid"
    assert (second.created_at, second.ticks) == (first.created_at, 1)
    assert ask("add", "new", Mail(), HOUR, replace=True).next_tick_at == NOON + MINUTE


BAD: dict[str, tuple[tuple[Any, Any], dict[str, Any], str]] = {
    "six fields": ((Mail(), "0 0 3 * * *"), {}, "six fields"),
    "nonsense": ((Mail(), "nonsense"), {}, "fields"),
    "never fires": ((Mail(), "0 0 31 2 *"), {}, "never fires"),
    "zero": ((Mail(), 0), {}, "not positive"),
    "one of a list": ((Mail(), [60, "nonsense"]), {}, "nonsense"),
    "empty list": ((Mail(), []), {}, "0 frequencies"),
    "past": ((Mail(), DateTrigger(NOON - DAY)), {}, "never fire"),
    "no frequency": ((Mail(), None), {}, "NoneType"),
    "jitter": ((Mail(), 60), {"jitter": -1}, "jitter must not be negative"),
    "end before start": ((Mail(), 60), {"start_at": NOON + HOUR, "end_at": NOON}, "lies before start_at"),
    "end past": ((Mail(), 60), {"end_at": NOON - HOUR}, "never fire"),
    "end too soon": ((Mail(), "0 3 * * *"), {"end_at": NOON + HOUR}, "never fire"),
    "naive start": ((Mail(), 60), {"start_at": NAIVE}, "start_at must be a datetime with a time zone"),
    "naive end": ((Mail(), 60), {"end_at": NAIVE}, "end_at must be a datetime with a time zone"),
    "text for a time": ((Mail(), 60), {"start_at": "2030-01-01"}, "start_at must be a datetime"),
    "zone": ((Mail(), "@daily"), {"timezone": "Europe/Warszawa"}, "'Europe/Warsaw'"),
    "catch-up": ((Mail(), 60), {"catch_up": "none"}, "catch_up must be latest, all, skip"),
    "long key": ((Mail(), 60), {"key": "k" * 256}, "255"),
    "empty key": ((Mail(), 60), {"key": ""}, "255"),
    "key of a unique type": ((Once(), 60), {"key": "k"}, "unique by itself"),
    "priority": ((Mail(), 60), {"priority": 2**31}, "priority must be an integer"),
    "queue": ((Mail(), 60), {"queue": ""}, "queue must be a text"),
    "tenant": ((Mail(), 60), {"tenant": ""}, "tenant must be a text"),
    "no task": ((None, 60), {}, "a schedule makes tasks"),
    "two payloads": ((Mail(), 60), {"payload": {"to": "x"}}, "has its payload with it"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused_by_name_before_anything_is_stored(ask: Ask, world: World, case: str) -> None:
    """SPEC REG 3, ENQ 12, SCH 41."""
    arguments, options, complaint = BAD[case]
    with pytest.raises(InvalidArgument, match=complaint):
        ask("add", "odd", *arguments, **options)
    assert world.names() == []


@pytest.mark.parametrize("name", ["", "n" * 201, "nul\0", 5])
def test_a_name_that_cannot_be_stored_is_refused(ask: Ask, world: World, name: Any) -> None:
    with pytest.raises(InvalidArgument, match="a schedule's name"):
        ask("add", name, Mail(), 60)
    assert ask("add", "n" * 200, Mail(), 60, key="k" * 255).key == "k" * 255


def test_a_type_that_is_not_known_here_is_refused_with_near_names(ask: Ask, world: World) -> None:
    """SPEC ENQ 12."""
    with pytest.raises(UnknownType, match="did you mean 'Mail'"):
        ask("add", "odd", "Mial", 60)
    with pytest.raises(UnknownType, match="Stranger"):
        ask("add", "odd", Stranger(), 60)
    assert world.names() == []


@pytest.mark.parametrize("payload", [{"too": "x"}, {"copies": "many"}, '{"copies": NaN}', "[]", "{", {"to": "\0"}])
def test_a_payload_that_does_not_fit_is_refused_at_once(ask: Ask, world: World, payload: Any) -> None:
    """SPEC ENQ 8, SCH 41."""
    with pytest.raises(PayloadInvalid):
        ask("add", "odd", "Mail", 60, payload=payload)
    assert world.names() == []


def test_both_doors_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(each).parameters) for name, each in methods if name[0] != "_"}

    assert offered(Schedules) == offered(AsyncSchedules)
    assert set(inspect.signature(Schedules.add).parameters) >= set(Changes.__annotations__)


# ── missed ticks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("catch_up", "made_up"), [("latest", [5]), ("all", [1, 2, 3, 4, 5]), ("skip", [])])
@pytest.mark.parametrize("frequency", [HOUR, "0 * * * *", ["0 * * * *", 2 * HOUR]], ids=["interval", "crontab", "list"])
def test_after_five_periods_away_the_schedules_own_rule_decides_and_the_grid_is_the_old_one(
    ask: Ask, world: World, catch_up: str, made_up: list[int], frequency: Any
) -> None:
    """SPEC SCH 39, 41."""
    ask("add", "one", Mail(), frequency, catch_up=catch_up, jitter=60)
    world.tick()
    world.finish()
    world.database.travel(5 * HOUR + 10 * MINUTE)
    world.tick()
    assert world.ticked() == [NOON + n * HOUR for n in made_up]
    assert ask("get", "one").next_tick_at == NOON + 6 * HOUR


# ── several rules, APScheduler's ─────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_of_several_rules_ticks_once_at_each_instant_of_any(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    made = ask("add", "often", Mail(), ["0 * * * *", 20 * MINUTE, DateTrigger(NOON + 25 * MINUTE)])
    assert made.trigger.startswith('several ["apscheduler')
    promised = ask("next", "often", 6)
    assert promised == [NOON + n * MINUTE for n in (0, 20, 25, 40, 60, 80)]
    for due in promised:
        world.database.freeze(due)
        world.tick()
    assert world.ticked() == promised


def test_a_trigger_of_apscheduler_is_rebuilt_from_the_row_alone(ask: Ask, world: World) -> None:
    """SPEC REG 5, SCH 41."""
    trigger = CalendarIntervalTrigger(months=1, hour=6, start_date=date(2026, 3, 15), timezone="Europe/Warsaw")
    made = ask("add", "monthly", Mail(), trigger)
    assert made.timezone == "Europe/Warsaw"
    assert made.next_tick_at == datetime(2026, 3, 15, 5, tzinfo=UTC)
    world.database.freeze(made.next_tick_at)
    world.tick()
    assert ask("get", "monthly").next_tick_at == datetime(2026, 4, 15, 4, tzinfo=UTC), "after the change of the clocks"


# ── look ahead ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_preview_across_a_change_of_the_clocks_is_what_then_happens(ask: Ask, world: World) -> None:
    """SPEC SCH 41, 42."""
    begin = datetime(2026, 3, 28, 12, tzinfo=UTC)
    seen = ask("preview", "30 2 * * *", 3, after=begin, timezone="Europe/Warsaw")
    assert [due.isoformat() for due in seen] == [
        "2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00", "2026-03-31T00:30:00+00:00",
    ]  # fmt: skip
    assert world.names() == []
    world.database.freeze(begin)
    ask("add", "nightly", Mail(), "30 2 * * *", timezone="Europe/Warsaw")
    assert ask("next", "nightly", 3) == seen


def test_a_preview_is_bounded_by_start_end_and_count(ask: Ask, world: World) -> None:
    assert ask("preview", HOUR) == [NOON + n * HOUR for n in range(5)]
    bounds = {"start_at": NOON + MINUTE, "end_at": NOON + MINUTE + HOUR}
    assert ask("preview", HOUR, 9, **bounds) == [NOON + MINUTE, NOON + MINUTE + HOUR]
    assert ask("preview", "@daily", 9, end_at=NOON + HOUR) == []
    for wrong in (0, -1, 10_001, 2.5):
        with pytest.raises(InvalidArgument, match="count must be"):
            ask("preview", HOUR, wrong)
    with pytest.raises(InvalidArgument, match="after must be"):
        ask("preview", HOUR, after=NAIVE)
    with pytest.raises(TypeError, match="zone"):
        ask("preview", HOUR, zone="UTC")


# ── change ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_that_leaves_the_rule_leaves_the_grid(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "one", Mail(to="a@b.c"), HOUR)
    world.tick()
    world.finish()
    world.database.travel(7 * MINUTE)
    changed = ask(
        "change", "one", task=Mail(to="x@y.z"), key="k", jitter=5, catch_up="all", queue="slow", priority=1,
        end_at=NOON + DAY, frequency=3600,
    )  # fmt: skip
    assert (changed.payload["to"], changed.key, changed.jitter, changed.catch_up) == (
        "x@y.z",
        "k",
        timedelta(seconds=5),
        "all",
    )
    assert (changed.queue, changed.priority, changed.end_at) == ("slow", 1, NOON + DAY)
    assert (changed.next_tick_at, changed.ticks) == (NOON + HOUR, 1)
    taken = ask("change", "one", key=None, jitter=None, queue=None, priority=None, end_at=None, payload={"to": "q@r.s"})
    assert (taken.key, taken.jitter, taken.queue, taken.priority, taken.end_at) == (None,) * 5
    assert (taken.payload, taken.catch_up, taken.next_tick_at) == ({"to": "q@r.s"}, "all", NOON + HOUR)
    world.database.travel(HOUR)
    world.tick()
    (task,) = world.tasks()
    assert (task.payload["to"], task.queue, task.priority, task.unique_key) == ("q@r.s", "mail", 7, None)


def test_a_changed_rule_takes_effect_after_now_and_an_interval_counts_from_the_last_tick(
    ask: Ask, world: World
) -> None:
    """SPEC SCH 40, 41."""
    ask("add", "one", Mail(), HOUR)
    world.tick()
    world.database.travel(7 * MINUTE)
    assert ask("change", "one", frequency=5 * MINUTE).next_tick_at == NOON + 10 * MINUTE
    assert ask("change", "one", frequency="0 13 * * *").next_tick_at == NOON + HOUR
    assert ask("change", "one", timezone="Europe/Warsaw").next_tick_at == NOON + DAY
    assert ask("change", "one", frequency=["@daily", "0 14 * * *"]).next_tick_at == NOON + HOUR, "in its zone"
    assert world.tick() == 0


def test_a_change_loses_no_tick_that_was_due(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "one", Mail(), HOUR)
    world.tick()
    world.database.travel(HOUR + timedelta(seconds=1))
    assert ask("change", "one", frequency="30 * * * *").next_tick_at == NOON + HOUR
    world.tick()
    assert world.ticked() == [NOON, NOON + HOUR]
    assert ask("get", "one").next_tick_at == NOON + HOUR + 30 * MINUTE


def test_a_later_start_moves_the_first_tick_and_an_earlier_one_brings_it_near(ask: Ask, world: World) -> None:
    ask("add", "one", Mail(), HOUR, start_at=NOON + DAY)
    assert ask("change", "one", start_at=NOON + 2 * DAY).next_tick_at == NOON + 2 * DAY
    assert ask("change", "one", start_at=NOON + 5 * MINUTE).next_tick_at == NOON + 5 * MINUTE
    assert ask("change", "one", start_at=None).next_tick_at == NOON
    assert world.tick() == 1
    assert ask("change", "one", start_at=NOON - DAY).next_tick_at == NOON + HOUR, "it has begun: the grid stays"


def test_a_schedule_that_has_ended_is_shown_as_such_and_goes_on_with_a_later_end(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "one", Mail(), HOUR, end_at=NOON + HOUR)
    world.tick()
    world.database.travel(HOUR)
    world.tick()
    ended = ask("get", "one")
    assert (ended.next_tick_at, ended.ended, ended.ticks) == (None, True, 2)
    assert ask("next", "one") == []
    assert ask("resume", "one").ended
    assert ask("change", "one", key="k").ended, "what has ended may be changed"
    assert ask("change", "one", end_at=None).next_tick_at == NOON + 2 * HOUR
    with pytest.raises(InvalidArgument, match="never tick again"):
        ask("change", "one", end_at=NOON)
    assert ask("get", "one").end_at is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frequency": "nonsense"}, "fields"),
        ({"frequency": None}, "NoneType"),
        ({"timezone": "Europe/Warszawa"}, "'Europe/Warsaw'"),
        ({"payload": {"too": 1}}, "too"),
        ({"task": "Mial"}, "did you mean 'Mail'"),
        ({"task": None}, "a schedule makes tasks"),
        ({"jitter": -1}, "negative"),
        ({"end_at": NAIVE}, "end_at must be"),
        ({"end_at": NOON + MINUTE}, "lies before start_at"),
        ({"key": "k" * 256}, "255"),
        ({"catch_up": None}, "catch_up must be"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(ask: Ask, change: Any, complaint: str) -> None:
    """SPEC SCH 41."""
    before = ask("add", "one", Mail(), "@daily", start_at=NOON + HOUR)
    with pytest.raises(InvalidArgument, match=complaint):
        ask("change", "one", **change)
    assert ask("get", "one") == before


def test_a_word_that_change_does_not_know_is_a_mistake(ask: Ask) -> None:
    ask("add", "one", Mail(), "@daily")
    with pytest.raises(TypeError, match="cron"):
        ask("change", "one", cron="@hourly")


def test_the_zone_of_an_apscheduler_trigger_is_its_own(ask: Ask) -> None:
    ask("add", "one", Mail(), CalendarIntervalTrigger(months=1, start_date=date(2026, 3, 15), timezone="Asia/Tokyo"))
    with pytest.raises(InvalidArgument, match="time zone of its own, Asia/Tokyo"):
        ask("change", "one", timezone="Europe/Warsaw")


def test_a_schedule_that_fails_is_tried_again_as_soon_as_it_is_changed(ask: Ask, world: World) -> None:
    """SPEC SCH 43: whoever holds it back after a failure does so no longer."""
    ask("add", "one", Mail(), HOUR)
    (waiting,) = world.do(schedule.line(["Mail"], (), 1))
    world.do(schedule.fail(waiting.id, "PayloadInvalid: …"))
    assert world.do(schedule.line(["Mail"], [waiting.id], 1)) == []
    assert ask("get", "one").last_error == "PayloadInvalid: …"
    assert ask("change", "one", payload={"to": "a@b.c"}).last_error is None
    assert [one.id for one in world.do(schedule.line(["Mail"], [waiting.id], 1))] == [waiting.id]


# ── pause, resume, run now, remove ───────────────────────────────────────────────────────────────────────────────────


def test_a_paused_schedule_makes_nothing_and_goes_on_in_the_future(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "one", Mail(), HOUR)
    world.tick()
    assert ask("pause", "one").paused
    world.database.travel(3 * HOUR + MINUTE)
    assert world.tick() == 0
    assert ask("next", "one", 1) == [NOON + 4 * HOUR]
    resumed = ask("resume", "one")
    assert (resumed.paused, resumed.next_tick_at) == (False, NOON + 4 * HOUR)
    assert world.tick() == 0


def test_run_now_leaves_the_ticks_alone_and_meets_a_live_unique_task(ask: Ask, world: World) -> None:
    """SPEC SCH 41, UNQ 14."""
    ask("add", "one", Mail(to="a@b.c"), HOUR, tenant="acme", priority=3)
    ask("add", "unique", Once(), HOUR)
    made = ask("run", "one", tenant="acme")
    (task,) = world.tasks()
    assert (task.id, task.tenant, task.payload["to"], task.priority) == (made.id, "acme", "a@b.c", 3)
    assert (task.tick_at, made.created, ask("get", "one", tenant="acme").next_tick_at) == (None, True, NOON)
    world.finish()
    world.tick()
    again = ask("run", "unique")
    assert (again.created, again.id) == (False, ask("get", "unique").last_task_id)
    assert ask("get", "unique").next_tick_at == NOON + HOUR


def test_a_schedule_that_is_removed_leaves_its_tasks(ask: Ask, world: World) -> None:
    """SPEC SCH 41."""
    ask("add", "one", Mail(), HOUR)
    world.tick()
    assert ask("remove", "one") is None
    assert (world.names(), len(world.tasks())) == ([], 1)
    for method in ("get", "next", "pause", "resume", "run", "remove", "change"):
        with pytest.raises(NotFound, match="'one'"):
            ask(method, "one", **({"priority": 1} if method == "change" else {}))
    assert ask("add", "one", Mail(), HOUR).ticks == 0


def test_a_schedule_of_the_code_can_be_steered_but_not_changed_or_removed_at_run_time(ask: Ask, world: World) -> None:
    """SPEC SCH 40, 41."""
    world.declare()
    world.join()
    assert ask("get", "Coded").declared_in == "code"
    with pytest.raises(Conflict, match=r"would come back.*or pause it"):
        ask("remove", "Coded")
    with pytest.raises(Conflict, match="declared in code: change it there, or pause it"):
        ask("change", "Coded", frequency=5)
    for replace in (False, True):
        with pytest.raises(Conflict, match="'Coded'"):
            ask("add", "Coded", Mail(), 5, replace=replace)
    assert ask("get", "Coded").trigger == "interval 60"
    assert ask("pause", "Coded").paused
    assert not ask("resume", "Coded").paused
    assert ask("run", "Coded").created


def test_a_schedule_whose_type_nobody_knows_is_orphaned_and_harms_no_other(ask: Ask, world: World) -> None:
    """SPEC SCH 40, 43."""
    ask("add", "one", Mail(), HOUR)
    ask("add", "two", Once(), HOUR)
    world.conn.execute("UPDATE taskrunner.schedule SET type = 'Gone' WHERE name = 'one'")
    world.join()
    assert {one.name: one.orphaned for one in ask("list")} == {"one": True, "two": False}
    assert world.tick() == 1
    with pytest.raises(UnknownType, match="'Gone'"):
        ask("run", "one")
    assert ask("pause", "one").orphaned
    assert ask("change", "one", task="Mail", payload={}).orphaned is False
    ask("remove", "one")


# ── lost replies and other hands ─────────────────────────────────────────────────────────────────────────────────────

STEPS: dict[str, Callable[[TaskQueue], Any]] = {
    "add": lambda queue: queue.schedules.add("new", Mail(), HOUR),
    "replace": lambda queue: queue.schedules.add("old", Mail(), 2 * HOUR, replace=True),
    "change": lambda queue: queue.schedules.change("old", frequency=2 * HOUR),
    "run": lambda queue: queue.schedules.run("old"),
    "resume": lambda queue: queue.schedules.resume("old"),
    "remove": lambda queue: queue.schedules.remove("old"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_lost_reply_of_a_commit_loses_and_doubles_nothing(world: World, step: str) -> None:
    """SPEC CRA 36; FAULTS F15: the door tries again by itself."""
    told = psycopg.conninfo.conninfo_to_dict(world.database.url)
    rule = Rule("queue", "COMMIT", "after", most=1)
    with Proxy(f"{told['host']}/.s.PGSQL.{told.get('port', 5432)}") as proxy:
        way: Any = {**told, "host": "127.0.0.1", "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
        url = psycopg.conninfo.make_conninfo(**way)
        with TaskQueue.connect(url, registry=world.types) as queue:
            queue.schedules.add("old", Mail(), HOUR)
            proxy.rules.append(rule)
            answer = STEPS[step](queue)
            assert rule.hits
    after = {one.name: one for one in world.do(reads.schedules())}
    assert set(after) == {"add": {"old", "new"}, "remove": set()}.get(step, {"old"})
    if step in ("change", "replace"):
        assert (after["old"].trigger, after["old"].next_tick_at) == ("interval 7200", NOON)
    if step == "run":
        assert [task.id for task in world.tasks()] == [answer.id]


def test_the_same_name_added_by_two_at_once_is_one_schedule(world: World) -> None:
    insert = (
        "INSERT INTO taskrunner.schedule (id, name, type, trigger, created_at, next_tick_at, declared_in)"
        " VALUES (gen_random_uuid(), 'one', 'Mail', 'interval 60', now(), now(), 'runtime')"
    )
    with (
        TaskQueue.connect(world.database.url, registry=world.types) as queue,
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(world.database.url) as other,
    ):
        other.execute(insert)
        added = pool.submit(queue.schedules.add, "one", Mail(), HOUR, replace=True)
        eventually(lambda: waits_for_a_lock(world), "the second insert waits for the first one")
        other.commit()
        assert added.result(60).trigger == "interval 3600"
    assert world.names() == ["one"]


def waits_for_a_lock(world: World) -> bool:
    return bool(
        world.conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    )


# ── schedulers ───────────────────────────────────────────────────────────────────────────────────────────────────────


PROCESS = """
import asyncio, sys
from datetime import timedelta
from taskrunner import Task, register_task
from taskrunner.registry import registry
from taskrunner.scheduler import Scheduler
from taskrunner.settings import Settings

@register_task("Mail")
class Mail(Task):
    to: str = "nobody"
    copies: int = 1
    async def run(self): ...
asyncio.run(Scheduler(sys.argv[1], registry, Settings(poll=timedelta(milliseconds=10))).run())
"""


def test_two_schedulers_that_are_killed_while_people_change_schedules_lose_and_double_no_tick(world: World) -> None:
    """SPEC SCH 38, 41; FAULTS F7, F8, I6: schedules with payload, tenant, key, jitter and several rules."""
    rounds, count = 6, 8
    rules: list[Any] = [MINUTE, "* * * * *", ["*/2 * * * *", "1-59/2 * * * *"], [MINUTE, 2 * MINUTE]]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROCESS, world.database.url])

    alive = [start() for _ in range(2)]
    try:
        with TaskQueue.connect(world.database.url, registry=world.types) as queue:
            for n in range(count):
                options: dict[str, Any] = {"tenant": f"t{n % 3}", "jitter": 30 * (n % 2), "start_at": NOON + MINUTE}
                queue.schedules.add(
                    f"S{n}", Mail(copies=n), rules[n % len(rules)], **options, key=f"k{n}" if n % 2 else None
                )
            for step in range(1, rounds + 1):
                world.database.travel(MINUTE)
                # The kill comes at another moment of the ticking each time.
                eventually(lambda least=step: len(world.ticked()) >= least, "the first ticks of a round")
                victim = alive.pop(0)
                os.kill(victim.pid, signal.SIGKILL)
                victim.wait()
                alive.append(start())
                queue.schedules.change(f"S{step}", tenant=f"t{step % 3}", priority=step)
                eventually(lambda done=step * count: ticks(world) >= done, f"all ticks of round {step}")
                assert ticks(world) == step * count
                check(world, step, count)
                world.finish()
            for n in range(count):
                found = queue.schedules.get(f"S{n}", tenant=f"t{n % 3}")
                assert (found.ticks, found.skipped, found.next_tick_at) == (rounds, 0, NOON + (rounds + 1) * MINUTE)
    finally:
        for process in alive:
            process.kill()
            process.wait()


def ticks(world: World) -> int:
    return int(world.conn.execute("SELECT sum(ticks) FROM taskrunner.schedule").fetchone()[0])  # type: ignore[index]  # a sum has a row


def check(world: World, step: int, count: int) -> None:
    """Every schedule has made one task of its own in this round, as it was told to."""
    due = NOON + step * MINUTE
    rows = {task.payload["copies"]: task for task in world.tasks()}
    assert (len(world.tasks()), sorted(rows)) == (count, list(range(count)))
    for n, task in rows.items():
        late = task.maturity_at - due
        assert (task.tenant, task.tick_at, task.unique_key) == (f"t{n % 3}", due, f"key:k{n}" if n % 2 else None)
        assert timedelta(0) <= late < timedelta(seconds=30) if n % 2 else not late
