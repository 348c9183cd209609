"""Flows of tenants: by logins under row security, and never across tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from taskrunner import Task, TaskQueue, chain, group, register_task, roles
from taskrunner.errors import NotFound
from taskrunner.store import ending
from taskrunner.store.task import Ending
from tests.engine import Engine
from tests.roles import Roles, roles_of

NO = '[{"message": "no", "traceback": null}]'


@pytest.fixture
def installed(engine: Engine) -> Iterator[Roles]:
    @register_task("Step")
    class Step(Task):
        async def run(self) -> None: ...

    with roles_of(engine.db) as lent:
        roles.create(lent.database.url, lent.prefix)
        yield lent


@pytest.fixture(params=["owner", "trusted", "mapped"])
def queue(request: pytest.FixtureRequest, engine: Engine, installed: Roles) -> Iterator[TaskQueue]:
    """A door of the tenant acme's, by each kind of login that may be one."""
    url = {
        "owner": lambda: installed.database.url,
        "trusted": lambda: installed.login("user"),
        "mapped": lambda: installed.mapped("acme"),
    }[request.param]()
    with TaskQueue.connect(url, tenant="acme", registry=engine.registry) as opened:
        yield opened


def step(engine: Engine) -> Task:
    return engine.registry.get("Step").cls()


def end(engine: Engine, id_: UUID, state: str = "succeeded") -> list[UUID]:
    """Run a task and end it, as a worker's runner does."""
    runner = engine.join()
    claims = {claimed.id: claimed for claimed in engine.claim(runner, 99, ["Step"])}
    claimed = claims[id_]
    detail = NO if state == "dead" else None
    due = engine.do(ending.end(runner, Ending(id_, claimed.claim_no, 0.1, 0.1, state, detail)))
    engine.die(runner)
    return [task.id for task in due or ()]


def states(engine: Engine, *ids: UUID) -> list[str]:
    return [engine.view(id_).state for id_ in ids]


def test_a_tenant_adds_cancels_and_retries_flows_of_its_own(engine: Engine, queue: TaskQueue) -> None:
    """SPEC TEN 54, FLO 57."""
    first, *_ = ids = queue.add_flow(chain(step(engine), group(step(engine), step(engine)), step(engine)))
    assert states(engine, *ids) == ["pending", "blocked", "blocked", "blocked"]
    end(engine, first, "dead")
    assert states(engine, *ids) == ["dead"] * 4
    fresh = queue.retry_flow(first)
    assert states(engine, *(fresh[id_] for id_ in ids)) == ["pending", "blocked", "blocked", "blocked"]
    assert engine.rows("SELECT DISTINCT tenant FROM taskrunner.dependency") == [("acme",)]
    late = queue.add(step(engine), after=fresh[first]).id
    assert set(queue.cancel_flow(fresh[first])) == {*fresh.values(), late}
    assert states(engine, late) == ["cancelled"]
    assert states(engine, queue.add(step(engine), after=late).id) == ["cancelled"]


def test_a_tenant_lets_what_is_dead_wait_and_deletes_or_requeues_it(engine: Engine, queue: TaskQueue) -> None:
    parent = queue.add(step(engine)).id
    child = queue.add(step(engine), after=parent, on_parent_failure="wait").id
    end(engine, parent, "dead")
    later = queue.add(step(engine), after=parent, on_parent_failure="wait").id
    failed = queue.add(step(engine), after=parent).id
    assert states(engine, child, later, failed) == ["blocked", "blocked", "dead"]
    fresh = queue.retry(parent)
    assert set(end(engine, fresh)) == {child, later}


def test_nothing_comes_after_another_tenants_task_or_steers_its_flow(engine: Engine, queue: TaskQueue) -> None:
    """SPEC TEN 54: whether there is such a task is not told either."""
    with engine.door() as all_tenants:
        theirs = all_tenants.add_flow(chain(step(engine), step(engine)), tenant="globex")[0]
        with pytest.raises(NotFound, match="no such task"):
            queue.add(step(engine), after=theirs)
        for steer in (queue.cancel_flow, queue.retry_flow):
            call: Any = steer
            with pytest.raises(NotFound):
                call(theirs)
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 2
