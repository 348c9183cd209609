"""One action on many tasks: counted exactly first, done in batches, told truly, noted once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from taskrunner import Task, bulk, listing, reads, register_task, roles
from taskrunner.api.app import create_app
from taskrunner.bulk import Order, Outcome, Preview
from taskrunner.cli import main
from taskrunner.db import Op, Steps, nothing
from taskrunner.errors import Conflict, DatabaseUnreachable, InvalidArgument
from taskrunner.pieces import Make
from taskrunner.reads import AuditEntry, AuditFilter
from taskrunner.settings import Settings
from taskrunner.states import LIVE
from taskrunner.store import ending
from taskrunner.store import task as store
from taskrunner.store.bulk import Batch, When, cancel
from taskrunner.store.task import Ending
from taskrunner.tenancy import run_as
from taskrunner.testing.database import Database
from tests.engine import Engine
from tests.roles import roles_of

ACTOR = "test:ada"


def order(engine: Engine, action: str, text: str, **given: Any) -> Order:
    now = engine.db.now()
    return Order(action, listing.searched(text, now), now, **given)


def look(engine: Engine, asked: Order) -> Preview:
    return bulk.drive(lambda make: engine.do(make()), bulk.preview(asked))


def act(engine: Engine, asked: Order, **given: Any) -> Outcome:
    return bulk.drive(lambda make: engine.do(make()), bulk.apply(asked, ACTOR, **given))


def trail(engine: Engine) -> list[AuditEntry]:
    return engine.do(reads.audit_trail(AuditFilter())).items


def bury(engine: Engine, count: int = 1, message: str = "no", **fields: Any) -> list[UUID]:
    ids = engine.add(count, priority=10**6, **fields)
    runner = engine.join()
    claims = engine.claim(runner, count)
    entry = json.dumps([{"message": message, "traceback": ""}])
    engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail=entry) for claim in claims]))
    assert {claim.id for claim in claims} == set(ids)
    return ids


def states(engine: Engine, ids: list[UUID]) -> list[str]:
    return [str(engine.view(id_).state) for id_ in ids]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three, chunks of seven."""
    monkeypatch.setattr(bulk, "BATCH", 3)
    monkeypatch.setattr(bulk, "CHUNK", 7)


@pytest.mark.usefixtures("small")
def test_a_cancel_meets_what_waits_and_what_runs_and_nothing_else(engine: Engine) -> None:
    """SPEC OPS 50; FAULTS 4: audited."""
    other = engine.add(1, type="Other")
    ids = engine.add(20)
    runner = engine.join()
    running = [claim.id for claim in engine.claim(runner, 2)]
    asked = order(engine, "cancel", "type:T")
    seen = look(engine, asked)
    assert (seen.count, seen.exact, len(seen.sample)) == (20, True, 10)
    assert seen.command == "taskrunner tasks bulk cancel type:T"
    later = engine.add(1)
    met: list[tuple[int, int]] = []
    done = act(engine, asked, expected=20, progress=lambda at, of: met.append((at, of)))
    assert (done.found, done.done, done.requested, done.skipped) == (20, 18, 2, {})
    assert met[-1] == (20, 20)
    assert len(met) > 6
    assert {engine.view(id_).state for id_ in set(ids) - set(running)} == {"cancelled"}
    assert states(engine, running) == ["running", "running"]
    assert states(engine, other + later) == ["pending", "pending"]
    last, entry = trail(engine)
    assert (entry.actor, entry.action, entry.target, entry.details["found"]) == (ACTOR, "bulk.cancel", "type:T", 20)
    assert (last.actor, last.action, last.target) == (ACTOR, "bulk.cancel.done", "type:T")
    assert last.details == {"found": 20, "done": 18, "requested": 2, "skipped": {}}
    stats = "SELECT sum(count)::int FROM taskrunner.task_stats WHERE outcome = 'cancelled'"
    assert engine.value(stats) == 18


@pytest.fixture
def step(engine: Engine) -> type[Task]:
    """A type with which tasks can wait for tasks."""

    @register_task("T")
    class Step(Task):
        async def run(self) -> None: ...

    return Step


def test_children_of_what_is_cancelled_end_with_it(engine: Engine, step: type[Task]) -> None:
    """SPEC FLW: as with one task."""
    with engine.door() as queue:
        parents = [queue.add(step(), queue="first").id for _ in range(2)]
        children = [queue.add(step(), after=parent).id for parent in parents]
    act(engine, order(engine, "cancel", "queue:first"))
    assert states(engine, parents) == states(engine, children) != ["blocked"] * 2
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 0


def test_a_child_waits_for_the_new_task_of_a_requeued_parent(engine: Engine, step: type[Task]) -> None:
    """SPEC FLW: as with one task."""
    with engine.door() as queue:
        parent = queue.add(step(), priority=10**6).id
        child = queue.add(step(), after=parent, on_parent_failure="wait").id
    runner = engine.join()
    (claim,) = engine.claim(runner)
    engine.do(ending.end(runner, Ending(parent, claim.claim_no, state="dead", detail='[{"message": "no"}]')))
    act(engine, order(engine, "requeue", "state:dead"))
    ((fresh,),) = engine.rows("SELECT id FROM taskrunner.task WHERE requeued_from = %s", parent)
    assert engine.view(child).state == "blocked"
    (claim,) = engine.claim(runner)
    assert claim.id == fresh
    engine.do(ending.end(runner, Ending(claim.id, claim.claim_no)))
    assert engine.view(child).state == "pending"


@pytest.mark.usefixtures("small")
def test_dead_letters_are_requeued_by_their_error_each_once(engine: Engine) -> None:
    """SPEC OPS 50."""
    timed_out, refused = bury(engine, 8, "timed out"), bury(engine, 2, "refused")
    asked = order(engine, "requeue", 'error:"timed out"')
    assert act(engine, asked, expected=8).done == 8
    assert act(engine, order(engine, "requeue", 'error:"timed out"')).found == 0
    fresh = engine.rows("SELECT id, requeued_from FROM taskrunner.task ORDER BY id")
    assert {old for _, old in fresh} == set(timed_out)
    assert states(engine, refused) == ["dead", "dead"]
    assert [entry.action for entry in trail(engine)] == ["bulk.requeue.done", "bulk.requeue"]


def test_a_key_that_is_taken_again_is_told(engine: Engine) -> None:
    """SPEC UNQ: one live task of a key."""
    first = bury(engine, 1, unique_key="key:a")
    second = bury(engine, 1, unique_key="key:a")
    done = act(engine, order(engine, "retry", "key:a"))
    assert (done.found, done.done, done.skipped) == (2, 1, {"key taken": 1})
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 1
    assert first != second


def test_a_retry_makes_pending_tasks_due_and_requeues_dead_ones(engine: Engine) -> None:
    """SPEC OPS 50."""
    later = engine.add(3)
    act(engine, order(engine, "reschedule", "type:T", when=When(delay=timedelta(days=9))))
    bury(engine, 2)
    done = act(engine, order(engine, "retry", "type:T"))
    assert (done.found, done.done) == (5, 5)
    assert all(engine.view(id_).maturity_at <= engine.db.now() for id_ in later)
    assert engine.value("SELECT count(*) FROM taskrunner.task WHERE requeued_from IS NOT NULL") == 2


def test_a_reschedule_takes_an_instant_or_a_delay(engine: Engine) -> None:
    (id_,) = engine.add()
    at = datetime(2050, 1, 1, tzinfo=UTC)
    act(engine, order(engine, "reschedule", f"{id_}", when=When(at)))
    assert engine.view(id_).maturity_at == at
    assert trail(engine)[-1].details["at"] == at.isoformat()


def test_dead_letters_are_deleted_and_those_that_died_later_are_not(engine: Engine) -> None:
    """SPEC OPS 50."""
    gone = bury(engine, 3)
    asked = order(engine, "delete", "state:dead")
    kept = bury(engine, 1)
    assert act(engine, asked).done == 3
    assert [engine.ends(id_) for id_ in gone + kept] == [0, 0, 0, 1]


def test_nothing_is_done_where_more_match_than_were_expected(engine: Engine) -> None:
    """SPEC OPS 50."""
    ids = engine.add(3)
    with pytest.raises(Conflict, match=r"3 tasks match now, and 2 were expected"):
        act(engine, order(engine, "cancel", "type:T"), expected=2)
    with pytest.raises(Conflict, match=r"at most 2 are done at once"):
        act(engine, order(engine, "cancel", "type:T"), most=2)
    assert set(states(engine, ids)) == {"pending"}
    assert trail(engine) == []
    assert act(engine, order(engine, "cancel", "type:T"), expected=5).done == 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lost", [DatabaseUnreachable("it is away"), KeyboardInterrupt()])
def test_a_run_that_stops_early_says_and_notes_how_far_it_came(engine: Engine, lost: BaseException) -> None:
    """SPEC OPS 50; FAULTS 4: audited."""
    engine.add(8)
    calls = 0

    def run(make: Make) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # a count, the ids, two batches
            raise lost
        return engine.do(make())

    away = isinstance(lost, DatabaseUnreachable)
    told = "^6 are done; of 1 more it is not known, since it is away" if away else None
    with pytest.raises(Conflict if away else KeyboardInterrupt, match=told):
        bulk.drive(run, bulk.apply(order(engine, "cancel", "type:T"), ACTOR))
    last, first = trail(engine)
    assert (first.details["found"], last.details["found"], last.details["done"]) == (8, 8, 6)
    assert last.details["stopped"]
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 2


def test_what_a_lost_reply_had_done_is_counted_as_done(engine: Engine) -> None:
    ids = engine.add(5)
    asked = order(engine, "cancel", "type:T")

    def run(make: Make) -> Any:
        engine.do(make())  # as a door that repeats what it has no reply to
        return engine.do(make())

    with psycopg.connect(engine.url) as other:
        other.execute("SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", [ids[2]])
        done = bulk.drive(run, bulk.apply(asked, ACTOR))
    assert (done.done, done.skipped) == (4, {"locked": 1})
    assert len(trail(engine)) == 2


@pytest.mark.usefixtures("small")
def test_no_more_are_met_than_were_counted(engine: Engine) -> None:
    """SPEC OPS 50."""
    ids = engine.add(9, priority=10**6)
    runner = engine.join()
    engine.claim(runner, 3)

    def let_go(met: int, _: int) -> None:
        if met == 3:
            engine.rows("UPDATE taskrunner.task SET state = 'pending' WHERE state = 'running' RETURNING id")

    asked = order(engine, "reschedule", "type:T", when=When(delay=timedelta(days=9)))
    done = act(engine, asked, progress=let_go)
    assert (done.found, done.done, len(ids)) == (6, 6, 9)


def test_a_batch_that_takes_too_long_is_done_in_halves(engine: Engine) -> None:
    """Its statements together are done within what an API's door waits for."""
    engine.add(4)
    asked = order(engine, "cancel", "type:T", patience=timedelta(milliseconds=600))
    batches: list[int] = []

    def slow(ids: Sequence[UUID], when: When) -> Steps[Batch]:
        batches.append(len(ids))
        for _ in range(3):  # each of them is in time, but not all
            yield Op("SELECT pg_sleep(%(s)s::float8)", {"s": 0.2 if len(ids) > 2 else 0.0}, nothing)
        return (yield from cancel(ids, when))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bulk.PARTS, "cancel", (bulk.Part(LIVE, slow),))  # type: ignore[arg-type]  # it is a dict
        done = act(engine, asked)
    assert (done.done, done.skipped, batches) == (4, {}, [4, 2, 2])


def test_a_locked_row_is_left_over_and_told_and_nobody_waits_for_it(engine: Engine) -> None:
    ids = engine.add(5)
    with psycopg.connect(engine.url) as other:
        other.execute("SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", [ids[2]])
        done = act(engine, order(engine, "cancel", "type:T"))
    assert (done.done, done.skipped) == (4, {"locked": 1})
    assert act(engine, order(engine, "cancel", "type:T")).done == 1


def test_a_key_that_somebody_is_just_taking_holds_up_its_own_letter_alone(engine: Engine) -> None:
    bury(engine, 1, unique_key="key:a")
    bury(engine, 3)
    with psycopg.connect(engine.url) as other:
        other.execute(
            "INSERT INTO taskrunner.task (id, type, maturity_at, created_at, unique_key)"
            " VALUES (gen_random_uuid(), 'T', now(), now(), 'key:a')"
        )
        done = act(engine, order(engine, "requeue", "type:T"))
    assert (done.done, done.skipped) == (3, {"locked": 1})
    assert trail(engine)[0].details == {"found": 4, "done": 3, "requested": 0, "skipped": {"locked": 1}}


def test_a_login_of_a_tenant_finds_and_steers_its_own_tasks_alone(taskrunner_db: Database, engine: Engine) -> None:
    """SPEC TEN 54."""
    bury(engine, 1, tenant="acme"), bury(engine, 1, tenant="other")
    theirs = engine.add(2, tenant="other")
    with roles_of(taskrunner_db) as lent:
        roles.create(taskrunner_db.url, lent.prefix)
        for url, bound in ((lent.mapped("acme"), None), (lent.login("user"), "acme")):
            engine.add(3, tenant="acme")
            with psycopg.connect(url, autocommit=True) as conn:

                def done(action: str, text: str, when: When = When()) -> int:  # noqa: B008 - a value
                    asked = order(engine, action, text, when=when)
                    pieces = bulk.apply(asked, ACTOR)
                    return bulk.drive(lambda make: run_as(conn, make(), bound), pieces).done  # noqa: B023

                assert done("reschedule", "type:T", When(delay=timedelta(hours=1))) >= 3
                assert done("retry", "type:T") >= 3
                assert done("cancel", "type:T") >= 3
                assert done("delete", "type:T") == 0
        assert states(engine, theirs) == ["pending", "pending"]
        assert engine.value("SELECT count(*) FROM taskrunner.dead_letter WHERE requeued_as IS NULL") == 1
        assert {entry.tenant for entry in trail(engine)} == {"acme"}


def test_what_cannot_be_counted_in_time_is_said_to_be_at_least_so_many(engine: Engine) -> None:
    engine.add(3)
    asked = order(engine, "cancel", "type:T", patience=timedelta(milliseconds=200))
    with psycopg.connect(engine.url) as other:
        other.execute("LOCK TABLE taskrunner.task IN ACCESS EXCLUSIVE MODE")
        seen = look(engine, asked)
        assert (seen.count, seen.exact, seen.sample) == (0, False, [])
        with pytest.raises(Conflict, match="narrower"):
            act(engine, asked)


@pytest.mark.parametrize(
    ("action", "text", "told"),
    [
        ("cancel", "", "cancel what"),
        ("cancel", "state:dead", "not for those that are dead"),
        ("requeue", "state:pending", "is for tasks that are dead"),
        ("cancle", "type:T", "did you mean 'cancel'"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(engine: Engine, action: str, text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        order(engine, action, text)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_the_command_asks_with_the_number_and_does_it_with_yes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SPEC OPS 50."""
    monkeypatch.setenv("DATABASE_URL", engine.url)
    ids = engine.add(3)
    bulk_cancel = ["tasks", "bulk", "cancel", "type:T"]
    code, out, _ = run([*bulk_cancel, "--preview"], capsys)
    assert (code, out.splitlines()[0]) == (0, "cancel: 3 tasks (type:T)")
    code, _, err = run(bulk_cancel, capsys)  # nobody can be asked here
    assert (code, "Cancel 3 tasks (type:T)?" in err) == (1, True)
    assert set(states(engine, ids)) == {"pending"}
    code, out, _ = run([*bulk_cancel, "--yes"], capsys)
    assert (code, out) == (0, "3 cancelled\n")
    assert trail(engine)[0].actor.startswith("cli:")
    code, out, _ = run([*bulk_cancel, "--yes", "--json"], capsys)
    assert (code, json.loads(out)["count"]) == (0, 0)
    code, _, err = run(["tasks", "bulk", "cancel", "type:T", "--delay", "1m"], capsys)
    assert (code, "reschedule" in err) == (2, True)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_http_shows_a_preview_then_acts_on_exactly_that(engine: Engine) -> None:
    """SPEC OPS 50; DESIGN 13."""
    ids = engine.add(3)
    app = create_app(Settings(), engine.registry, engine.url)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        body = {"action": "cancel", "filter": {"q": "type:T"}}
        seen = await client.post("/tasks/actions", json={**body, "preview": True})
        assert seen.status_code == 200, seen.text
        assert (seen.json()["count"], seen.json()["exact"], len(seen.json()["sample"])) == (3, True, 3)
        apply = {**body, "expected": 3, "before": seen.json()["before"]}
        engine.add(1)
        fewer = await client.post("/tasks/actions", json={**apply, "expected": 2})
        assert fewer.status_code == 409
        assert "3 tasks match now, and 2 were expected" in fewer.json()["detail"]
        done = await client.post("/tasks/actions", json=apply)
        assert (done.status_code, done.json()["done"], done.json()["skipped"]) == (200, 3, {})
        assert set(states(engine, ids)) == {"cancelled"}
        done, asked = trail(engine)
        assert (asked.actor, asked.action) == (done.actor, "bulk.cancel") == ("api:local", "bulk.cancel")
        (last,) = engine.rows("SELECT id FROM taskrunner.task")[0]
        one = await client.post(
            "/tasks/actions", json={"action": "reschedule", "ids": [str(last)], "delay_seconds": 60}
        )
        assert (one.status_code, one.json()["done"]) == (200, 1)
        for bad in (
            {**body},
            {"action": "cancel", "preview": True},
            {"action": "eat", "ids": [str(last)]},
            {"action": "reschedule", "ids": [str(last)]},
            {"action": "cancel", "ids": [str(last)], "delay_seconds": 1},
            {"action": "cancel", "filter": {"q": "stat:x"}, "preview": True},
            {"action": "cancel", "filter": {"type": "T", "limit": 5}, "preview": True},
            {"action": "cancel", "filter": {"state": "dead"}, "preview": True},
        ):
            answer = await client.post("/tasks/actions", json=bad)
            assert answer.status_code == 422, (bad, answer.text)
