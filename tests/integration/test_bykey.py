"""Tasks found by their key; who waits for a key that somebody's open transaction holds, and how long."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from taskrunner import db, register_task
from taskrunner.asyncqueue import AsyncTaskQueue
from taskrunner.door import Door
from taskrunner.errors import Conflict, InvalidArgument, NotFound, UnknownType
from taskrunner.store import enqueue as enqueue_store
from taskrunner.store.enqueue import Idempotency
from taskrunner.task import Task
from tests.engine import LEASE, WAIT, Engine, holding


@pytest.fixture
def letter(engine: Engine) -> Any:
    @register_task("Letter", aliases=("Mail",))
    class Letter(Task):
        n: int = 0

        async def run(self) -> None: ...

    return Letter


@pytest.fixture
def part(engine: Engine) -> Any:
    @register_task("Part", unique=("account",))
    class Part(Task):
        account: int
        n: int = 0

        async def run(self) -> None: ...

    return Part


@pytest.fixture
def whole(engine: Engine) -> Any:
    @register_task("Whole", unique=True)
    class Whole(Task):
        async def run(self) -> None: ...

    return Whole


# ── by key ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_cancelled_or_taken_back_by_its_key(engine: Engine, letter: Any) -> None:
    """SPEC UNQ 17: by the class, the name, an old name."""
    with engine.door() as door:
        for one in (letter, "Letter", "Mail"):
            id_ = door.add(letter(), key="k").id
            assert door.get_by_key(one, "k").id == id_
            assert door.cancel_by_key(one, "k") == "cancelled"
            assert door.get(id_).state == "cancelled"
            again = door.add(letter(), key="k").id
            door.delete_by_key(one, "k")
            assert door.get(again).state == "cancelled"
            with pytest.raises(NotFound, match="no live Letter of tenant 'default' has the key 'k'"):
                door.cancel_by_key(one, "k")


def test_a_running_task_is_asked_to_stop_by_its_key_and_not_taken_back(engine: Engine, letter: Any) -> None:
    """SPEC UNQ 17."""
    runner = engine.join("Letter")
    with engine.door() as door:
        id_ = door.add(letter(), key="k").id
        engine.claim(runner, types=("Letter",))
        with pytest.raises(Conflict, match=f"{id_} is running"):
            door.delete_by_key(letter, "k")
        assert door.cancel_by_key(letter, "k") == "requested"


def test_types_that_are_unique_by_themselves_are_found_by_type_or_fields(engine: Engine, whole: Any, part: Any) -> None:
    """SPEC UNQ 17."""
    with engine.door() as door:
        id_ = door.add(whole()).id
        assert door.get_by_key(whole).id == door.get_by_key("Whole").id == door.get_by_key(whole()).id == id_
        parts = [door.add(part(account=account, n=1)).id for account in (1, 2)]
        assert door.get_by_key(part(account=2)).id == parts[1], "other fields do not matter"
        assert door.cancel_by_key(part(account=1)) == "cancelled"
        assert engine.view(parts[1]).state == "pending"
        with pytest.raises(InvalidArgument, match=r"as in Part\(account=…\)"):
            door.get_by_key(part)


def test_a_key_is_looked_for_in_one_tenant_only(engine: Engine, letter: Any) -> None:
    """SPEC UNQ 15, 17."""
    with engine.door() as door:
        mine, theirs = door.add(letter(), key="k").id, door.add(letter(), key="k", tenant="acme").id
        assert door.get_by_key(letter, "k", tenant="acme").id == theirs
        door.cancel_by_key(letter, "k", tenant="acme")
        assert door.get_by_key(letter, "k").id == mine
        with pytest.raises(NotFound, match="acme"):
            door.get_by_key(letter, "k", tenant="acme")


def test_what_names_no_key_is_refused(engine: Engine, letter: Any, whole: Any) -> None:
    with engine.door() as door:
        with pytest.raises(InvalidArgument, match="Letter is not unique by itself: give a key"):
            door.cancel_by_key(letter)
        with pytest.raises(InvalidArgument, match="Letter is not unique by itself: give a key"):
            door.cancel_by_key(letter())
        with pytest.raises(InvalidArgument, match="unique by itself: a key cannot be given"):
            door.cancel_by_key(whole, "k")
        with pytest.raises(UnknownType, match="Lettre"):
            door.cancel_by_key("Lettre", "k")
        with pytest.raises(InvalidArgument, match="1 to 255"):
            door.cancel_by_key(letter, "k" * 256)


@pytest.mark.anyio
async def test_the_asynchronous_door_finds_tasks_by_key_too(engine: Engine, letter: Any) -> None:
    """SPEC UNQ 17."""
    async with AsyncTaskQueue.connect(engine.url, registry=engine.registry) as door:
        added = await door.add(letter(n=1), key="k", on_conflict="replace")
        again = await door.add(letter(n=2), key="k", on_conflict="replace")
        assert (again.id, again.created, again.replaced) == (added.id, False, True)
        assert (await door.get_by_key(letter, "k")).payload == {"n": 2}
        assert await door.cancel_by_key(letter, "k") == "cancelled"
        await door.add(letter(), key="k")
        await door.delete_by_key("Letter", "k")
        with pytest.raises(NotFound):
            await door.get_by_key("Letter", "k")


# ── somebody's open transaction ──────────────────────────────────────────────────────────────────────────────────────


def until_somebody_waits(engine: Engine) -> None:
    """Return once a backend of this database waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + WAIT
    while not engine.value(query):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.005)


WAYS: dict[str, dict[str, Any]] = {
    "skip": {"key": "k"},
    "replace": {"key": "k", "on_conflict": "replace"},
    "error": {"key": "k", "on_conflict": "error"},
    "idempotency_key": {"idempotency_key": "k"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_key_held_by_an_open_transaction_is_waited_for_only_so_long_and_others_not_at_all(
    engine: Engine, letter: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC UNQ 15."""
    monkeypatch.setattr(Door, "lock_patience", 0.2)
    with engine.door() as door, holding(engine.url, "SELECT 1") as other:
        held = engine.new(type="Letter", unique_key="key:k")
        db.run(other, enqueue_store.add([held], idempotency=Idempotency("caller k", LEASE)))
        with pytest.raises(Conflict, match=r"open transaction .* within 0\.2 s"):
            door.add(letter(), **WAYS[way])
        assert door.add(letter(), key="other", on_conflict="replace").created
        assert door.add(letter(), idempotency_key="other").created
        assert door.add(letter()).created
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 3


def test_a_live_task_that_somebody_has_locked_is_waited_for_only_so_long(
    engine: Engine, letter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC UNQ 15."""
    monkeypatch.setattr(Door, "lock_patience", 0.2)
    with engine.door() as door:
        id_ = door.add(letter(n=1), key="k").id
        with holding(engine.url, "SELECT 1 FROM taskrunner.task WHERE id = %s FOR UPDATE", id_):
            with pytest.raises(Conflict, match="open transaction"):
                door.add(letter(n=2), key="k", on_conflict="replace")
            assert door.add(letter(n=2), key="k").id == id_
        assert door.add(letter(n=2), key="k", on_conflict="replace").replaced


def test_who_waits_for_a_key_in_time_gets_what_became_of_it(engine: Engine, letter: Any) -> None:
    """SPEC UNQ 15: the open transaction commits, or rolls back, while others wait."""
    with engine.door() as door, ThreadPoolExecutor(2) as pool:
        for commit in (True, False):
            held = engine.new(type="Letter", unique_key=f"key:{commit}")
            with holding(engine.url, "SELECT 1") as other:
                db.run(other, enqueue_store.add([held]))
                asked = pool.submit(door.add, letter(n=2), key=str(commit), on_conflict="replace")
                until_somebody_waits(engine)
                other.commit() if commit else other.rollback()
            answer = asked.result(30)
            assert (answer.id == held.id, answer.created, answer.replaced) == (commit, not commit, commit)
            assert engine.view(answer.id).payload == {"n": 2}


def test_in_a_transaction_of_the_callers_nothing_is_said_of_how_long_he_waits(engine: Engine, letter: Any) -> None:
    with engine.door() as door, db.connect(engine.url) as mine:
        with mine.transaction():
            mine.execute("SET LOCAL lock_timeout = '7s'")
            assert door.add(letter(n=1), key="k", on_conflict="replace", connection=mine).created
            assert door.add(letter(n=2), key="k", on_conflict="replace", connection=mine).replaced
            assert mine.execute("SHOW lock_timeout").fetchall() == [("7s",)]
        assert door.get_by_key(letter, "k").payload == {"n": 2}
        with mine.transaction() as undone:
            door.add(letter(n=3), key="k", on_conflict="replace", connection=mine)
            raise psycopg.Rollback(undone)
        assert door.get_by_key(letter, "k").payload == {"n": 2}
        assert door.add(letter(n=4), key="k", on_conflict="replace").replaced
        assert engine.rows("SHOW lock_timeout") == [("0",)]
