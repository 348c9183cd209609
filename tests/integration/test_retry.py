"""Retries and dead letters: what stays the same, what is counted, who waits behind whom."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from taskrunner import register_task
from taskrunner.errors import Conflict, NotFound
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.task import Task
from tests.engine import Engine, ids_of

HOUR = timedelta(hours=1)


def test_a_retry_counts_one_try_and_keeps_everything_else(engine: Engine) -> None:
    """SPEC RTY 30."""
    a_retry_counts_a_try(engine)


def a_retry_counts_a_try(engine: Engine) -> None:
    (id_,) = engine.add(payload='{"n": 1}', priority=7, unique_key="key:k", meta='{"m": 1}', tenant="acme")
    runner = engine.join()
    kept = "payload, priority, unique_key, meta, tenant, queue, type, created_at, crashes, max_retries"
    before = engine.rows(f"SELECT {kept} FROM taskrunner.task")
    for tries in (1, 2, 3):
        (claim,) = engine.claim(runner)
        assert claim.tries == tries - 1
        assert claim.claim_no == tries
        (due,) = engine.retry(runner, claim, delay=0.0)
        assert due.id == id_
        view = engine.view(id_)
        assert (view.state, view.tries, len(view.errors)) == ("pending", tries, tries)
        assert (view.runner_id, view.started_at, view.progress) == (None, None, None)
        assert engine.rows(f"SELECT {kept} FROM taskrunner.task") == before
    errors = engine.view(id_).errors
    assert [(error["try"], error["message"], error["runner"]) for error in errors] == [
        (tries, "no", str(runner)) for tries in (1, 2, 3)
    ]
    assert [error["at"] for error in errors] == sorted(error["at"] for error in errors)
    assert engine.value("SELECT sum(count) FROM taskrunner.task_stats WHERE outcome = 'retried'") == 3


def test_a_release_and_a_snooze_count_no_try(engine: Engine) -> None:
    """DESIGN 5."""
    a_release_counts_nothing(engine)


def a_release_counts_nothing(engine: Engine) -> None:
    (id_,) = engine.add(delay=timedelta(0))
    runner = engine.join()
    before = engine.view(id_)
    (claim,) = engine.claim(runner, start=True)
    (due,) = engine.do(store.release(runner, [(id_, claim.claim_no)]))
    assert (due.id, due.queue, due.priority) == (id_, "default", 100)
    assert engine.view(id_) == before, "a release changed something"
    (claim,) = engine.claim(runner)
    engine.do(store.snooze(runner, [Ending(id_, claim.claim_no, delay=60.0)]))
    view = engine.view(id_)
    assert (view.tries, view.crashes, view.errors) == (0, 0, [])


def test_of_very_many_failed_tries_the_last_hundred_are_kept(engine: Engine) -> None:
    """SPEC RTY 30: bounded, or one task of a thousand retries would slow every look at it."""
    (id_,) = engine.add()
    engine.conn.execute(
        "UPDATE taskrunner.task SET tries = 100, errors = (SELECT jsonb_agg(jsonb_build_object('try', i))"
        " FROM generate_series(1, 100) i)"
    )
    runner = engine.join()
    engine.retry(runner, engine.claim(runner)[0])
    errors = engine.view(id_).errors
    assert [error["try"] for error in errors] == list(range(2, 102))


def test_a_delay_of_zero_goes_behind_what_matured_earlier(engine: Engine) -> None:
    """SPEC RTY 31: no poison task starves the others."""
    (poison,) = engine.add()
    others = engine.add(3)
    runner = engine.join()
    order = []
    for _ in range(6):
        (claim,) = engine.claim(runner)
        order.append(claim.id)
        if claim.id == poison:
            engine.retry(runner, claim, delay=0.0)
        else:
            engine.finish(runner, claim)
    assert order == [poison, *others, poison, poison]


def test_failed_tasks_do_not_come_back_together(engine: Engine) -> None:
    """SPEC RTY 32: a hundred tasks that failed at one instant, by the base class's next_try()."""
    engine.db.freeze(engine.db.now())

    @register_task("Fails")
    class Fails(Task):
        async def run(self) -> None: ...

    answers = [Fails().next_try() for _ in range(100)]
    assert all(isinstance(answer, timedelta) for answer in answers)
    engine.add(100)
    runner = engine.join(lease=HOUR)
    claims = engine.claim(runner, 100)
    endings = [
        Ending(claim.id, claim.claim_no, detail='{"message": "no"}', delay=answer.total_seconds())  # type: ignore[union-attr]
        for claim, answer in zip(claims, answers, strict=True)
    ]
    engine.do(store.retry(runner, endings))
    in_a_second = engine.value(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM taskrunner.task"
        " GROUP BY floor(extract(epoch FROM maturity_at))) AS seconds(n)"
    )
    assert in_a_second < 50


@pytest.mark.anyio
async def test_out_of_retries_a_task_is_a_dead_letter_with_all_its_errors(engine: Engine) -> None:
    """SPEC RTY 32."""

    @register_task("Fails", max_retries=2)
    class Fails(Task):
        to: str

        async def run(self) -> Any:
            raise ValueError(f"no. {self.tries}: {[error['message'] for error in self.errors]}")

        def next_try(self) -> Any:
            return 0 if self.tries < self.max_retries else None

    with engine.door() as door:
        async with engine.running() as running:
            id_ = door.add(Fails(to="me"), priority=3, meta={"m": 1}).id
            (view,) = await running.ended(id_)
    assert (view.state, view.tries, view.payload, view.priority, view.meta) == ("dead", 3, {"to": "me"}, 3, {"m": 1})
    assert [error["try"] for error in view.errors] == [1, 2, 3]
    assert "ValueError: no. 2" in view.errors[2]["message"]
    assert "no. 1" in view.errors[2]["message"], "run() sees its earlier errors"
    assert engine.ends(id_) == 1


def bury(engine: Engine, **fields: Any) -> Any:
    engine.add(**fields)
    runner = engine.join()
    (claim,) = engine.claim(runner)
    engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "no"}]')]))
    return claim.id


def test_a_requeued_dead_letter_is_a_new_pending_task_linked_to_the_old(engine: Engine) -> None:
    """SPEC RTY 32."""
    dead = bury(engine, payload='{"n": 1}', priority=7, tenant="acme", max_retries=9)
    new = uuid7()
    assert engine.do(steering.requeue(dead, new)) == new
    view = engine.view(new)
    assert (view.state, view.tries, view.crashes, view.errors) == ("pending", 0, 0, [])
    assert (view.payload, view.priority, view.tenant) == ({"n": 1}, 7, "acme")
    assert view.maturity_at <= engine.db.now()
    assert engine.value("SELECT requeued_from FROM taskrunner.task") == dead
    assert engine.value("SELECT requeued_as FROM taskrunner.dead_letter") == new
    with pytest.raises(Conflict, match="requeued"):
        engine.do(steering.requeue(dead, uuid7()))
    assert len(engine.claim(engine.join(), 10)) == 1


def test_a_dead_letter_is_deleted_for_good_and_nothing_else_is(engine: Engine) -> None:
    """SPEC RTY 32."""
    dead = bury(engine)
    (pending,) = engine.add()
    with pytest.raises(Conflict, match="pending"):
        engine.do(steering.delete_dead(pending))
    assert engine.do(steering.delete_dead(dead)) == dead
    with pytest.raises(NotFound):
        engine.do(steering.delete_dead(dead))


def test_a_batch_of_mixed_ends_comes_out_as_each_was_decided(engine: Engine) -> None:
    """SPEC HIS 52: and the counts agree with the tables."""
    ids = engine.add(5)
    runner = engine.join()
    claims = dict(zip(ids, engine.claim(runner, 5), strict=True))
    assert ids_of(list(claims.values())) == ids
    ended = [
        Ending(ids[0], 1, 0.02, 0.03, "succeeded", '{"ok": 1}'),
        Ending(ids[1], 1, 0.2, 0.3, "ignored"),
        Ending(ids[2], 1, 2.0, 3.0, "cancelled"),
    ]
    assert engine.finish(runner, *ended).left == []
    engine.do(store.bury(runner, [Ending(ids[3], 1, 0.5, 0.5, detail='[{"message": "a"}, {"message": "b"}]')]))
    engine.retry(runner, claims[ids[4]], delay=60)
    assert [engine.view(id_).state for id_ in ids] == ["succeeded", "ignored", "cancelled", "dead", "pending"]
    assert engine.view(ids[0]).result == {"ok": 1}
    assert [error["message"] for error in engine.view(ids[3]).errors] == ["a", "b"]
    counted = engine.rows(
        "SELECT outcome, sum(count)::int, sum(run_seconds) FROM taskrunner.task_stats GROUP BY 1 ORDER BY 1"
    )
    assert counted == [
        ("cancelled", 1, 2.0),
        ("dead", 1, 0.5),
        ("ignored", 1, 0.2),
        ("retried", 1, 0.0),
        ("succeeded", 1, 0.02),
    ]
