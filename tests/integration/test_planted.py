"""The checks can fail: bugs are planted, one at a time, and each must be caught by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskrunner.statements import cycle as cycle_sql
from taskrunner.statements import enqueue as enqueue_sql
from taskrunner.statements import fair as fair_sql
from taskrunner.statements import runner as runner_sql
from taskrunner.statements import task as task_sql
from taskrunner.store import enqueue
from tests.engine import Engine
from tests.integration.test_claim import (
    claims_come_in_order,
    foreign_types_are_left_alone,
    immature_tasks_hold_nobody_up,
    locked_rows_are_passed_by,
)
from tests.integration.test_enqueue import a_repeated_enqueue_revives_nothing
from tests.integration.test_fair import (
    a_newcomer_is_among_the_next_two,
    immature_hold_nobody_up,
    strays_come_at_last,
    tenants_come_in_turn,
)
from tests.integration.test_fair import locked_rows_are_passed_by as locked_rows_of_tenants_are_passed_by
from tests.integration.test_leases import (
    a_lease_that_ends_while_a_heartbeat_waits_is_not_revived,
    an_ended_lease_is_never_revived,
    only_started_tasks_are_charged,
    stale_writes_are_refused,
    strangers_writes_are_refused,
    the_suspect_alone_is_charged,
    the_third_crash_is_the_last,
)
from tests.integration.test_repeats import a_late_insert_does_nothing
from tests.integration.test_retry import a_release_counts_nothing, a_retry_counts_a_try
from tests.integration.test_unique import one_live_task_per_key

pytestmark = pytest.mark.planted


@dataclass(frozen=True)
class Bug:
    """A mistake in one statement: `wrong` instead of `right`; `check` is what must notice it."""

    module: Any
    statement: str
    right: str
    wrong: str
    check: Callable[[Engine], None]


RUNNER_FENCE = "AND t.runner_id = %(runner_id)s AND t.state NOT"
NO_RUNNER_FENCE = "AND %(runner_id)s::uuid IS NOT NULL AND t.state NOT"
CLAIM_FENCE = "WHERE t.claim_no = e.claim_no AND"
DUE = "AND t.maturity_at <= taskrunner.clock()"

BUGS = {
    "a finish acknowledged by id alone": Bug(
        cycle_sql, "CYCLE", "t.id = e.id AND t.claim_no = e.claim_no", "t.id = e.id", stale_writes_are_refused
    ),
    "a finish of any runner's": Bug(cycle_sql, "CYCLE", RUNNER_FENCE, NO_RUNNER_FENCE, strangers_writes_are_refused),
    "a retry without the claim's number": Bug(task_sql, "RETRY", CLAIM_FENCE, "WHERE", stale_writes_are_refused),
    "a retry of any runner's": Bug(task_sql, "RETRY", RUNNER_FENCE, NO_RUNNER_FENCE, strangers_writes_are_refused),
    "a snooze without the claim's number": Bug(task_sql, "SNOOZE", CLAIM_FENCE, "WHERE", stale_writes_are_refused),
    "a burial without the claim's number": Bug(task_sql, "BURY", CLAIM_FENCE, "WHERE", stale_writes_are_refused),
    "a release without the claim's number": Bug(task_sql, "RELEASE", CLAIM_FENCE, "WHERE", stale_writes_are_refused),
    "a release of any runner's": Bug(task_sql, "RELEASE", RUNNER_FENCE, NO_RUNNER_FENCE, strangers_writes_are_refused),
    "progress without the claim's number": Bug(
        task_sql, "PROGRESS", "WHERE t.claim_no = n.claim_no AND", "WHERE", stale_writes_are_refused
    ),
    "a claim number that does not rise": Bug(
        cycle_sql, "CYCLE", "claim_no = t.claim_no + 1", "claim_no = t.claim_no", stale_writes_are_refused
    ),
    "a release that counts a try": Bug(
        task_sql,
        "RELEASE",
        "THEN t.tries ELSE",
        "THEN t.tries + 1 ELSE",
        a_release_counts_nothing,
    ),
    "a retry that counts no try": Bug(
        task_sql, "RETRY", "THEN t.tries + 1 ELSE", "THEN t.tries ELSE", a_retry_counts_a_try
    ),
    "a retry that keeps only the last error": Bug(
        task_sql,
        "RETRY",
        "(CASE WHEN jsonb_array_length(t.errors) >= 100 THEN t.errors - 0 ELSE t.errors END)",
        "'[]'::jsonb",
        a_retry_counts_a_try,
    ),
    "tasks started before their maturity": Bug(cycle_sql, "CYCLE", DUE, "", immature_tasks_hold_nobody_up),
    "the least urgent first": Bug(
        cycle_sql,
        "CYCLE_MERGED",
        "ORDER BY f.priority DESC, d.maturity_at",
        "ORDER BY f.priority, d.maturity_at",
        claims_come_in_order,
    ),
    "types that nobody here knows": Bug(
        cycle_sql,
        "SURVEY",
        "JOIN unnest(%(types)s::text[]) AS y(type)",
        "JOIN (SELECT DISTINCT u.type FROM taskrunner.task u WHERE %(types)s::text[] IS NOT NULL) AS y(type)",
        foreign_types_are_left_alone,
    ),
    "a claim that waits for locks": Bug(
        cycle_sql, "CYCLE", "FOR UPDATE SKIP LOCKED", "FOR UPDATE", locked_rows_are_passed_by
    ),
    "a fair claim that always begins with the same tenant": Bug(
        fair_sql, "CYCLE_WIDE", '%(before)s::text COLLATE "C"', """'~'::text COLLATE "C\"""", tenants_come_in_turn
    ),
    "a fair claim of tasks before their maturity": Bug(fair_sql, "CYCLE_FAIR", DUE, "", immature_hold_nobody_up),
    "a fair claim that waits for locks": Bug(
        fair_sql, "CYCLE_FAIR", "FOR UPDATE SKIP LOCKED", "FOR UPDATE", locked_rows_of_tenants_are_passed_by
    ),
    "a fair claim that leaves strays where they are": Bug(
        fair_sql, "CYCLE_FAIR", "AND t.fair_tenant IS NULL", "AND false", strays_come_at_last
    ),
    "an enqueue that does not ask whether the queue is fair": Bug(
        enqueue_sql, "ADD", "THEN n.tenant END", "THEN NULL END", a_newcomer_is_among_the_next_two
    ),
    "a repeated enqueue that does not look into history": Bug(
        enqueue_sql,
        "ALREADY_ENDED",
        "WHERE h.id = ANY(%(ids)s::uuid[])",
        "WHERE false AND h.id = ANY(%(ids)s::uuid[])",
        a_repeated_enqueue_revives_nothing,
    ),
    "a repeated enqueue that leaves no note for a late one": Bug(
        enqueue_sql, "NOTE_REPEATS", "'repeat ' || n.id", "'repeated ' || n.id", a_late_insert_does_nothing
    ),
    "a rescue that charges what was only claimed": Bug(
        runner_sql, "RESCUE", "WHERE l.started_at IS NOT NULL\n       AND", "WHERE", only_started_tasks_are_charged
    ),
    "a rescue that does not count crashes": Bug(
        runner_sql, "RESCUE", "l.crashes + 1 AS crashes", "l.crashes AS crashes", the_third_crash_is_the_last
    ),
    "a rescue that charges everybody beside a suspect": Bug(
        runner_sql,
        "RESCUE",
        "AND (l.crashes > 0 OR NOT EXISTS (SELECT FROM locked s WHERE s.crashes > 0 AND s.started_at IS NOT NULL))",
        "",
        the_suspect_alone_is_charged,
    ),
    "a heartbeat that revives the dead": Bug(
        runner_sql,
        "BEAT",
        "AND r.lease_until > taskrunner.clock() + (clock_timestamp() - now())",
        "",
        an_ended_lease_is_never_revived,
    ),
    "a heartbeat judged by the time before it waited": Bug(
        runner_sql,
        "BEAT",
        " + (clock_timestamp() - now())",
        "",
        a_lease_that_ends_while_a_heartbeat_waits_is_not_revived,
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_planted_in_a_statement_is_caught(engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    bug = BUGS[name]
    text = getattr(bug.module, bug.statement)
    assert bug.right in text, "the statement has changed: plant the bug anew"
    monkeypatch.setattr(bug.module, bug.statement, text.replace(bug.right, bug.wrong))
    with pytest.raises(AssertionError):
        bug.check(engine)


@pytest.mark.parametrize("check", sorted({bug.check for bug in BUGS.values()}, key=lambda check: check.__name__))
def test_without_a_planted_bug_the_same_check_passes(engine: Engine, check: Callable[[Engine], None]) -> None:
    check(engine)


def test_a_missing_unique_index_is_caught(engine: Engine) -> None:
    engine.conn.execute("DROP INDEX taskrunner.task_unique")
    with pytest.raises(AssertionError):
        one_live_task_per_key(engine, rounds=30)


def test_a_maturity_by_the_clients_clock_is_caught(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_my_clock(tasks: Any, aliases: Any) -> dict[str, Any]:
        return {**params(tasks, aliases), "ats": [datetime.now(UTC) + task.delay for task in tasks]}

    params = enqueue._add_params
    new_tasks_are_due_by_the_databases_clock(engine)
    monkeypatch.setattr(enqueue, "_add_params", by_my_clock)
    with pytest.raises(AssertionError):
        new_tasks_are_due_by_the_databases_clock(engine)


def new_tasks_are_due_by_the_databases_clock(engine: Engine) -> None:
    engine.db.travel(-timedelta(hours=3))
    (id_,) = engine.add()
    view = engine.view(id_)
    assert view.maturity_at == view.created_at, "due by another clock than the database's"
