"""What people do, and the trail that it leaves: one entry an action, or none where nothing was done."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from taskrunner import Task, actions, reads, register_task, roles
from taskrunner.actions import Action, acting
from taskrunner.cli import main
from taskrunner.errors import Conflict, InvalidArgument, NotFound
from taskrunner.reads import AuditEntry, AuditFilter
from taskrunner.schedules import Planner
from taskrunner.store import retention
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.tenancy import run_as
from taskrunner.testing.database import Database
from tests.engine import Engine
from tests.roles import roles_of

ACTOR = "test:ada"
HOUR = timedelta(hours=1)


def trail(engine: Engine, **wanted: Any) -> list[AuditEntry]:
    return engine.do(reads.audit_trail(AuditFilter(**wanted))).items


def act(engine: Engine, action: Action[Any]) -> Any:
    return engine.do(acting(ACTOR, action).make())


def run(words: list[str]) -> Any:
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def dead(engine: Engine) -> UUID:
    (id_,) = engine.add()
    runner = engine.join()
    (claim,) = engine.claim(runner)
    engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
    return id_


def planner(engine: Engine) -> Planner:
    @register_task("Mail")
    class Mail(Task):
        to: str = "a@b.c"

        def run(self) -> None: ...

    return Planner(engine.registry)


def scheduled(engine: Engine) -> tuple[Planner, str]:
    made = planner(engine)
    engine.do(made.add("nightly", {"task": "Mail", "frequency": HOUR}, None, overwrite=False).make())
    return made, "nightly"


ACTIONS: list[tuple[str, Callable[[Engine], Action[Any]]]] = [
    ("task.cancel", lambda engine: actions.cancel_task(engine.add()[0])),
    ("task.cancel", lambda engine: actions.delete_task(engine.add()[0])),
    ("task.retry", lambda engine: actions.retry_task(engine.add()[0])),
    ("task.retry", lambda engine: actions.retry_task(dead(engine))),
    ("task.reschedule", lambda engine: actions.reschedule_task(engine.add()[0], delay=HOUR)),
    ("task.reschedule", lambda engine: actions.reschedule_task(engine.add()[0], at=datetime(2030, 1, 1, tzinfo=UTC))),
    ("flow.cancel", lambda engine: actions.cancel_flow(engine.add()[0])),
    ("flow.retry", lambda engine: actions.retry_flow(dead(engine))),
    ("dead.requeue", lambda engine: actions.requeue_dead(dead(engine))),
    ("dead.delete", lambda engine: actions.delete_dead(dead(engine))),
    ("queue.pause", lambda _: actions.pause_queue("mail")),
    ("queue.resume", lambda _: actions.resume_queue("mail")),
    ("queue.fair", lambda _: actions.make_fair("mail", fair_queue=True)),
    ("queue.weight", lambda _: actions.weigh_tenant("mail", "acme", 3)),
    (
        "schedule.add",
        lambda engine: actions.add_schedule(planner(engine), "x", {"task": "Mail", "frequency": "@daily"}, "default"),
    ),
    ("schedule.change", lambda engine: actions.change_schedule(*scheduled(engine), {"priority": 7}, "default")),
    ("schedule.pause", lambda engine: actions.pause_schedule(*scheduled(engine), "default")),
    ("schedule.resume", lambda engine: actions.resume_schedule(*scheduled(engine), "default")),
    ("schedule.run", lambda engine: actions.run_schedule(*scheduled(engine), "default")),
    ("schedule.remove", lambda engine: actions.remove_schedule(*scheduled(engine), "default")),
]


@pytest.mark.parametrize(
    ("name", "make"), ACTIONS, ids=[f"{number}-{name}" for number, (name, _) in enumerate(ACTIONS)]
)
def test_an_action_leaves_one_entry_and_a_repeat_of_it_none(
    engine: Engine, name: str, make: Callable[[Engine], Action[Any]]
) -> None:
    action = make(engine)
    call = acting(ACTOR, action)
    engine.do(call.make())
    (entry,) = trail(engine)
    assert (entry.actor, entry.action, entry.target, entry.tenant) == (ACTOR, name, action.target, "default")
    assert "request" not in entry.details
    try:
        engine.do((call.again or call.make)())  # the reply was lost, and the same request comes again
    except (Conflict, NotFound):
        engine.conn.rollback()
    assert trail(engine) == [entry]


@pytest.mark.parametrize(("later", "entries"), [(timedelta(minutes=59), 1), (timedelta(minutes=61), 2)])
def test_a_request_is_known_again_for_an_hour(engine: Engine, later: timedelta, entries: int) -> None:
    """So far back the entries of a target are looked through, and no farther, however long its trail is."""
    call = acting(ACTOR, actions.pause_queue("mail"))
    engine.do(call.make())
    engine.db.travel(later)
    engine.do((call.again or call.make)())
    assert len(trail(engine, target="mail")) == entries


def test_another_request_is_noted_within_the_hour(engine: Engine) -> None:
    for queue in ("mail", "mail", "other"):
        engine.do(acting(ACTOR, actions.pause_queue(queue)).make())
    assert [entry.target for entry in trail(engine)] == ["other", "mail", "mail"]


def test_what_is_refused_leaves_no_entry(engine: Engine) -> None:
    with pytest.raises(NotFound):
        act(engine, actions.cancel_task(uuid7()))
    with pytest.raises(Conflict):
        act(engine, actions.requeue_dead(engine.add()[0]))
    for refused in (
        lambda: actions.pause_queue(""),
        lambda: actions.weigh_tenant("mail", "acme", 0),
        lambda: actions.make_fair("a\0b", fair_queue=True),
    ):
        with pytest.raises(InvalidArgument):
            refused()
    assert trail(engine) == []


def test_without_its_entry_nothing_is_done(engine: Engine) -> None:
    """Both in one transaction."""
    engine.conn.execute("ALTER TABLE taskrunner.audit ADD CHECK (actor <> 'test:ada')")
    (id_,) = engine.add()
    with pytest.raises(psycopg.errors.CheckViolation):
        act(engine, actions.cancel_task(id_))
    assert engine.view(id_).state == "pending"


def test_an_entry_is_filed_under_the_tenant_of_its_task(engine: Engine) -> None:
    mine = engine.add(tenant="acme")[0]
    act(engine, actions.cancel_task(mine))
    assert [entry.target for entry in trail(engine, tenant="acme")] == [str(mine)]
    assert trail(engine, tenant="other") == []


def test_a_login_of_a_tenant_acts_and_sees_its_own_trail_alone(taskrunner_db: Database, engine: Engine) -> None:
    """SPEC TEN 54."""
    with roles_of(taskrunner_db) as lent:
        roles.create(taskrunner_db.url, lent.prefix)
        mine, theirs = engine.add(tenant="acme")[0], engine.add(tenant="other")[0]
        act(engine, actions.cancel_task(theirs))
        for url, bound in ((lent.mapped("acme"), None), (lent.login("user"), "acme")):
            with psycopg.connect(url, autocommit=True) as conn:
                run_as(conn, acting("api:acme", actions.reschedule_task(mine, delay=HOUR)).make(), bound)
                with pytest.raises(NotFound):
                    run_as(conn, acting("api:acme", actions.cancel_task(theirs)).make(), bound)
                seen = run_as(conn, reads.audit_trail(AuditFilter()), bound).items
                assert {(entry.tenant, entry.target) for entry in seen} == {("acme", str(mine))}
        assert len(trail(engine, actor="api:acme")) == 2


def test_the_trail_is_listed_by_pages_and_filters_each_entry_once(engine: Engine) -> None:
    """SPEC OPS 49."""
    for number in range(5):
        act(engine, actions.pause_queue(f"q{number}"))
        act(engine, actions.resume_queue(f"q{number}"))
    whole = trail(engine)
    assert [entry.target for entry in whole] == [f"q{number}" for number in (4, 4, 3, 3, 2, 2, 1, 1, 0, 0)]
    for room in (1, 2, 3, 100):
        found: list[AuditEntry] = []
        wanted = AuditFilter(action="queue.pause", limit=2)
        while True:
            page = engine.do(reads.audit_trail(wanted, room))
            found += page.items
            if page.next is None:
                break
            wanted = wanted.model_copy(update={"after": page.next})
        assert found == [entry for entry in whole if entry.action == "queue.pause"], f"{room} rows a look"
    assert trail(engine, action="queue") == whole
    assert trail(engine, action="que") == []
    assert [entry.action for entry in trail(engine, target="q3")] == ["queue.resume", "queue.pause"]
    assert engine.do(reads.audit_of("q3")) == trail(engine, target="q3")
    assert trail(engine, since=datetime(2100, 1, 1, tzinfo=UTC)) == []


def test_entries_go_when_they_are_old_a_batch_at_a_time(taskrunner_db: Database, engine: Engine) -> None:
    for number in range(4):
        act(engine, actions.pause_queue(f"q{number}"))
    with taskrunner_db.connect() as tables:
        tables.execute("UPDATE taskrunner.audit SET acted_at = acted_at - interval '366 days' WHERE target <> 'q3'")
    batches = [engine.do(retention.delete("audit", room=2, retention=timedelta(days=365))) for _ in range(3)]
    assert batches == [2, 1, 0]
    assert [entry.target for entry in trail(engine)] == ["q3"]


@pytest.mark.parametrize("name", ["$(reboot)", "x';--", "--json"])
def test_the_command_of_an_action_does_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What the dashboard prints may be pasted into a shell."""
    monkeypatch.setenv("DATABASE_URL", engine.url)
    pause = actions.pause_queue(name)
    words = shlex.split(pause.command)
    assert words[0] == "taskrunner"
    assert run(words[1:]) == 0
    capsys.readouterr()
    assert run(["audit", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["action"], entry["target"]) == ("queue.pause", name)
    assert entry["actor"].startswith("cli:")
    assert run(["audit", "list"]) == 0
    assert "queue.pause" in capsys.readouterr().out
