"""The command line, run as its users run it, against a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskrunner import schema
from taskrunner.cli import ORDER, main
from taskrunner.db import connect, run
from taskrunner.errors import EmbeddedError
from taskrunner.queue import TaskQueue
from taskrunner.registry import isolated
from taskrunner.registry import registry as declared
from taskrunner.store import ending
from taskrunner.store import enqueue as enqueue_store
from taskrunner.store import log as log_store
from taskrunner.store import runner as runners
from taskrunner.store import task as store
from taskrunner.store.log import Line
from taskrunner.testing.database import Database
from tests.engine import claim as claim_due

TASKS = """
from datetime import timedelta
from taskrunner import Task, register_task


@register_task("SendEmail", queue="mail")
class SendEmail(Task):
    to: str

    def run(self):
        return None


@register_task("Report", timedelta(hours=1))
class Report(Task):
    def run(self):
        return None
"""


@dataclass
class Ended:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return its data; it must have succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture
def cli(
    taskrunner_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Run commands in this process, in a project with two task types."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "work.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", taskrunner_db.url)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(int(left.value.code or 0), out, err)

    with isolated():
        yield call
    for name in set(sys.modules) - loaded:
        if name.split(".")[0] == "tasks":
            del sys.modules[name]


def enqueue(cli: Cli, *more: object) -> UUID:
    return UUID(cli("enqueue", "SendEmail", '{"to": "a@b.c"}', "--json", *more).json()["id"])


def bury(db: Database) -> UUID:
    """Make the next task a dead letter."""
    with connect(db.url) as conn:
        process = runners.Process(uuid7(), "runner", "host", 1, ("mail",), ("SendEmail",), 1, "0.1")
        run(conn, runners.join(process, timedelta(seconds=15)))
        claimed = claim_due(conn, process.id, 1, ["SendEmail"], "mail")[0]
        detail = json.dumps([{"message": "SMTP is down", "traceback": "Traceback: \x1b[31mred"}])
        run(conn, store.bury(process.id, [store.Ending(claimed.id, claimed.claim_no, detail=detail)]))
        return claimed.id


# ── every command ────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> Iterator[tuple[str, ...]]:
    from typer.core import TyperGroup
    from typer.main import get_command

    from taskrunner.cli import app

    root = get_command(app)
    assert isinstance(root, TyperGroup)
    for name, command in root.commands.items():
        yield (name,)
        if isinstance(command, TyperGroup):
            yield from ((name, below) for below in command.commands)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...], cli: Cli) -> None:
    ended = cli(*path, "--help")
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    if len(path) == 2 or path[0] in ("init", "status", "enqueue", "migrate", "maintain", "health"):
        assert f"Example: taskrunner {' '.join(path)}" in " ".join(ended.out.split())


def test_help_lists_the_commands_in_our_order(cli: Cli) -> None:
    listed = [line.split()[0] for line in cli("--help").out.split("Commands:")[1].splitlines() if line.strip()]
    assert tuple(listed[: len(ORDER)]) == ORDER


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("taskrunner 0.")


# ── exit codes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_usage_error_leaves_with_2_and_names_near_commands(cli: Cli) -> None:
    ended = cli("statsu")
    assert ended.code == 2
    assert "status" in ended.err
    assert cli("tasks", "show", "no-uuid").code == 2


def test_a_bad_setting_leaves_with_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC OPS 51."""
    monkeypatch.setenv("TASKRUNNER_CONCURRENCY", "none")
    monkeypatch.setenv("TASKRUNNER_LEASE", "1s")
    ended = cli("start", "runner", "--grace", "soon")
    assert ended.code == 3
    for name in ("environment TASKRUNNER_CONCURRENCY", "environment TASKRUNNER_LEASE", "flag --grace"):
        assert name in ended.err


def test_an_unreachable_database_leaves_with_4(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC OPS 50."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    for command in (["health"], ["status"], ["tasks", "list"], ["migrate"]):
        ended = cli(*command)
        assert (ended.code, ended.out) == (4, "")
        assert ended.err.startswith("error: the database cannot be reached: ")
        assert "`taskrunner config show`" in ended.err
        assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("command", [("status",), ("health",), ("tasks", "list"), ("migrate",)])
def test_outside_a_project_no_database_is_made(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("TASKRUNNER_TASKS", "no_such_package_anywhere")
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    ended = cli(*command)
    assert ended.code == 3
    assert "no project here" in ended.err
    assert "taskrunner init" in ended.err
    assert list(outside.iterdir()) == []


def test_outside_a_project_no_door_makes_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TASKRUNNER_TASKS", "no_such_package_anywhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbeddedError, match="no project here"):
        TaskQueue.connect()
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_our_schema_leaves_with_5_and_the_remedy(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 50."""
    schema.downgrade(taskrunner_db.url)
    for command in (["status"], ["health", "--ready"], ["queues", "list"], ["start", "runner"]):
        ended = cli(*command)
        assert ended.code == 5
        assert "run `taskrunner migrate`" in ended.err
    assert cli("health").code == 0


def test_a_broken_module_in_tasks_keeps_everything_from_starting(cli: Cli, tmp_path: Path) -> None:
    """SPEC REG 4."""
    (tmp_path / "tasks" / "broken.py").write_text("import nothing_of_that_name\n")
    checked = subprocess.run(
        [sys.executable, "-m", "taskrunner", "start", "runner"], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 3
    assert "tasks/broken.py:1: ModuleNotFoundError" in checked.stderr


# ── enqueue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_enqueue_stores_a_task_and_prints_its_id(cli: Cli) -> None:
    ended = cli("enqueue", "SendEmail", '{"to": "a@b.c"}', "--delay", "2h", "--priority", 7, "--queue", "slow")
    shown = cli("tasks", "show", ended.out.strip(), "--json").json()
    assert shown["payload"] == {"to": "a@b.c"}
    assert (shown["state"], shown["priority"], shown["queue"], shown["type"]) == ("pending", 7, "slow", "SendEmail")


def test_enqueue_with_json_says_whether_it_was_created(cli: Cli) -> None:
    """SPEC UNQ 15."""
    first, second = (cli("enqueue", "Report", "--key", "once", "--json").json() for _ in range(2))
    assert first.keys() == {"id", "created"}
    assert (first["created"], second["created"]) == (True, False)
    assert first["id"] == second["id"]


def test_enqueue_of_an_unknown_type_names_near_ones(cli: Cli) -> None:
    """SPEC ENQ 12."""
    ended = cli("enqueue", "SendMail")
    assert ended.code == 2
    assert ended.err == "error: unknown task type 'SendMail'; did you mean 'SendEmail'?\n"


@pytest.mark.parametrize("payload", ['{"too": "a"}', "{}", '{"to": 1}', "nonsense"])
def test_enqueue_refuses_a_payload_that_does_not_fit_and_stores_nothing(cli: Cli, payload: str) -> None:
    """SPEC ENQ 8."""
    ended = cli("enqueue", "SendEmail", payload)
    assert ended.code == 2
    assert "SendEmail" in ended.err
    assert cli("tasks", "list", "--json").json() == []


@pytest.mark.parametrize("payload", ["to=ada", '["ada"]', '"ada"'])
def test_what_is_no_json_object_is_answered_with_what_one_looks_like(cli: Cli, payload: str) -> None:
    assert """the payload is a JSON object, as in '{"to": …}'""" in cli("enqueue", "SendEmail", payload).err


def test_enqueue_refuses_times_it_cannot_read(cli: Cli) -> None:
    for flags in (
        ["--delay", "5x"],
        ["--at", "tomorrow"],
        ["--at", "2030-01-01T00:00:00"],
        ["--delay", "1", "--at", "2030-01-01T00:00Z"],
    ):
        assert cli("enqueue", "Report", *flags).code == 2


def test_a_wait_that_is_too_short_fails_and_the_task_stays(cli: Cli) -> None:
    ended = cli("enqueue", "Report", "--wait", "--timeout", "0.05")
    assert ended.code == 1
    assert "has not ended in time: it is pending, due; no live runner knows Report" in ended.err
    assert ended.err.count("taskrunner start all") == 2  # at once, and in the end
    assert len(cli("tasks", "list", "--state", "pending", "--json").json()) == 1


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_shown_task_has_exactly_the_documented_fields(cli: Cli) -> None:
    shown = cli("tasks", "show", enqueue(cli), "--json").json()
    assert list(shown) == [
        "id", "type", "queue", "tenant", "state", "priority", "payload", "tries", "crashes", "maturity_at",
        "created_at", "started_at", "finished_at", "runner_id", "errors", "result", "progress", "meta",
        "parents", "children", "parents_count", "children_count",
    ]  # fmt: skip


def test_what_a_task_has_logged_is_shown_and_no_line_of_it_moves_the_cursor(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    enqueue(cli)
    id_ = bury(taskrunner_db)
    said = [f"line {number}" for number in range(24)] + ["\x1b[31mred\r\nand more"]
    with connect(taskrunner_db.url) as conn:
        run(conn, log_store.keep([Line(id_, "default", 1 + (n > 9), 1.0, "info", text) for n, text in enumerate(said)]))
    shown = cli("tasks", "show", id_).out
    assert "line 4" not in shown
    assert "line 5" in shown
    assert "log, the last 20 lines (--log has all)" in shown
    whole = cli("tasks", "show", id_, "--log").out
    assert [f"line {number}" in whole for number in range(24)] == [True] * 24
    assert "── claim 2 ──" in whole
    assert "\x1b" not in whole + shown
    lines = [json.loads(line) for line in cli("tasks", "show", id_, "--log", "--json").out.splitlines()]
    assert [line["message"] for line in lines] == said
    watched = cli("tasks", "show", id_, "--log", "--watch", "--json")
    assert watched.code == 1  # it is dead
    assert len(watched.out.splitlines()) == len(said)


def test_a_task_that_no_live_runner_knows_is_shown_with_what_it_waits_for(cli: Cli, taskrunner_db: Database) -> None:
    id_ = enqueue(cli)
    assert "no live runner knows SendEmail" in cli("tasks", "show", id_).out
    bury(taskrunner_db)  # by a runner that lives and knows it
    assert "no live runner" not in cli("tasks", "show", id_).out
    assert "no live runner" not in cli("tasks", "show", enqueue(cli)).out


def test_a_list_is_paged_by_the_last_id(cli: Cli) -> None:
    """SPEC OPS 49."""
    ids = [str(enqueue(cli)) for _ in range(3)]
    first = cli("tasks", "list", "--limit", 2, "--json")
    assert [task["id"] for task in first.json()] == ids[:0:-1]
    assert f"--after {ids[1]}" in first.err
    assert [task["id"] for task in cli("tasks", "list", "--after", ids[1], "--json").json()] == ids[:1]


def test_schedules_are_paged_by_name_and_the_next_to_tick_is_the_first_of_its_page(cli: Cli) -> None:
    for name, frequency in (("c", "1d"), ("b", "1h"), ("a", "2h")):
        assert cli("schedules", "add", name, "Report", "--every", frequency).code == 0
    first = cli("schedules", "list", "--limit", 2, "--json")
    assert sorted(one["name"] for one in first.json()) == ["a", "b"]
    assert "--after default/b" in first.err
    rest = cli("schedules", "list", "--after", "default/b", "--json")
    assert [one["name"] for one in rest.json()] == ["c"]
    assert "--after" not in rest.err


def test_a_list_takes_the_filters_together(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    old = enqueue(cli)
    taskrunner_db.travel(timedelta(hours=3))
    new = enqueue(cli, "--tenant", "acme")
    listed = cli(
        "tasks", "list", "--since", "2h", "--type", "SendEmail", "--queue", "mail", "--tenant", "acme", "--json"
    )
    assert [task["id"] for task in listed.json()] == [str(new)]
    assert len(cli("tasks", "list", "--since", "2020-01-01T00:00:00Z", "--json").json()) == 2
    assert cli("tasks", "list", "--state", "running", "--json").json() == []
    assert str(old) in cli("tasks", "list").out


def test_cancel_and_delete_end_a_waiting_task_as_cancelled(cli: Cli) -> None:
    """SPEC OPS 48."""
    for verb in ("cancel", "delete"):
        id_ = enqueue(cli)
        assert cli("tasks", verb, id_, "--json").json() == {"id": str(id_), "outcome": "cancelled"}
        assert cli("tasks", "show", id_, "--json").json()["state"] == "cancelled"
        again = cli("tasks", verb, id_)
        assert again.code == 1
        assert "is cancelled" in again.err


def test_a_task_is_replaced_cancelled_and_deleted_by_its_key(cli: Cli) -> None:
    """SPEC UNQ 15, 17."""
    by_key = ("--type", "SendEmail", "--key", "k")
    for verb in ("cancel", "delete"):
        id_ = enqueue(cli, "--key", "k")
        replaced = cli("enqueue", "SendEmail", '{"to": "new@b.c"}', "--key", "k", "--on-conflict", "replace")
        assert (replaced.code, replaced.out) == (0, f"{id_} has the work now\n")
        assert cli("tasks", "show", id_, "--json").json()["payload"] == {"to": "new@b.c"}
        assert cli("enqueue", "SendEmail", '{"to": "a@b.c"}', "--key", "k", "--on-conflict", "error").code == 1
        assert cli("tasks", verb, *by_key, "--tenant", "acme").code == 1
        ended = cli("tasks", verb, *by_key, "--json").json()
        assert ended == {"id": str(id_), "outcome": "cancelled"}
        assert "no live SendEmail" in cli("tasks", verb, *by_key).err
    for words in ((), (str(id_), "--type", "SendEmail"), ("--key", "k"), (str(id_), "--key", "k")):
        assert "give the task's id, or --type and --key" in cli("tasks", "cancel", *words).err
    assert cli("tasks", "cancel", "--type", "SendEmail").code == 2
    assert cli("enqueue", "Report", "--on-conflict", "replace").code == 2
    assert "'skip' or 'replace' or 'error'" in cli("enqueue", "Report", "--on-conflict", "no").err


def test_reschedule_moves_a_pending_task_and_nothing_else(cli: Cli) -> None:
    """SPEC OPS 48."""
    id_ = enqueue(cli)
    cli("tasks", "reschedule", id_, "--at", "2031-02-03T04:05:06Z")
    assert cli("tasks", "show", id_, "--json").json()["maturity_at"] == "2031-02-03T04:05:06Z"
    assert cli("tasks", "reschedule", id_, "--delay", "60", "--json").json()["due_in_seconds"] == pytest.approx(
        60, abs=5
    )
    assert cli("tasks", "reschedule", id_).code == 2
    cli("tasks", "cancel", id_)
    assert cli("tasks", "reschedule", id_, "--delay", "60").code == 1


def test_retry_makes_a_pending_task_due_and_requeues_a_dead_one(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC RTY 32."""
    waiting = enqueue(cli, "--delay", "1h")
    assert cli("tasks", "retry", waiting, "--json").json()["id"] == str(waiting)
    assert cli("status", "--json").json()["tasks"]["due"] == 1
    dead = bury(taskrunner_db)
    fresh = cli("tasks", "retry", dead, "--json").json()
    assert fresh["requeued_from"] == str(dead)
    shown = cli("tasks", "show", fresh["id"], "--json").json()
    assert (shown["state"], shown["tries"]) == ("pending", 0)
    again = cli("tasks", "retry", dead)
    assert (again.code, "requeued already" in again.err) == (1, True)


def test_what_is_not_there_leaves_with_1(cli: Cli) -> None:
    for command in (["tasks", "show"], ["tasks", "cancel"], ["tasks", "retry"], ["dead", "show"], ["dead", "requeue"]):
        ended = cli(*command, uuid7())
        assert ended.code == 1
        assert ended.err.startswith("error: no ")
    assert cli("schedules", "pause", "nightly").code == 1


def test_an_id_that_is_none_is_refused_with_what_an_id_is(cli: Cli) -> None:
    for command in (["tasks", "show", "abc"], ["dead", "requeue", "abc"], ["tasks", "list", "--after", "abc"]):
        ended = cli(*command)
        assert ended.code == 2
        assert ": 'abc' is no task id: an id is a UUID, as `taskrunner enqueue` prints it\n" in ended.err
        assert "Value error" not in ended.err


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dead_letters_are_listed_shown_and_requeued(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC RTY 32."""
    enqueue(cli)
    id_ = bury(taskrunner_db)
    assert "SMTP is down" in cli("dead", "list").out
    shown = cli("dead", "show", id_)
    assert "SMTP is down" in shown.out
    assert "\x1b" not in shown.out
    fresh = cli("dead", "requeue", id_, "--json").json()["id"]
    assert cli("dead", "list", "--json").json() == []
    assert cli("dead", "list", "--all", "--json").json()[0]["requeued_as"] == fresh


def test_deleting_a_dead_letter_asks_first_and_refuses_where_it_cannot(
    cli: Cli, taskrunner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC RTY 32."""
    enqueue(cli)
    id_ = bury(taskrunner_db)
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        refused = cli("dead", "delete", id_)
    assert refused.code == 1
    assert "--yes" in refused.err
    assert len(cli("dead", "list", "--json").json()) == 1
    assert cli("dead", "delete", id_, "--yes").code == 0
    assert cli("dead", "list", "--json").json() == []


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_as_json_has_every_key_with_numbers(cli: Cli) -> None:
    """SPEC OPS 49."""
    status = cli("status", "--json").json()
    assert list(status) == ["tasks", "types", "queues", "runners", "schedules"]
    names = ["pending", "due", "running", "blocked", "retrying", "succeeded", "ignored", "cancelled", "dead"]
    assert status["tasks"] == dict.fromkeys(names, 0)
    enqueue(cli)
    [type_] = cli("status", "--json").json()["types"]
    assert [type_[name] for name in names] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert type_["unregistered"] is True


def test_status_is_plain_text_of_80_columns_in_a_pipe(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 49: no ANSI in a pipe; readable at 80 columns."""
    with connect(taskrunner_db.url) as conn:
        tasks = [
            enqueue_store.NewTask(uuid7(), f"a.very.long.name.of.a.task.type.number.{number}", "{}", "q" * 100)
            for number in range(300)
        ]
        run(conn, enqueue_store.add(tasks))
        types = tuple(task.type for task in tasks)
        process = runners.Process(uuid7(), "runner", "host" * 20, 1, ("q" * 100, "mail"), types, 1, "0.1")
        run(conn, runners.join(process, timedelta(seconds=15)))
    ended = cli("status")
    assert "\x1b" not in ended.out
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0].rpartition(".number.")[2] for line in lines if ".number." in line} == set(
        map(str, range(300))
    )
    assert "pending 300 (300 due, 0 retrying)" in ended.out


def test_a_pipe_without_columns_cuts_nothing_off(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue(cli, "--queue", "q" * 150)
    monkeypatch.delenv("COLUMNS")
    assert "q" * 150 in cli("tasks", "list").out


def test_status_never_looks_into_history(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 49, SPEED 12: what has ended is counted from the figures per minute."""
    with taskrunner_db.connect() as conn:
        conn.execute("ALTER TABLE taskrunner.task_history RENAME TO elsewhere")
    assert cli("status").code == 0
    assert cli("tasks", "list").code == 5


def test_watching_status_in_a_pipe_writes_lines_until_ctrl_c(taskrunner_db: Database) -> None:
    """SPEC OPS 49: clean on Ctrl-C."""
    import signal

    watching = subprocess.Popen(
        [sys.executable, "-m", "taskrunner", "status", "--watch"],
        env={**os.environ, "DATABASE_URL": taskrunner_db.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(2)]
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert all("pending=0 due=0" in line for line in lines)
    assert (watching.returncode, err, "\x1b" in out) == (0, "", False)


# ── queues, runners, schedules ───────────────────────────────────────────────────────────────────────────────────────


def test_queues_are_paused_and_resumed(cli: Cli) -> None:
    enqueue(cli)
    cli("queues", "pause", "mail")
    assert [(queue["name"], queue["paused"]) for queue in cli("queues", "list", "--json").json()] == [("mail", True)]
    assert "paused" in cli("queues", "list").out
    cli("queues", "resume", "mail")
    assert cli("queues", "list", "--json").json()[0]["paused"] is False


@pytest.mark.parametrize("name", ["", "two words", "a:2", "a,b"])
def test_a_queue_that_cannot_be_is_not_paused(cli: Cli, name: str) -> None:
    assert cli("queues", "pause", name).code == 2
    assert cli("queues", "list", "--json").json() == []


def test_queues_are_made_fair_and_tenants_weighed(cli: Cli) -> None:
    """SPEC TEN 55."""
    enqueue(cli)
    assert cli("queues", "fair", "mail", "on").out.strip() == "queue mail is fair"
    cli("queues", "weight", "mail", "acme", "3")
    (queue,) = cli("queues", "list", "--json").json()
    assert (queue["fair"], queue["weights"]) == (True, {"acme": 3})
    assert "fair" in cli("queues", "list").out
    assert cli("queues", "fair", "mail", "off", "--json").json() == {"name": "mail", "fair": False}


@pytest.mark.parametrize(
    "words",
    [
        ("fair", "two words", "on"),
        ("fair", "mail", "perhaps"),
        ("weight", "mail", "a", "0"),
        ("weight", "mail", "", "2"),
    ],
)
def test_what_makes_no_sense_of_fairness_is_refused(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("queues", *words).code == 2
    assert cli("queues", "list", "--json").json() == []


def test_runners_are_listed_and_a_dead_one_is_called_so(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 49."""
    assert cli("runners", "list", "--json").json() == []
    enqueue(cli)
    bury(taskrunner_db)
    assert cli("runners", "list", "--json").json()[0]["alive"] is True
    taskrunner_db.travel(timedelta(minutes=1))
    assert "dead" in cli("runners", "list").out


def test_a_schedule_is_added_looked_ahead_paused_run_and_removed(cli: Cli) -> None:
    """SPEC SCH 41."""
    added = cli("schedules", "add", "nightly", "Report", "30 2 * * *", "--timezone", "Europe/Warsaw", "--json").json()
    due = cli("schedules", "next", "nightly", "--count", 3, "--json").json()
    assert due[0] == added["next_tick_at"]
    assert len(due) == 3
    both = cli("schedules", "next", "nightly", "--count", 3).out
    assert "Europe/Warsaw" in both
    assert "02:30:00 +0" in both
    assert cli("schedules", "add", "hourly", "Report", "0 * * * *").code == 0
    every = cli("schedules", "next", "--json").json()
    assert sorted(one["name"] for one in every) == ["hourly", "nightly"]
    assert {one["name"]: one["due_at"] for one in every}["nightly"] == due[0]
    assert cli("schedules", "next", "--count", 2).out.count("hourly") == 2
    assert cli("schedules", "remove", "hourly", "--yes").code == 0
    assert cli("schedules", "pause", "nightly").code == 0
    assert cli("schedules", "list", "--json").json()[0]["paused"] is True
    assert cli("schedules", "resume", "nightly").code == 0
    made = cli("schedules", "run", "nightly", "--json").json()
    assert cli("tasks", "show", made["id"], "--json").json()["type"] == "Report"
    assert cli("schedules", "remove", "nightly", "--yes").code == 0
    assert cli("schedules", "list", "--json").json() == []


@pytest.mark.parametrize(("frequency", "code"), [("nonsense", 2), ("0 0 31 2 *", 2), ("0", 2), ("5m", 0), ("90", 0)])
def test_a_schedule_that_makes_no_sense_is_refused(cli: Cli, frequency: str, code: int) -> None:
    """SPEC REG 3, SCH 41."""
    assert cli("schedules", "add", "odd", "Report", frequency).code == code


def test_a_schedule_takes_everything_on_the_command_line_and_may_be_changed(cli: Cli) -> None:
    """SPEC SCH 41."""
    bounds = ("--start", "2030-01-01T00:00:00Z", "--end", "2031-01-01T00:00:00Z")
    more = ("--tenant", "acme", "--key", "k", "--jitter", "5m", "--catch-up", "all", "--queue", "slow", "--priority", 3)
    given = ('{"to": "a@b.c"}', "--cron", "0 3 * * *", "--every", "90m", "--timezone", "Europe/Warsaw")
    assert cli("schedules", "add", "nightly", "SendEmail", *given, *bounds, *more).code == 0

    def show() -> dict[str, Any]:
        return dict(cli("schedules", "show", "nightly", "--tenant", "acme", "--json").json())

    shown = show()
    assert shown["trigger"] == 'several ["cron 0 3 * * *","interval 5400"]'
    assert (shown["payload"], shown["tenant"], shown["key"]) == ({"to": "a@b.c"}, "acme", "k")
    assert (shown["timezone"], shown["catch_up"], shown["jitter"]) == ("Europe/Warsaw", "all", "PT5M")
    assert (shown["queue"], shown["priority"], shown["ended"]) == ("slow", 3, False)
    assert (shown["start_at"], shown["end_at"]) == ("2030-01-01T00:00:00Z", "2031-01-01T00:00:00Z")
    assert "every 90 min" in cli("schedules", "show", "nightly", "--tenant", "acme").out
    assert [one["tenant"] for one in cli("schedules", "list", "--tenant", "acme", "--json").json()] == ["acme"]
    assert cli("schedules", "list", "--tenant", "other", "--json").json() == []

    changes = ("--payload", '{"to": "x@y.z"}', "--start", "", "--end", "", "--key", "", "--jitter", "", "--queue", "")
    change = ("schedules", "change", "nightly", "--tenant", "acme")
    assert "goes on at" in cli(*change, "0 4 * * *", "--priority", 4, *changes).out
    shown = show()
    assert (shown["trigger"], shown["timezone"], shown["priority"]) == ("cron 0 4 * * *", "Europe/Warsaw", 4)
    assert shown["payload"] == {"to": "x@y.z"}
    assert [shown[name] for name in ("start_at", "end_at", "key", "jitter", "queue")] == [None] * 5
    assert cli(*change, "--type", "Report", "--payload", "").code == 0
    assert (show()["type"], show()["payload"]) == ("Report", {})
    assert cli(*change, "--timezone", "Europe/Warszawa").code == 2
    assert show()["timezone"] == "Europe/Warsaw"


def test_a_name_that_is_taken_is_refused_unless_it_is_to_be_replaced(cli: Cli) -> None:
    """SPEC SCH 41."""
    add = ("schedules", "add", "mine", "SendEmail", '{"to": "a@b.c"}', "--every")
    assert cli(*add, "1h").code == 0
    assert cli(*add, "2h").code == 1
    assert cli(*add, "2h", "--replace").code == 0
    assert cli("schedules", "show", "mine", "--json").json()["trigger"] == "interval 7200"


def test_a_preview_needs_no_schedule_and_shows_both_clocks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC SCH 41, 42."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    preview = ("schedules", "preview", "30 2 * * *", "--timezone", "Europe/Warsaw", "--from", "2026-10-24T00:00:00Z")
    assert cli(*preview, "--count", 2, "--json").json() == ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z"]
    shown = cli(*preview, "--count", 3).out.split()
    assert " ".join(shown[-14:]) == (
        "Sun 2026-10-25 02:30:00 +0200 Sun 2026-10-25 00:30:00 Mon 2026-10-26 02:30:00 +0100 Mon 2026-10-26 01:30:00"
    )
    several = cli("schedules", "preview", "10m", "@hourly", "--from", "2026-10-24T00:55:00Z", "--count", 3, "--json")
    assert several.json() == ["2026-10-24T01:00:00Z", "2026-10-24T01:10:00Z", "2026-10-24T01:20:00Z"]
    assert cli("schedules", "preview", "nonsense").code == 2
    assert cli("schedules", "preview").code == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("SendEmail", '{"to": "a"}'), "when?"),
        (("SendEmail", "--every", "1h"), "to"),
        (("SendEmail", '{"to": "a"}', "--payload", "{}", "--every", "1h"), "one payload"),
        (("SendEmial", "--every", "1h"), "did you mean 'SendEmail'"),
        (("Report", "--cron", "@daily", "--timezone", "Europe/Warszawa"), "'Europe/Warsaw'"),
        (("Report", "--every", "1h", "--start", "2030-01-01T00:00:00"), "--start"),
        (("Report", "--every", "1h", "--start", "2030-01-02T00:00Z", "--end", "2030-01-01T00:00Z"), "before"),
        (("Report", "--every", "soon"), "--every"),
        (("Report", "--every", "1h", "--jitter", "soon"), "--jitter"),
        (("Report", "--every", "1h", "--catch-up", "never"), "catch_up"),
        (("Report", "--every", "1h", "--key", "k" * 256), "255"),
    ],
)
def test_a_schedule_with_a_mistake_in_it_is_refused_and_not_stored(
    cli: Cli, words: tuple[str, ...], complaint: str
) -> None:
    """SPEC SCH 41."""
    ended = cli("schedules", "add", "odd", *words)
    assert ended.code == 2
    assert complaint in ended.err
    assert cli("schedules", "list", "--json").json() == []


# ── operating ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrating_twice_does_nothing_the_second_time(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC HIS 53."""
    schema.downgrade(taskrunner_db.url)
    assert cli("migrate", "--json").json() == {"revision": schema.head()}
    assert cli("migrate", "--json").json() == {"revision": schema.head()}
    assert cli("status").code == 0


def test_the_sql_of_the_schema_is_printed_and_nothing_else(cli: Cli) -> None:
    ended = cli("migrate", "--sql")
    assert ended.err == ""
    assert "CREATE TABLE taskrunner.task (" in ended.out


def test_health_asks_for_a_live_runner_only_when_readiness_is_wanted(cli: Cli, taskrunner_db: Database) -> None:
    """SPEC OPS 50."""
    assert cli("health", "--json").json() == {"status": "ok"}
    assert cli("health", "--ready").code == 1
    enqueue(cli)
    bury(taskrunner_db)
    assert cli("health", "--ready", "--json").json() == {"status": "ok", "runners": 1}


def test_maintenance_says_what_it_did(cli: Cli) -> None:
    """SPEC HIS 52."""
    done = cli("maintain", "--json").json()
    assert len(done["created"]) >= 30
    assert cli("maintain", "--json").json()["created"] == []


def test_maintenance_that_cannot_archive_keeps_what_there_is_and_fails(
    cli: Cli, taskrunner_db: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SPEC HIS 52."""
    cli("maintain")
    taskrunner_db.travel(timedelta(days=32))
    monkeypatch.setenv("TASKRUNNER_ARCHIVE_DIR", str(tmp_path / "archive"))
    done = cli("maintain")
    assert done.code == 1
    assert "could not be archived" in done.err
    assert "is no folder: create it" in done.err
    (tmp_path / "archive").mkdir()
    done = cli("maintain")
    assert done.code == 0
    assert "archived " in done.out
    assert list((tmp_path / "archive").glob("task_history_p*.csv.gz"))


def test_config_show_names_every_value_s_source_and_hides_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC OPS 51."""
    monkeypatch.setenv("TASKRUNNER_API_TOKEN", "very-secret")
    shown = {one["name"]: one for one in cli("config", "show", "--json").json()}
    assert shown["api_token"]["source"] == "environment TASKRUNNER_API_TOKEN"
    assert shown["poll"]["source"] == "default"
    assert "very-secret" not in cli("config", "show").out


def test_config_check_lists_the_task_types(cli: Cli) -> None:
    """SPEC REG 1."""
    assert cli("config", "check", "--json").json() == ["Report", "SendEmail"]


def test_init_writes_a_project_whose_task_is_found_and_never_overwrites(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    assert cli("init", folder).out.splitlines() == [str(folder / "tasks/hello.py"), str(folder / "taskrunner.toml")]
    assert len((folder / "tasks/hello.py").read_text().splitlines()) <= 15
    (folder / "tasks/hello.py").write_text("# mine\n")
    again = cli("init", folder)
    assert (again.code, again.out) == (0, "")
    assert (folder / "tasks/hello.py").read_text() == "# mine\n"
    (folder / "tasks/hello.py").unlink()
    cli("init", folder)
    monkeypatch.chdir(folder)
    assert cli("config", "check", "--json").json() == ["Hello"]


# ── flows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flow_is_drawn_cancelled_and_retried_by_one_of_its_tasks(taskrunner_db: Database, cli: Cli) -> None:
    """SPEC FLO 57."""
    enqueue(cli)  # what loads the project's tasks
    first = cli("enqueue", "SendEmail", '{"to": "a@b.c"}', "--queue", "other", "--json").json()["id"]
    with TaskQueue.connect(taskrunner_db.url) as queue:
        kind = declared.get("SendEmail").cls
        parts = [queue.add(kind(to=f"{n}@b.c"), after=first).id for n in range(8)]
        last = queue.add(kind(to="z@b.c"), after=parts).id
    shown = cli("tasks", "show", last, "--json").json()
    assert (shown["parents"], shown["children"]) == (sorted(map(str, parts)), [])
    assert cli("tasks", "show", first, "--json").json()["children"] == sorted(map(str, parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskrunner.reads.flows.MOST", 1)
        assert f"and {len(parts) - 1} more" in " ".join(cli("tasks", "show", first).out.split())
    drawn = cli("tasks", "show", last).out
    flow = drawn[drawn.index("flow of 10 tasks") :].splitlines()
    assert flow[1] == f"└── SendEmail {first} pending"
    assert flow[2:] == [
        "    ├── 7 × SendEmail blocked",
        f"    └── SendEmail {max(parts)} blocked",
        f"        └── SendEmail {last} blocked after 8 tasks",
    ]
    assert "flow" not in cli("tasks", "show", enqueue(cli)).out
    assert cli("tasks", "cancel", last, "--flow").out == "cancelled 10\n"
    assert cli("tasks", "cancel", last, "--flow").code == 1
    assert "nothing of it is dead" in cli("tasks", "retry", last, "--flow").err


def test_a_dead_flow_is_retried_by_one_of_its_tasks(taskrunner_db: Database, cli: Cli) -> None:
    """SPEC FLO 57."""
    parent = enqueue(cli)
    with TaskQueue.connect(taskrunner_db.url) as queue:
        child = queue.add(declared.get("SendEmail").cls(to="z@b.c"), after=parent).id
    with connect(taskrunner_db.url) as conn:
        process = runners.Process(uuid7(), "runner", "host", 1, ("mail",), ("SendEmail",), 1, "0.1")
        run(conn, runners.join(process, timedelta(seconds=15)))
        claimed = claim_due(conn, process.id, 1, ["SendEmail"], "mail")[0]
        gone = store.Ending(claimed.id, claimed.claim_no, state="dead", detail='[{"message": "SMTP is down"}]')
        run(conn, ending.end(process.id, gone))
    assert f"its parent SendEmail {parent} is dead" in " ".join(cli("dead", "show", child).out.split())
    requeued = cli("tasks", "retry", child, "--flow", "--json").json()["requeued"]
    assert set(requeued) == {str(parent), str(child)}
    assert [cli("tasks", "show", new, "--json").json()["state"] for new in requeued.values()] == ["pending", "blocked"]
