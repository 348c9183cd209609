"""The checker can fail: bugs are planted, one at a time, and each is caught; the engine without them passes.

Most are planted in the engine's own SQL, and the engine then really does the wrong thing to a real database.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskrunner import statements
from taskrunner.store import schedule as schedule_store
from taskrunner.testing.database import Database
from tests.chaos.bench import PERIOD, Bench, let_pass
from tests.chaos.checker import check
from tests.chaos.history import Event, History

Plant = Callable[[Bench, pytest.MonkeyPatch], None]


@pytest.fixture
def bench(taskrunner_db: Database, tmp_path: Path) -> Iterator[Bench]:
    """An engine taken apart, on a database of this test's own."""
    made = Bench(taskrunner_db, History(tmp_path / "history.jsonl"))
    yield made
    made.close()


# ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────────


def a_plain_life(bench: Bench) -> None:
    bench.add()
    bench.work_off(bench.runner())


def a_zombie_finishes_late(bench: Bench) -> None:
    bench.add()
    zombie, heir = bench.runner(), bench.runner()
    stale = bench.claim(zombie)
    bench.end_lease(zombie)
    bench.rescue()
    claims = bench.claim(heir)
    bench.succeed(stale)
    bench.finish(zombie, stale)
    let_pass()
    bench.succeed(claims)
    bench.finish(heir, claims)


def a_runner_gets_its_own_task_again(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    stale = bench.claim(runner)
    bench.release(runner, stale)
    claims = bench.claim(runner)
    bench.finish(runner, stale)
    let_pass()
    bench.succeed(claims)
    bench.finish(runner, claims)


def an_enqueue_is_repeated_after_the_end(bench: Bench) -> None:
    runner, id_ = bench.runner(), bench.add()
    bench.work_off(runner)
    bench.add(id_)
    bench.work_off(runner)


def two_want_the_same_key(bench: Bench) -> None:
    bench.add(key="k")
    bench.add(key="k")
    bench.work_off(bench.runner())


def two_schedulers_meet(bench: Bench) -> None:
    id_ = bench.schedule()
    rests = [bench.tick(id_, stop_after=2) for _ in range(2)]
    for rest in rests:
        rest()
    bench.work_off(bench.runner())


def a_scheduler_dies_in_mid_tick(bench: Bench) -> None:
    id_, runner = bench.schedule(), bench.runner()
    bench.tick(id_, stop_after=4)
    bench.scheduler_dies()
    bench.work_off(runner)
    bench.tick(id_)
    bench.work_off(runner)


def ticks_are_made_up_for(bench: Bench) -> None:
    id_ = bench.schedule()
    bench.tick(id_)
    time.sleep(4 * PERIOD.total_seconds())
    bench.tick(id_)
    bench.work_off(bench.runner())


def a_poison_kills_its_runners(bench: Bench) -> None:
    bench.add()
    for _ in range(5):
        runner = bench.runner()
        bench.claim(runner, deadly=True)
        bench.end_lease(runner)
        bench.rescue()


def a_claim_is_handed_back(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    bench.release(runner, bench.claim(runner))
    bench.work_off(runner)


def a_try_fails(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    bench.retry(runner, bench.claim(runner))
    bench.work_off(runner)


def the_reply_of_a_claim_is_lost(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    bench.claim(runner, unheard=True)
    bench.dispel_doubt(runner)
    bench.work_off(runner)


def a_rescuer_looks_at_a_live_runner(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    claims = bench.claim(runner)
    bench.rescue()
    bench.succeed(claims)
    bench.finish(runner, claims)
    bench.work_off(bench.runner())


def a_heart_beats_too_late(bench: Bench) -> None:
    bench.add()
    runner = bench.runner()
    bench.claim(runner)
    bench.end_lease(runner)
    bench.beat(runner)
    bench.rescue()
    bench.dispel_doubt(runner)
    bench.work_off(bench.runner())


def a_task_is_not_due_yet(bench: Bench) -> None:
    bench.add(delay=timedelta(seconds=0.5))
    runner = bench.runner()
    bench.work_off(runner)
    time.sleep(0.6)
    bench.work_off(runner)


def somebody_cancels_a_running_task(bench: Bench) -> None:
    id_, runner = bench.add(), bench.runner()
    claims = bench.claim(runner)
    bench.cancel(id_)
    bench.succeed(claims)
    bench.finish(runner, claims)


SCENES = [
    a_plain_life,
    a_zombie_finishes_late,
    a_runner_gets_its_own_task_again,
    an_enqueue_is_repeated_after_the_end,
    two_want_the_same_key,
    two_schedulers_meet,
    a_scheduler_dies_in_mid_tick,
    ticks_are_made_up_for,
    a_poison_kills_its_runners,
    a_claim_is_handed_back,
    a_try_fails,
    the_reply_of_a_claim_is_lost,
    a_rescuer_looks_at_a_live_runner,
    a_heart_beats_too_late,
    a_task_is_not_due_yet,
    somebody_cancels_a_running_task,
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_engine_as_it_is_breaks_nothing(bench: Bench, scene: Callable[[Bench], None]) -> None:
    scene(bench)
    assert bench.verdict() == []


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def sql(name: str, was: str, now: str = "") -> Plant:
    """Plant a bug in the statement of this name: every `was` in it becomes `now`."""

    def plant(_: Bench, patch: pytest.MonkeyPatch) -> None:
        modules = [importlib.import_module(f"taskrunner.statements.{one.name}") for one in _modules()]
        [home] = [module for module in modules if name in vars(module) and module.__name__ == _home(module, name)]
        text = getattr(home, name)
        assert was in text, f"{name} has changed: plant its bug anew"
        patch.setattr(home, name, text.replace(was, now))

    return plant


def _modules() -> Iterator[pkgutil.ModuleInfo]:
    return pkgutil.iter_modules(statements.__path__)


def _home(module: Any, name: str) -> str:
    """Return the module's name if it assigns the statement itself, and does not import it."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    return str(module.__name__) if f"\n{name} = " in source else ""


def without(index: str) -> Plant:
    """Plant a missing index."""
    return lambda bench, _: bench.tables.execute(f"DROP INDEX taskrunner.{index}") and None


def both(*plants: Plant) -> Plant:
    """Plant a bug that takes two changes."""
    return lambda bench, patch: [plant(bench, patch) for plant in plants] and None


def no_transaction(bench: Bench, _: pytest.MonkeyPatch) -> None:
    bench.one_transaction = False


def only_the_latest_tick(_: Bench, patch: pytest.MonkeyPatch) -> None:
    whole = schedule_store.due_times
    patch.setattr(schedule_store, "due_times", lambda *args: whole(*args)[-1:])


NUMBERED = both(sql("CYCLE", " AND t.claim_no = e.claim_no"), sql("CYCLE", " AND e.claim_no = g.claim_no"))
RUNNER_FENCE = "AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')"
NOW, SOON = "t.maturity_at <= taskrunner.clock()", "t.maturity_at <= taskrunner.clock() + interval '5 min'"

BUGS: dict[str, tuple[Plant, Callable[[Bench], None], str]] = {
    "no fence: an ending is written by id alone": (
        both(sql("CYCLE", RUNNER_FENCE), NUMBERED),
        a_zombie_finishes_late,
        "I4",
    ),
    "half a fence: the claim's number does not matter": (
        NUMBERED,
        a_runner_gets_its_own_task_again,
        "I4",
    ),
    "a repeated enqueue does not look into history": (
        sql("ALREADY_ENDED", "WHERE ", "WHERE false AND "),
        an_enqueue_is_repeated_after_the_end,
        "I1",
    ),
    "no unique index": (without("task_unique"), two_want_the_same_key, "I9"),
    "no lock on a schedule that is ticked": (
        both(sql("TAKE", "FOR UPDATE OF s SKIP LOCKED"), without("task_tick")),
        two_schedulers_meet,
        "I6",
    ),
    "a tick is not one transaction": (no_transaction, a_scheduler_dies_in_mid_tick, "I6"),
    "missed ticks are forgotten": (only_the_latest_tick, ticks_are_made_up_for, "I6"),
    "a scheduler goes by its own clock, which is ahead": (
        sql("TAKE", "taskrunner.clock()", "(taskrunner.clock() + interval '3 s')"),
        ticks_are_made_up_for,
        "I6",
    ),
    "a runner goes by its own clock, which is ahead": (sql("CYCLE", NOW, SOON), a_task_is_not_due_yet, "I3"),
    "crashes are not counted": (
        sql("RESCUE", "crashes = coalesce(c.crashes, l.crashes)", "crashes = l.crashes"),
        a_poison_kills_its_runners,
        "I8",
    ),
    "a release counts a try": (
        sql("RELEASE", "THEN t.tries ELSE", "THEN t.tries + 1 ELSE"),
        a_claim_is_handed_back,
        "I8",
    ),
    "a failed try is not counted": (sql("RETRY", "THEN t.tries + 1 ELSE", "THEN t.tries ELSE"), a_try_fails, "I8"),
    "a failed try is missing in the stats": (
        sql("RETRY", "FROM retried r\n)", "FROM retried r WHERE false\n)"),
        a_try_fails,
        "I7",
    ),
    "a finish writes no history": (
        sql("CYCLE", "FROM gone g JOIN ending e ON e.id = g.id", "FROM gone g JOIN ending e ON e.id = g.id AND false"),
        a_plain_life,
        "I1",
    ),
    "a finish is missing in the stats": (
        sql("CYCLE", "GROUP BY b.tenant, b.queue, b.type, b.outcome", "GROUP BY 1, 3, 4, 5, 6 HAVING false"),
        a_plain_life,
        "I7",
    ),
    "claims by a lost reply are kept for ever": (
        sql("UNKNOWN", "WHERE ", "WHERE false AND "),
        the_reply_of_a_claim_is_lost,
        "I12",
    ),
    "a live runner is rescued": (
        sql("EXPIRED", "r.lease_until < taskrunner.clock()", "r.lease_until < taskrunner.clock() + interval '1 hour'"),
        a_rescuer_looks_at_a_live_runner,
        "I3",
    ),
    "a lease that has ended is revived": (
        sql("BEAT", " AND r.lease_until > taskrunner.clock() + (clock_timestamp() - now())"),
        a_heart_beats_too_late,
        "I3",
    ),
    "claims are not numbered": (
        sql("CYCLE", "claim_no = t.claim_no + 1", "claim_no = greatest(t.claim_no, 1)"),
        a_claim_is_handed_back,
        "I3",
    ),
    "a running task is cancelled behind its runner's back": (
        sql("CANCEL", "IN ('pending', 'blocked')", "IN ('pending', 'blocked', 'running')"),
        somebody_cancels_a_running_task,
        "I3",
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    plant, scene, rule = BUGS[bug]
    plant(bench, monkeypatch)
    scene(bench)
    assert rule in {violation.rule for violation in bench.verdict()}


# ── what no SQL of ours could do ─────────────────────────────────────────────────────────────────────────────────────


def the_life_of(task: str) -> list[Event]:
    """Return a history in which one task is added, claimed, run and ended."""
    image: Event = {"state": "pending", "claim_no": 0, "runner": None, "tries": 0, "crashes": 0, "due_at": 1.0}
    running = {**image, "state": "running", "claim_no": 1, "runner": "r"}
    row: Event = {"what": "row", "task": task, "type": "t", "key": None, "schedule": None, "tick_at": None}
    row |= {"lease_left": 9.0, "by": "taskrunner runner"}
    said = {"task": task, "claim_no": 1, "at": 3.0}
    end = {"what": "end", "task": task, "type": "t", "claim_no": 1, "state": "succeeded", "crashes": 0, "tries": 0}
    counts = [{"type": "t", "state": "succeeded", "count": 1}]
    return [
        {"what": "enqueue", "task": task, "ack": "yes"},
        {**row, "no": 1, "at": 1.0, "op": "INSERT", "new": image, "old": None},
        {**row, "no": 2, "at": 2.0, "op": "UPDATE", "new": running, "old": image},
        *({**said, "what": what} for what in ("run", "effect", "done")),
        {**row, "no": 3, "at": 4.0, "op": "DELETE", "new": None, "old": running},
        {**end, "at": 4.0},
        {"what": "tables", "live": [], "ended": counts, "stats": counts, "schedules": [], "leaks": []},
    ]


def test_a_history_of_one_good_life_is_good() -> None:
    assert check(the_life_of("a")) == []


@pytest.mark.planted
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda life: [event for event in life if event["what"] != "end"], "I1"),
        (lambda life: [event for event in life if event["what"] not in ("row", "end")], "I1"),
        (lambda life: [*life, next(event for event in life if event["what"] == "end")], "I1"),
        (lambda life: [{**event, "ack": "unknown"} for event in [*life, life[-2]]], "I2"),
        (lambda life: [event for event in life if event["what"] != "done"], "I4"),
        (lambda life: [*life, life[4]], "I5"),
        (lambda life: [event for event in life if event["what"] != "effect"], "I5"),
        (lambda life: [*life[:-1], {**life[-1], "ended": []}], "I7"),
        (lambda life: [*life[:-1], {**life[-1], "leaks": ["session x"]}], "I12"),
    ],
    ids=[
        "an end that left no row",
        "an acknowledged task that never was",
        "two ends",
        "two ends of an unacknowledged task",
        "an end without a run",
        "an effect twice in one claim",
        "a success without its effect",
        "an end that is not in history",
        "a session that is left",
    ],
)
def test_a_forged_history_is_caught(change: Callable[[list[Event]], list[Event]], rule: str) -> None:
    assert rule in {violation.rule for violation in check(change(the_life_of("a")))}
