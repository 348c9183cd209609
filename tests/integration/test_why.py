"""`why ID`: for a task in each state it says what it waits for, what that rests on, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from taskrunner import register_task, roles
from taskrunner.api.app import create_app
from taskrunner.cli import main
from taskrunner.errors import NotFound
from taskrunner.reads import Why, pending, why
from taskrunner.settings import Settings
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.task import Task
from taskrunner.tenancy import run_as
from tests.engine import Engine, holding
from tests.roles import Roles, connected, roles_of


def asked(engine: Engine, id_: UUID) -> Why:
    found = engine.do(why(id_))
    assert found.id == id_
    assert found.answer
    return found


def reason(engine: Engine, id_: UUID) -> str:
    return asked(engine, id_).reason


@pytest.fixture
def installed(engine: Engine) -> Iterator[Roles]:
    with roles_of(engine.db) as lent:
        roles.create(lent.database.url, lent.prefix)
        yield lent


# ── pending ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_that_is_not_due_says_when_it_will_be(engine: Engine) -> None:
    """SPEC OPS 50."""
    (id_,) = engine.add(delay=timedelta(hours=3))
    found = asked(engine, id_)
    assert (found.reason, found.state) == ("immature", "pending")
    assert "in 3.0 h" in found.answer
    assert found.commands == [f"taskrunner tasks retry {id_}"]


def test_a_task_that_failed_says_with_what_and_when_it_is_tried_again(engine: Engine) -> None:
    engine.add()
    (claimed,) = engine.claim(runner := engine.join())
    engine.retry(runner, claimed, delay=300)
    found = asked(engine, claimed.id)
    assert found.reason == "retrying"
    assert found.answer.startswith("its try 1 failed (no): it is tried again at ")
    assert found.facts["last_error"] == "no"


def test_a_due_task_without_any_runner_and_of_an_unknown_type_and_in_an_unserved_queue(engine: Engine) -> None:
    (id_,) = engine.add()
    assert reason(engine, id_) == "no-runner"
    engine.join("Other")
    assert reason(engine, id_) == "type-unregistered"
    engine.join()
    (mail,) = engine.add(queue="mail")
    found = asked(engine, mail)
    assert found.reason == "queue-unserved"
    assert found.commands == ["taskrunner start runner --queues mail"]


def test_a_paused_queue_is_named_with_the_command_that_resumes_it(engine: Engine) -> None:
    engine.join()
    (id_,) = engine.add()
    (later,) = engine.add(delay=timedelta(hours=1))
    engine.conn.execute(
        "INSERT INTO taskrunner.queue_settings (queue, paused, paused_at)"
        " VALUES ('default', true, now() - interval '10 minutes')"
    )
    found = asked(engine, id_)
    assert found.reason == "queue-paused"
    assert "has been paused for 10 min" in found.answer
    assert found.commands == ["taskrunner queues resume default"]
    assert "paused, too" in asked(engine, later).answer


def test_a_row_that_has_been_locked_for_a_moment_accuses_nobody(engine: Engine) -> None:
    """It is a claim, mostly: who looks while tasks run must not be told to end a runner's session."""
    engine.join()
    (id_,) = engine.add()
    with holding(engine.url, "SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", id_):
        assert reason(engine, id_) == "due"


def test_of_a_row_that_several_have_locked_nobody_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has a multixact's number then, which may be the number of anybody's transaction."""
    monkeypatch.setattr(pending, "LOCKED", timedelta(0))
    engine.join()
    (id_,) = engine.add()
    query = "SELECT FROM taskrunner.task WHERE id = %s FOR KEY SHARE"
    with holding(engine.url, query, id_), holding(engine.url, query, id_):
        assert reason(engine, id_) == "due"


def test_a_row_that_somebody_has_locked_is_told_with_his_session(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after he has written and not committed; and asking locks nothing."""
    monkeypatch.setattr(pending, "LOCKED", timedelta(0))
    engine.join()
    (id_,) = engine.add()
    for query in ("SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", "DELETE FROM taskrunner.task WHERE id = %s"):
        with holding(engine.url, query, id_) as conn:
            found = asked(engine, id_)
            assert (found.reason, found.facts["session"]) == ("locked", conn.info.backend_pid)
            assert f"pg_terminate_backend({conn.info.backend_pid})" in found.commands[0]
    assert reason(engine, id_) == "due"


def test_what_comes_first_is_counted_and_full_runners_are_named(engine: Engine) -> None:
    engine.join()
    engine.add(3, priority=200)
    engine.add(2)
    (id_,) = engine.add()
    engine.add(4, priority=50)
    engine.add(5, priority=300, delay=timedelta(hours=1))
    found = asked(engine, id_)
    assert (found.reason, found.facts["tasks_ahead"]) == ("queued", 5)
    engine.conn.execute("UPDATE taskrunner.runner SET running = slots")
    found = asked(engine, id_)
    assert found.reason == "slots-taken"
    assert found.facts["runners"] == ["paper:1: 100 of 100"]


def test_a_runner_is_full_as_soon_as_it_holds_as_much_as_it_has_slots(engine: Engine) -> None:
    """Its own figure comes with a heartbeat: one slot that had just been taken was shown as `0 of 1`."""
    runner = engine.join()
    engine.add(100)
    engine.claim(runner, 100)
    (id_,) = engine.add()
    found = asked(engine, id_)
    assert (found.reason, found.facts["runners"]) == ("slots-taken", ["paper:1: 100 of 100"])
    assert found.answer.endswith("and it is the next one")


def test_a_task_that_should_long_have_been_claimed_sends_to_the_doctor(engine: Engine) -> None:
    engine.join()
    (id_,) = engine.add()
    assert reason(engine, id_) == "due"
    engine.conn.execute("UPDATE taskrunner.task SET maturity_at = now() - interval '7 s'")
    assert reason(engine, id_) == "due", "how busy runners are is some seconds old"
    engine.conn.execute("UPDATE taskrunner.task SET maturity_at = now() - interval '1 minute'")
    found = asked(engine, id_)
    assert (found.reason, found.commands[0]) == ("unclaimed", "taskrunner doctor")


def test_a_suspect_waits_for_the_other_suspect(engine: Engine) -> None:
    engine.add(2)
    claims = engine.claim(runner := engine.join(), 2)
    engine.conn.execute("UPDATE taskrunner.task SET started_at = now()")
    engine.die(runner)
    engine.claim(engine.join())
    (waiting,) = [claim.id for claim in claims if engine.view(claim.id).state == "pending"]
    found = asked(engine, waiting)
    assert found.reason == "suspect"
    assert "ran 1 time when its runner died" in found.answer
    assert found.answer.endswith("the runner that could run it has one")
    engine.join("Other")
    assert reason(engine, waiting) == "suspect", "who does not know the type does not help"
    engine.join()
    assert reason(engine, waiting) != "suspect", "another one can take it"


def test_in_a_fair_queue_the_tenants_that_take_turns_are_counted(engine: Engine) -> None:
    engine.join()
    engine.conn.execute("INSERT INTO taskrunner.queue_settings (queue, fair) VALUES ('default', true)")
    engine.add(3, tenant="acme")
    engine.add(1, tenant="globex")
    (id_,) = engine.add(tenant="acme")
    found = asked(engine, id_)
    assert found.reason == "fair-turn"
    assert (found.facts["tenants_waiting"], found.facts["tasks_ahead"]) == (2, 3)


# ── blocked, running, ended ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_blocked_task_names_its_parents_and_a_dead_one_with_what_to_do(engine: Engine) -> None:
    @register_task("T")
    class T(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(T()).id
        child = door.add(T(), after=[first], on_parent_failure="wait").id
    found = asked(engine, child)
    assert (found.reason, found.commands) == ("blocked", [f"taskrunner why {first}"])
    assert "until 1 parent has ended" in found.answer
    engine.conn.execute("UPDATE taskrunner.task SET has_children = false WHERE id = %s", [first])
    (claimed,) = engine.claim(runner := engine.join())
    engine.do(store.bury(runner, [Ending(claimed.id, claimed.claim_no, detail='[{"message": "no"}]')]))
    found = asked(engine, child)
    assert found.reason == "parent-dead"
    assert found.commands[0] == f"taskrunner dead requeue {first}"


def test_a_running_task_says_where_and_since_when_and_what_becomes_of_it_if_its_runner_is_dead(engine: Engine) -> None:
    (id_,) = engine.add()
    runner = engine.join()
    engine.claim(runner)
    assert reason(engine, id_) == "claimed"
    engine.conn.execute(
        "UPDATE taskrunner.task SET started_at = now() - interval '90 s', progress = '{\"password\": \"hunter2\"}'"
    )
    found = asked(engine, id_)
    assert "hunter2" not in found.model_dump_json()
    assert found.answer == "it has been running on paper:1 for 90 s"
    engine.do(steering.cancel(id_))
    assert reason(engine, id_) == "cancel-requested"
    engine.conn.execute("UPDATE taskrunner.runner SET lease_until = now() - interval '7 s'")
    found = asked(engine, id_)
    assert found.reason == "runner-dead"
    assert found.commands == ["taskrunner start all", "taskrunner maintain"]
    engine.join("Other")
    assert "within seconds" in asked(engine, id_).answer


def test_a_task_that_has_ended_says_how(engine: Engine) -> None:
    engine.add(2)
    first, second = engine.claim(runner := engine.join(), 2)
    engine.finish(runner, first)
    assert reason(engine, first.id) == "succeeded"
    engine.do(store.bury(runner, [Ending(second.id, second.claim_no, detail='[{"message": "SMTP is down"}]')]))
    found = asked(engine, second.id)
    assert found.reason == "dead"
    assert found.answer.endswith("after 1 failed try: SMTP is down")
    assert f"taskrunner dead requeue {second.id}" in found.commands
    again = engine.do(steering.retry_now(second.id, uuid7()))
    found = asked(engine, second.id)
    assert found.facts["requeued_as"] == again
    assert found.commands == [f"taskrunner why {again}"]


def test_a_successor_names_the_task_that_it_comes_after(engine: Engine) -> None:
    @register_task("Once", unique=True)
    class Once(Task):
        async def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Once()).id
        engine.claim(engine.join("Once"), types=["Once"])
        second = door.add(Once(), on_conflict="replace").id
    found = asked(engine, second)
    assert (found.reason, found.facts["behind"]) == ("key-running", first)
    assert f"taskrunner why {first}" in found.commands


# ── ids that are none, and who asks ──────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_id_names_those_that_are_near_and_what_else_has_it(engine: Engine) -> None:
    (id_,) = engine.add()
    mistyped = UUID(int=id_.int ^ 0xF0)
    with pytest.raises(NotFound, match=rf"did you mean {id_} \(T, pending\)\?"):
        engine.do(why(mistyped))
    with pytest.raises(NotFound, match="is a runner and no task"):
        engine.do(why(engine.join()))
    with pytest.raises(NotFound, match=r"retention has removed it$"):
        engine.do(why(UUID(int=1)))


@pytest.mark.parametrize("kind", ["mapped", "user", "reader", "worker"])
def test_logins_of_all_kinds_may_ask_and_tenants_see_their_own(engine: Engine, installed: Roles, kind: str) -> None:
    """SPEC TEN 54: neither others' tasks, nor others' ids as a near miss."""
    (mine,) = engine.add(tenant="acme")
    (theirs,) = engine.add(tenant="globex")
    engine.join()
    url = installed.mapped("acme") if kind == "mapped" else installed.login(kind)
    with connected(url) as conn:
        found = run_as(conn, why(mine), "acme")
        assert found.reason in ("due", "queued")
        if kind != "worker":
            with pytest.raises(NotFound) as none:
                run_as(conn, why(theirs), "acme")
            assert "did you mean" not in str(none.value) or str(theirs) not in str(none.value).partition(":")[2]


def test_the_command_prints_the_sentence_the_facts_and_what_is_next(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", engine.url)
    (id_,) = engine.add()
    out = called(capsys, "why", str(id_))
    assert out.startswith("pending, no-runner: it is due, and no runner is alive to run it\n")
    assert "  next: taskrunner start runner\n" in out
    assert json.loads(called(capsys, "why", str(id_), "--json")).keys() == set(Why.model_fields)
    with pytest.raises(NotFound, match="the tenant acme has no task"):
        raise_from("why", str(id_), "--tenant", "acme")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    return str(capsys.readouterr().out)


def raise_from(*arguments: str) -> Any:
    from typer.main import get_command

    from taskrunner.cli import app

    return get_command(app)(args=arguments, standalone_mode=False)


def test_asking_is_quick_whatever_waits_before_it(engine: Engine) -> None:
    """What is looked at is bounded: of 30,000 tasks that come first, 1,000 are counted."""
    engine.join()
    engine.flood(30_000, priority=200)
    (id_,) = engine.add()
    found = asked(engine, id_)
    assert "at least 1,000 due tasks come before it" in found.answer


@pytest.mark.anyio
async def test_by_http_the_same_is_told(engine: Engine) -> None:
    (id_,) = engine.add()
    app = create_app(Settings(), engine.registry, engine.url)
    async with (
        app.state.door,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        told = await client.get(f"/tasks/{id_}/why")
        assert (told.status_code, Why.model_validate(told.json()).reason) == (200, "no-runner")
        none = await client.get(f"/tasks/{UUID(int=id_.int ^ 1)}/why")
        assert none.status_code == 404
        assert str(id_) in none.json()["detail"]
