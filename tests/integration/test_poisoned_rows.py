"""Odd values in a tenant's own rows, by a login with SQL of its own: nobody else's work may suffer from them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import roles
from taskrunner.registry import Registry
from taskrunner.store import ending, history
from taskrunner.store import task as store
from taskrunner.store.task import Claimed, Ending
from taskrunner.testing.database import Database
from tests.engine import Engine
from tests.roles import connected, roles_of

MINE, THEIRS = "acme", "globex"
NIL = "00000000-0000-0000-0000-000000000000"
ERRORS = '[{"message": "no"}]'

ADD = (
    "INSERT INTO taskrunner.task (id, tenant, type, maturity_at, created_at{columns})"
    " VALUES (gen_random_uuid(), 'acme', 'T', now(), now(){values})"
)
DATED = (
    "INSERT INTO taskrunner.task (id, tenant, type, maturity_at, created_at)"
    " VALUES (gen_random_uuid(), 'acme', 'T', {at}, {since})"
)
STATS = (
    "INSERT INTO taskrunner.task_stats (minute, runner_id, tenant, queue, type, outcome, count, run_seconds,"
    " wait_seconds, run_histogram, wait_histogram)"
    " VALUES (date_trunc('minute', now()) + interval '{later}', '{runner}', 'acme', 'default', 'T', '{outcome}',"
    " {count}, {seconds}, 0, '{buckets}', '{{}}')"
)
HISTORY = (
    "INSERT INTO taskrunner.task_history (id, tenant, queue, type, state, payload, meta, errors, finished_at,"
    " maturity_at, created_at, claim_no, priority, tries, crashes, max_retries) VALUES (gen_random_uuid(), 'acme',"
    " 'default', 'T', 'cancelled', '{{}}', '{{}}', '[]', {at}, now(), now(), 1, 1, 0, 0, 0)"
)
LETTER = (
    "INSERT INTO taskrunner.dead_letter (id, tenant, queue, type, payload, meta, errors, finished_at,"
    " maturity_at, created_at, claim_no, priority, tries, crashes, max_retries) VALUES ({id}, 'acme',"
    " 'default', 'T', '{{}}', '{{}}', '{errors}', {at}, now(), now(), 1, 1, {tries}, 0, 0)"
)
SCHEDULE = (
    "INSERT INTO taskrunner.schedule (id, tenant, name, type, trigger, created_at, {column})"
    " VALUES (gen_random_uuid(), 'acme', 'x', 'T', '* * * * *', now(), {value})"
)
SUCCESSOR = (
    "UPDATE taskrunner.task SET successor = jsonb_build_object('id', gen_random_uuid(), 'queue', 'default', 'priority',"
    " 1, 'max_retries', {retries}, 'payload', '{payload}'::jsonb, 'meta', '{{}}'::jsonb, 'created_at', now(),"
    " 'maturity_at', '{at}')"
)
ODD = ("'-infinity'", "'infinity'", "'0044-03-15 12:00+00 BC'", "'20000-01-01'")
HUGE = 2**63 - 1

REFUSED = [
    *(f"UPDATE taskrunner.task SET maturity_at = {at}" for at in ODD),
    *(f"UPDATE taskrunner.task SET cancel_requested_at = {at}" for at in ODD),
    *(DATED.format(at=at, since="now()") for at in ODD),
    *(DATED.format(at="now()", since=at) for at in ODD),
    f"UPDATE taskrunner.task SET claim_no = {HUGE}",
    "UPDATE taskrunner.task SET tries = 2147483647",
    "UPDATE taskrunner.task SET tries = -1",
    "UPDATE taskrunner.task SET crashes = 2147483647",
    "UPDATE taskrunner.task SET max_retries = -1",
    """UPDATE taskrunner.task SET errors = '{"a": 1}'""",
    "UPDATE taskrunner.task SET waits_for = -2147483648 WHERE state = 'blocked'",
    "UPDATE taskrunner.task SET payload = '[]'",
    "UPDATE taskrunner.task SET meta = '1'",
    "UPDATE taskrunner.task SET progress = '[]'",
    "UPDATE taskrunner.task SET queue = repeat('q', 100000)",
    "UPDATE taskrunner.task SET state = 'running' WHERE state = 'pending'",
    *(
        f"UPDATE taskrunner.task SET {column} = DEFAULT"
        for column in (
            "runner_id",
            "claimed_at",
            "started_at",
            "deadline_at",
            "requeued_from",
            "type",
            "unique_key",
            "claim_no",
            "crashes",
            "errors",
        )
    ),
    SUCCESSOR.format(at="0044-03-15 12:00+00 BC", retries=1, payload="{}"),
    SUCCESSOR.format(at="20000-01-01", retries=1, payload="{}"),
    SUCCESSOR.format(at="2026-01-01 00:00+00", retries=-1, payload="{}"),
    SUCCESSOR.format(at="2026-01-01 00:00+00", retries=1, payload="[]"),
    *(
        ADD.format(columns=f", {column}", values=f", {value}")
        for column, value in {
            "claim_no": HUGE,
            "tries": 2147483647,
            "crashes": 2147483647,
            "errors": """'{"a": 1}'""",
            "payload": "'[]'",
            "meta": "'[]'",
            "waits_for": -2147483648,
            "max_retries": -1,
            "state": "'running'",
            "runner_id": "gen_random_uuid()",
            "started_at": "now()",
            "tick_at": "'-infinity'",
            "queue": "repeat('q', 100000)",
            "progress": "'[]'",
        }.items()
    ),
    *(
        STATS.format(
            **{"later": "0", "runner": NIL, "outcome": "cancelled", "count": 1, "seconds": 0, "buckets": "{}"} | odd
        )
        for odd in (
            {"runner": "{runner}", "outcome": "succeeded", "count": HUGE},
            {"runner": "{runner}", "outcome": "dead", "count": HUGE, "later": "1 minute"},
            {"outcome": "succeeded"},
            {"count": HUGE},
            {"count": -1},
            {"seconds": "'infinity'"},
            {"seconds": "'NaN'"},
            {"later": "1 minute"},
            {"buckets": f"{{{HUGE}}}"},
            {"buckets": "{NULL}"},
        )
    ),
    *(HISTORY.format(at=at) for at in (*ODD, "now() + interval '1 day'", "now() - interval '1 day'")),
    *(LETTER.format(id="gen_random_uuid()", errors="[]", tries=0, at=at) for at in ODD),
    LETTER.format(id="gen_random_uuid()", errors="{}", tries=0, at="now()"),
    LETTER.format(id="gen_random_uuid()", errors="[]", tries=2147483647, at="now()"),
    *(
        SCHEDULE.format(column=column, value=at)
        for column in ("next_tick_at", "last_tick_at", "start_at", "end_at")
        for at in ("'-infinity'", "'20000-01-01'")
    ),
    SCHEDULE.format(column="jitter", value="'1000000 years'"),
    SCHEDULE.format(column="jitter", value="'-1 hour'"),
    f"INSERT INTO taskrunner.audit (acted_at, tenant, actor, action, target) VALUES ({ODD[0]}, 'acme', 'a', 'b', 'c')",
]
"""What no login under row security may write."""

HARMLESS = [
    *(LETTER.format(id=f"'{{{task}}}'", errors="[]", tries=0, at="now()") for task in ("buried", "parent", "crashed")),
    "UPDATE taskrunner.task SET state = 'pending' WHERE state = 'running'",
    "UPDATE taskrunner.task SET state = 'blocked', waits_for = NULL",
    "UPDATE taskrunner.task SET waits_for = 2147483647 WHERE state = 'blocked'",
    "UPDATE taskrunner.task SET max_retries = 2147483647, priority = -2147483648",
    "DELETE FROM taskrunner.task",
    ADD.format(columns="", values=""),
    STATS.format(later="0", runner=NIL, outcome="cancelled", count=1, seconds=0, buckets="{}"),
    HISTORY.format(at="now()"),
    SCHEDULE.format(column="jitter", value="'1 hour'"),
    SUCCESSOR.format(at="2026-01-01 00:00+00", retries=1, payload="{}") + " WHERE state = 'running'",
]
"""What it may, to the harm of its own tasks at most."""


class World:
    """Tasks of two tenants which the same two runners have claimed, and a login of one of them."""

    def __init__(self, engine: Engine, login: str) -> None:
        self.engine, self.login = engine, login
        self.runner, self.doomed = engine.join("T"), engine.join("T")
        self.crashed = {tenant: self.added(tenant) for tenant in (MINE, THEIRS)}
        for claim in engine.claim(self.doomed, 100):
            engine.do(store.mark_started(self.doomed, claim.id, claim.claim_no))
        engine.conn.execute("UPDATE taskrunner.task SET crashes = 2 WHERE state = 'running'")
        self.buried = {tenant: self.added(tenant) for tenant in (MINE, THEIRS)}
        self.parent = {tenant: self.added(tenant) for tenant in (MINE, THEIRS)}
        self.child = {tenant: self.added(tenant) for tenant in (MINE, THEIRS)}
        for tenant, child in self.child.items():
            parent = self.parent[tenant]
            engine.conn.execute("UPDATE taskrunner.task SET has_children = true WHERE id = %s", [parent])
            engine.conn.execute("UPDATE taskrunner.task SET state = 'blocked', waits_for = 1 WHERE id = %s", [child])
            engine.conn.execute("INSERT INTO taskrunner.dependency VALUES (%s, %s, %s)", [parent, child, tenant])
        self.plain = {tenant: self.added(tenant) for tenant in (MINE, THEIRS)}

    def added(self, tenant: str) -> UUID:
        id_ = uuid7()
        self.engine.flood(1, id=id_, tenant=tenant, maturity_at=("now() - interval '1 second'",))
        return id_

    def attempt(self, statement: str) -> None:
        """Try it in the tenant's name."""
        names = {name: getattr(self, name)[MINE] for name in ("buried", "parent", "crashed")}
        for name, id_ in [*names.items(), ("runner", self.runner)]:
            statement = statement.replace(f"{{{name}}}", str(id_))
        with connected(self.login) as conn:
            conn.execute(statement)  # type: ignore[arg-type]  # an attempt

    def claims(self) -> dict[UUID, Claimed]:
        return {claim.id: claim for claim in self.engine.claim(self.runner, 100)}

    def check(self) -> None:
        """Claim, retry, end, bury, rescue both tenants' tasks in common batches; make partitions; read every list."""
        engine, theirs = self.engine, {self.buried[THEIRS], self.parent[THEIRS], self.plain[THEIRS]}
        claims = self.claims()
        assert theirs <= claims.keys()
        back = [Ending(claim.id, claim.claim_no, detail='{"message": "no"}') for claim in claims.values()]
        assert theirs <= {due.id for due in engine.do(store.retry(self.runner, back))}
        claims = self.claims()
        assert theirs <= claims.keys()

        lost = [claims[id_] for id_ in self.buried.values() if id_ in claims]
        gone = engine.do(store.bury(self.runner, [Ending(one.id, one.claim_no, detail=ERRORS) for one in lost]))
        assert {one.id for one in lost} <= set(gone)
        parents = [claims[id_] for id_ in self.parent.values() if id_ in claims]
        closed = engine.do(ending.end_many(self.runner, [Ending(one.id, one.claim_no) for one in parents]))
        assert self.parent[THEIRS] in closed.ids
        assert self.child[THEIRS] in {due.id for due in closed.due}
        rest = [claims[id_] for id_ in self.plain.values() if id_ in claims]
        engine.finish(self.runner, *rest)
        assert engine.view(self.plain[THEIRS]).state == "succeeded"
        assert engine.die(self.doomed)[self.crashed[THEIRS]] == "dead"
        assert engine.claim(self.runner, 100), "the child"

        spans = engine.do(history.wanted(1))
        assert 0 < len(spans) <= 3
        for span in spans:
            assert engine.do(history.create(span, timedelta(seconds=5))).verdict == "done"
        for table in ("task", "dead_letter", "schedule", "audit", "task_stats"):
            engine.conn.execute(f"SELECT * FROM taskrunner.{table}").fetchall()  # type: ignore[arg-type]  # ours


@pytest.fixture
def world(taskrunner_db: Database, registry: Registry) -> Iterator[World]:
    with roles_of(taskrunner_db) as lent:
        roles.create(taskrunner_db.url, lent.prefix)
        engine = Engine(taskrunner_db, registry)
        try:
            yield World(engine, lent.mapped(MINE))
        finally:
            engine.close()


def test_a_value_that_the_engine_could_not_bear_is_refused_to_a_tenants_login(world: World) -> None:
    """SPEC TEN 54: each by itself, and afterwards everybody's work goes on."""
    passed: list[Any] = []
    for statement in REFUSED:
        try:
            world.attempt(statement)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation):
            continue
        passed.append(statement)
    assert passed == []
    world.check()


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_a_tenants_login_may_do_to_its_own_tasks_stops_nobody_elses(world: World, statement: str) -> None:
    """SPEC TEN 54: also dead letters under the ids of live tasks."""
    world.attempt(statement)
    world.check()


def test_a_letter_that_was_forged_is_replaced_by_the_true_one(world: World) -> None:
    world.attempt(HARMLESS[0])
    world.check()
    assert world.engine.value("SELECT errors FROM taskrunner.dead_letter WHERE id = %s", world.buried[MINE]) != []


def test_history_that_is_dated_beyond_any_clock_stays_where_it_is(world: World) -> None:
    """Whoever owns the tables may write it; the duty that makes partitions goes on."""
    for at in ODD:
        world.engine.conn.execute(HISTORY.format(at=at))  # type: ignore[arg-type]  # ours
    world.check()
    assert world.engine.do(history.wanted(1)) == []
