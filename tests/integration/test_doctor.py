"""`doctor`: each fault is planted on a real server, found by its name, and gone after what the finding says to do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from taskrunner import events, register_task, roles, schema
from taskrunner.api.app import create_app
from taskrunner.cli import main
from taskrunner.db import Op
from taskrunner.doctor import Finding, Report, examine
from taskrunner.embedded import Cluster
from taskrunner.settings import Settings
from taskrunner.task import Task
from taskrunner.testing.database import Database
from tests.engine import Engine, holding
from tests.pooler import pooler
from tests.processes import ROOT, eventually
from tests.roles import Roles, name_of, roles_of

AT_ONCE = {"patience": timedelta(0), "overdue": timedelta(0)}
"""Everything counts as long from its beginning on."""

Doctor = Callable[..., dict[str, Finding]]


@pytest.fixture
def doctor(engine: Engine) -> Doctor:
    """Examine the test's database; returns the findings by their names."""

    def call(url: str | None = None, **settings: Any) -> dict[str, Finding]:
        return {finding.id: finding for finding in report(url or engine.db.url, **settings).findings}

    return call


def report(url: str, **settings: Any) -> Report:
    found = examine(url, Settings(**settings), **AT_ONCE)
    for finding in found.findings:
        assert finding.evidence, finding
        assert finding.commands or finding.severity == "info", finding
    return found


def mend(engine: Engine, finding: Finding) -> None:
    """Do what the finding says: every command of it, as it is written."""
    for command in finding.commands:
        said = re.fullmatch(r'psql "\$DATABASE_URL" -c "(.+)"', command)
        if said:
            engine.conn.execute(said[1])  # type: ignore[call-overload]  # what a person would type
        else:
            taskrunner(engine, *command.split()[1:])


def taskrunner(engine: Engine, *arguments: str) -> int:
    """Run a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", engine.db.url)
        with pytest.raises(SystemExit) as left:
            main(arguments)
    return int(left.value.code or 0)


@pytest.fixture
def installed(engine: Engine) -> Iterator[Roles]:
    with roles_of(engine.db) as lent:
        roles.create(lent.database.url, lent.prefix)
        yield lent


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("manner", ["a snapshot", "a write"])
def test_a_session_that_pins_xmin_is_named_and_ended(engine: Engine, doctor: Doctor, manner: str) -> None:
    """SPEC OPS 50."""
    assert "xmin-pinned" not in doctor()
    with closing(psycopg.connect(engine.url, application_name="nightly report")) as conn:
        if manner == "a snapshot":
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            conn.execute("SELECT 1")
        else:
            conn.execute("CREATE TEMP TABLE x ()")
        found = doctor()["xmin-pinned"]
        assert f"pid {conn.info.backend_pid} 'nightly report'" in found.evidence[0]
        assert "idle in transaction" in found.evidence[0]
        mend(engine, found)
        eventually(lambda: "xmin-pinned" not in doctor())


def test_a_transaction_that_has_tasks_locked_is_named(engine: Engine, doctor: Doctor) -> None:
    (id_,) = engine.add()
    assert "tasks-locked" not in doctor()
    with closing(psycopg.connect(engine.url, application_name="by hand")) as conn:
        conn.execute("SELECT FROM taskrunner.task WHERE id = %s FOR UPDATE", [id_])
        found = doctor()["tasks-locked"]
        assert f"pid {conn.info.backend_pid} 'by hand'" in found.evidence[0]
        mend(engine, found)
        eventually(lambda: "tasks-locked" not in doctor())


def test_who_only_analyzes_the_table_is_in_nobodys_way(engine: Engine, doctor: Doctor) -> None:
    with holding(engine.url, "ANALYZE taskrunner.task"):
        assert "tasks-locked" not in doctor()


def test_dead_rows_and_an_autovacuum_that_is_off_are_found(engine: Engine, doctor: Doctor) -> None:
    """SPEC OPS 50."""
    assert "autovacuum-off" not in doctor()
    engine.conn.execute("ALTER TABLE taskrunner.task SET (autovacuum_enabled = false)")
    engine.flood(60_000, type="Gone")
    engine.conn.execute("DELETE FROM taskrunner.task")
    if engine.conn.info.server_version >= 150000:  # else the statistics come by themselves, after ten seconds
        engine.value("SELECT pg_stat_force_next_flush()")
    dead = eventually(lambda: doctor().get("dead-rows"), "that the statistics arrive")
    assert "60,000 dead rows" in dead.evidence[0]
    mend(engine, dead)
    eventually(lambda: "dead-rows" not in doctor())
    mend(engine, doctor()["autovacuum-off"])
    assert "autovacuum-off" not in doctor()


def test_a_server_that_confirms_what_it_may_lose_is_found(engine: Engine, doctor: Doctor) -> None:
    """Tests' own servers are such."""
    off = engine.value("SELECT current_setting('fsync')") == "off"
    found = doctor().get("durability-off")
    assert (found is not None and found.severity == "error") == off


def test_a_forgotten_prepared_transaction_and_a_server_without_room_are_found(tmp_path: Path) -> None:
    """On a server of their own, whose schema is missing: that hides neither."""
    settings = {"max_prepared_transactions": "1", "max_connections": "13", "fsync": "off"}
    with Cluster.create(tmp_path, settings=settings) as cluster, ExitStack() as others:
        url = cluster.url()
        calm = {finding.id for finding in report(url).findings}
        assert not {"transaction-prepared", "connections-scarce"} & calm
        (one, *_) = [others.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(9)]
        for statement in ("BEGIN", "CREATE TABLE x ()", "PREPARE TRANSACTION 'order 66'"):
            one.execute(statement)  # type: ignore[call-overload]  # a test's own literals
        found = {finding.id: finding for finding in report(url).findings}
        assert found["connections-scarce"].evidence[0].startswith("1")
        forgotten = found["transaction-prepared"]
        assert forgotten.evidence[0].startswith("'order 66' of ")
        said = re.fullmatch(r'psql "\$DATABASE_URL" -c "(.+)"', forgotten.commands[0])
        assert said is not None
        one.execute(said[1])  # type: ignore[call-overload]
        assert "transaction-prepared" not in {finding.id for finding in report(url).findings}


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
@pytest.mark.parametrize(("shift", "words"), [("+3h", "3.0 h ahead of"), ("-3h", "3.0 h behind")])
def test_a_clock_that_is_wrong_here_is_measured(engine: Engine, shift: str, words: str) -> None:
    """SPEC OPS 50."""
    told = doctor_by_command(engine, "faketime", "-f", shift)
    assert words in {finding["id"]: finding for finding in told}["clock-skew"]["summary"]


def doctor_by_command(engine: Engine, *before: str) -> list[dict[str, Any]]:
    asked = subprocess.run(
        [*before, sys.executable, "-m", "taskrunner", "doctor", "--json"],
        env={**os.environ, "DATABASE_URL": engine.db.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode in (0, 1), asked.stderr
    findings: list[dict[str, Any]] = json.loads(asked.stdout)["findings"]
    return findings


def test_the_clock_of_a_runners_machine_shows_in_its_id(engine: Engine, doctor: Doctor) -> None:
    engine.join()
    assert "clock-skew-runner" not in doctor()
    engine.conn.execute("UPDATE taskrunner.runner SET started_at = started_at - interval '5 hours'")
    assert doctor()["clock-skew-runner"].evidence == ["runner paper:1: 5.0 h ahead"]
    engine.conn.execute("UPDATE taskrunner.runner SET started_at = started_at + interval '10 hours'")
    assert "runner paper:1: 5.0 h behind" in doctor()["clock-skew-runner"].evidence[0]


def test_a_transaction_pooler_is_found_with_the_settings_that_do_not_suit_it(
    engine: Engine, installed: Roles, doctor: Doctor
) -> None:
    """SPEC OPS 50: Debian's PgBouncer, in transaction mode."""
    login = installed.login("worker")
    assert "transaction-pooler" not in doctor(login)
    with pooler(engine.url, login) as url:
        at_odds = doctor(url)["transaction-pooler"]
        suited = doctor(url, listen=False, prepare=False)["transaction-pooler"]
    assert at_odds.severity in ("error", "warning")
    assert "TASKRUNNER_LISTEN=off" in at_odds.commands[0]
    assert (suited.severity, suited.commands) == ("info", [])


# ── schema and reach ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_migration_is_found_and_the_rest_is_examined_as_far_as_it_can_be(
    engine: Engine, doctor: Doctor
) -> None:
    """SPEC OPS 50."""
    schema.downgrade(engine.db.url)
    seen = report(engine.db.url)
    assert {"xmin", "safety", "clock", "secrets"} <= set(seen.checks)
    assert "waiting" in {each.check for each in seen.unseen}
    assert taskrunner(engine, "doctor") == 5
    mend(engine, doctor()["schema-behind"])
    assert "schema-behind" not in doctor()


def test_a_newer_schema_is_a_note(engine: Engine, doctor: Doctor) -> None:
    engine.conn.execute("UPDATE taskrunner.schema_version SET version_num = '9999'")
    assert doctor()["schema-newer"].severity == "info"
    assert "schema-behind" not in doctor()


def test_a_database_that_is_away_is_a_finding(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    away = "postgresql://nobody@127.0.0.1:1/nothing"
    assert list(doctor(away)) == ["database-unreachable"]
    monkeypatch.setenv("DATABASE_URL", away)
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    assert left.value.code == 4


def test_an_error_without_a_word_hides_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "CURRENT", Op("SELECT 1", {}, _wordless))
    seen = report(engine.db.url)
    assert ("schema", "InternalError") in {(each.check, each.reason) for each in seen.unseen}
    assert "waiting" in seen.checks


def _wordless(_: Any) -> Any:
    raise psycopg.InternalError


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_expired_lease_that_nobody_minds_is_found_and_maintain_mends_it(engine: Engine, doctor: Doctor) -> None:
    """SPEC OPS 50."""
    (id_,) = engine.add()
    runner = engine.join()
    engine.claim(runner)
    assert "lease-expired" not in doctor()
    engine.conn.execute("UPDATE taskrunner.runner SET lease_until = now() - interval '1 minute'")
    found = doctor()["lease-expired"]
    assert found.severity == "error"
    assert "holds 1 task" in found.evidence[0]
    assert taskrunner(engine, *found.commands[0].split()[1:]) == 0
    assert "lease-expired" not in doctor()
    assert engine.view(id_).state == "pending"


def test_tasks_under_a_runner_that_is_not_even_listed_are_found(engine: Engine, doctor: Doctor) -> None:
    engine.add()
    engine.claim(engine.join())
    engine.conn.execute("DELETE FROM taskrunner.runner")
    assert "no process any more" in doctor()["lease-expired"].evidence[0]


def schedule(engine: Engine, name: str = "Nightly", late: str = "1 minute", **columns: Any) -> None:
    values = {"timezone": "UTC", "type": "Report", "last_error": None, **columns}
    engine.conn.execute(
        "INSERT INTO taskrunner.schedule (id, name, type, trigger, timezone, next_tick_at, created_at, last_error)"
        " VALUES (gen_random_uuid(), %s, %s, 'every 60s', %s, now() - %s::interval, now(), %s)",
        [name, values["type"], values["timezone"], late, values["last_error"]],
    )


def scheduler(engine: Engine, *types: str) -> None:
    engine.conn.execute(
        "INSERT INTO taskrunner.runner (id, kind, host, pid, types, version, started_at, lease_until)"
        " VALUES (gen_random_uuid(), 'scheduler', 'paper', 2, %s, '0', now(), now() + interval '15 s')",
        [list(types)],
    )


def test_schedules_without_a_live_scheduler_are_found(engine: Engine, doctor: Doctor) -> None:
    """SPEC OPS 50; with real processes: tests/e2e/test_doctor.py."""
    assert "scheduler-stopped" not in doctor()
    schedule(engine)
    assert doctor()["scheduler-stopped"].severity == "error"
    engine.conn.execute("UPDATE taskrunner.schedule SET next_tick_at = now() + interval '1 day'")
    assert doctor()["scheduler-stopped"].severity == "warning"
    engine.conn.execute("UPDATE taskrunner.schedule SET paused = true")
    assert "scheduler-stopped" not in doctor()


def test_schedules_that_a_live_scheduler_does_not_tick_are_found(engine: Engine, doctor: Doctor) -> None:
    scheduler(engine, "Report")
    schedule(engine, late="-1 day")
    assert not {"schedule-late", "schedule-failing", "schedule-orphaned", "zone-unknown"} & doctor().keys()
    schedule(engine, "Late")
    schedule(engine, "Broken", last_error="PayloadInvalid: to: Field required")
    schedule(engine, "Alien", type="Elsewhere")
    schedule(engine, "Lunar", late="-1 day", timezone="Moon/Tycho")
    found = doctor()
    assert [found[name].evidence[0].split()[0] for name in ("schedule-late", "schedule-failing")] == ["Late", "Broken"]
    assert "Alien" in found["schedule-orphaned"].evidence[0]
    assert found["zone-unknown"].evidence == ["Lunar goes by Moon/Tycho"]


@pytest.mark.anyio
async def test_a_runner_whose_listen_connection_is_gone_is_named(
    engine: Engine, installed: Roles, doctor: Doctor
) -> None:
    """SPEC OPS 50: its login has no connection left to listen by, once the server has ended the one it had."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    engine.url = installed.login("worker")
    login = sql.Identifier(name_of(engine.url))
    async with engine.running() as running:
        await running.until(events.Listening)
        engine.conn.execute("UPDATE taskrunner.runner SET started_at = started_at - interval '1 minute'")
        assert "listen-dead" not in doctor()
        engine.conn.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 1").format(login))
        for pid in engine.backends("taskrunner listen%"):
            engine.value("SELECT pg_terminate_backend(%s)", pid)
        found = eventually(lambda: doctor().get("listen-dead"))
        assert found.evidence == [f"runner {os.uname().nodename}:{os.getpid()} has no LISTEN connection"]
        engine.conn.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(login))
        await running.until(events.Listening, 2)
        assert "listen-dead" not in doctor()


@pytest.mark.anyio
async def test_a_listen_connection_that_is_up_and_silent_counts_as_dead(
    engine: Engine, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener gives a sign every seven seconds; here it would have to give it at once."""

    @register_task("Echo")
    class Echo(Task):
        async def run(self) -> None: ...

    async with engine.running() as running:
        await running.until(events.Listening)
        assert "listen-dead" not in doctor()
        monkeypatch.setattr("taskrunner.doctor.fleet.QUIET", -1.0)
        assert "has been silent" in doctor()["listen-dead"].evidence[0]


def test_releases_that_are_mixed_and_stray_threads_are_told(engine: Engine, doctor: Doctor) -> None:
    engine.join()
    assert not {"versions-mixed", "threads-stray"} & doctor().keys()
    engine.conn.execute("UPDATE taskrunner.runner SET version = '0.0', strays = 2")
    engine.join()
    found = doctor()
    assert found["versions-mixed"].severity == "info"
    assert found["threads-stray"].evidence == ["runner paper:1: 2 threads"]


# ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_types_queues_and_tasks_that_nobody_runs_are_found(engine: Engine, doctor: Doctor) -> None:
    """SPEC OPS 50: unregistered types."""
    assert not {"runner-stopped", "type-unregistered", "queue-unserved"} & doctor().keys()
    engine.add(3)
    assert "3 tasks due" in doctor()["runner-stopped"].evidence[0]
    engine.join("Other")
    found = doctor()["type-unregistered"]
    assert "T: 3 tasks due" in found.evidence[0]
    assert taskrunner(engine, *found.commands[0].split()[1:]) == 0
    engine.join("T")
    assert "type-unregistered" not in doctor()
    engine.add(queue="mail")
    assert "mail: 1 task due" in doctor()["queue-unserved"].evidence[0]


def test_a_paused_queue_with_due_tasks_is_found_and_resumed(engine: Engine, doctor: Doctor) -> None:
    engine.join()
    engine.add()
    taskrunner(engine, "queues", "pause", "default")
    mend(engine, doctor()["queue-paused"])
    assert "queue-paused" not in doctor()


def test_due_tasks_that_nobody_takes_though_there_is_room_are_found(engine: Engine, doctor: Doctor) -> None:
    engine.join()
    (id_,) = engine.add()
    assert "work-unclaimed" not in doctor()
    engine.conn.execute("UPDATE taskrunner.task SET maturity_at = now() - interval '10 minutes'")
    assert doctor()["work-unclaimed"].commands == [f"taskrunner why {id_}"]


def test_due_tasks_that_wait_for_busy_runners_are_no_fault(engine: Engine, doctor: Doctor) -> None:
    """A runner of short tasks shows room at many a heartbeat: what it takes tells that it is at work."""
    runner = engine.join()
    engine.add(3)
    engine.conn.execute("UPDATE taskrunner.task SET maturity_at = now() - interval '10 minutes'")
    assert "work-behind" not in doctor()
    (claim,) = engine.claim(runner)
    found = doctor()
    assert found["work-behind"].severity == "info"
    assert found["work-behind"].evidence[-1] == "0 of 100 slots of the 1 runner that could are taken"
    assert "work-unclaimed" not in found
    engine.finish(runner, claim)
    assert "work-unclaimed" not in doctor(), "what it ended tells the same"
    engine.conn.execute("UPDATE taskrunner.task_stats SET minute = minute - interval '1 hour'")
    assert "work-unclaimed" in doctor()
    engine.conn.execute("UPDATE taskrunner.runner SET running = slots")
    assert {"work-behind", "work-unclaimed"} & doctor().keys() == {"work-behind"}


def test_many_deaths_are_told(engine: Engine, doctor: Doctor) -> None:
    assert "dead-growing" not in doctor()
    engine.conn.execute(
        "INSERT INTO taskrunner.task_stats SELECT date_trunc('minute', now()), gen_random_uuid(), 'default', 'default',"
        " 'T', o, 40, 1, 1, '{}', '{}' FROM unnest(ARRAY['dead', 'succeeded', 'retried']) o"
    )
    assert doctor()["dead-growing"].evidence == ["40 of 80 that ended: 50%"]


# ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_partitions_that_are_missing_stranded_rows_and_old_history_are_found_and_maintain_mends_all(
    engine: Engine, doctor: Doctor
) -> None:
    engine.add()
    engine.finish(runner := engine.join(), *engine.claim(runner))
    engine.conn.execute(
        "CREATE TABLE taskrunner.task_history_p20200101 PARTITION OF taskrunner.task_history"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')"
    )
    names = {"partition-missing", "history-in-default", "retention-stopped"}
    found = doctor()
    assert names <= found.keys()
    mend(engine, found["partition-missing"])
    assert not names & doctor().keys()


def test_an_archive_that_cannot_be_written_and_a_weak_token_are_found(
    engine: Engine, doctor: Doctor, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    found = doctor(archive_dir=folder, api_token="guessme")
    assert found["archive-unwritable"].evidence == [f"{folder} does not exist"]
    assert "token-weak" in found
    folder.mkdir()
    assert not {"archive-unwritable", "token-weak"} & doctor(archive_dir=folder, api_token="x" * 32).keys()


def test_row_security_that_is_off_and_logins_that_do_not_fit_are_found(
    engine: Engine, installed: Roles, doctor: Doctor
) -> None:
    login = name_of(installed.mapped("acme"))
    assert not {"row-security-off", "login-unfit"} & doctor().keys()
    engine.conn.execute("ALTER TABLE taskrunner.dead_letter DISABLE ROW LEVEL SECURITY")
    engine.conn.execute("GRANT SELECT ON taskrunner.task_history_default TO PUBLIC")
    found = doctor()["row-security-off"]
    assert {line.split(":")[0] for line in found.evidence} == {"dead_letter", "task_history_default"}
    mend(engine, found.model_copy(update={"commands": found.commands[:2]}))
    assert "row-security-off" not in doctor()
    engine.conn.execute(
        sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(f"{installed.prefix}_tenant"), sql.Identifier(login))
    )
    mend(engine, doctor()["login-unfit"])
    assert "login-unfit" not in doctor()


@pytest.mark.parametrize("kind", ["mapped", "worker", "nothing"])
def test_a_login_with_few_rights_says_what_it_could_not_see(engine: Engine, installed: Roles, kind: str) -> None:
    url = installed.mapped("acme") if kind == "mapped" else installed.login(kind if kind == "worker" else None)
    seen = report(url)
    unseen = {each.check: each.reason for each in seen.unseen}
    assert "pg_monitor" in unseen["xmin"]
    assert "clock" in seen.checks
    assert ("listeners" in unseen) == (kind != "worker")


def test_a_dead_letter_of_others_is_no_business_of_a_tenants_login(engine: Engine, installed: Roles) -> None:
    """SPEC TEN 54."""
    engine.add(3, type="Secret", tenant="globex")
    told = report(installed.mapped("acme")).model_dump_json()
    assert "Secret" not in told
    assert "globex" not in told


# ── how it is told ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_leaves_with_1_names_the_finding_and_writes_no_ansi_into_a_pipe(
    engine: Engine, taskrunner_db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.add()
    assert taskrunner(engine, "doctor") == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "ERROR runner-stopped: no runner is alive" in out
    assert "      taskrunner start runner\n" in out


def test_the_report_as_json_has_every_field(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    taskrunner(engine, "doctor", "--json", "--patience", "1h")
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == set(Report.model_fields)
    assert all(finding.keys() == set(Finding.model_fields) for finding in told["findings"])


# ── by HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_by_http_the_same_is_told_once_for_all_who_ask_and_also_while_the_database_is_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add()
    made: list[str] = []

    def counted(url: str, settings: Settings) -> Report:
        made.append(url)
        return examine(url, settings)

    monkeypatch.setattr("taskrunner.api.consultation.examine", counted)
    for url in (engine.db.url, "postgresql://nobody@127.0.0.1:1/nothing"):
        app = create_app(Settings(), engine.registry, url)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            answers = await asyncio.gather(*(client.get("/doctor") for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
            told = Report.model_validate(answers[0].json())
            assert (await client.get("/doctor", params={"fresh": True})).status_code == 200
        assert {"runner-stopped", "database-unreachable"} & {finding.id for finding in told.findings}
        assert not told.healthy
    assert made == [engine.db.url] * 2 + ["postgresql://nobody@127.0.0.1:1/nothing"] * 2
