"""Settings: every source and its precedence, all bad values at once, no secret shown, and the pages made from them."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from taskrunner.control import settings_to_json
from taskrunner.errors import SettingsInvalid
from taskrunner.settings import NAMES, Setting, Settings, explain, load
from taskrunner.settings.reference import EXAMPLE, GROUPS, PAGE, ROOT, example, reference
from taskrunner.settings.sources import find_project, variable
from taskrunner.settings.values import (
    MASK,
    display,
    format_duration,
    format_queues,
    is_loopback,
    mask_url,
    normalise_url,
    parse_duration,
    parse_queues,
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("TASKRUNNER_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def told(settings: Settings, name: str) -> Setting:
    return next(setting for setting in explain(settings) if setting.name == name)


def complaint(**flags: object) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        load(flags, project=Path.cwd())
    return str(caught.value)


# --- sources and precedence


def test_without_any_source_every_setting_has_its_default() -> None:
    settings = load(project=Path.cwd())
    assert settings.database_url is None
    assert (settings.concurrency, settings.processes, settings.tasks, settings.queues) == (100, 1, "tasks", {})
    assert (settings.heartbeat, settings.lease) == (timedelta(seconds=5), timedelta(seconds=15))
    assert (settings.api_host, settings.api_port, settings.api_token) == ("127.0.0.1", 8000, None)
    assert {setting.source for setting in explain(settings)} == {"default", "flag --project"}


def test_each_source_gives_way_to_the_one_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SPEC OPS 51."""
    shared, own = tmp_path / "pyproject.toml", tmp_path / "taskrunner.toml"
    shared.write_text("[tool.taskrunner]\ngrace = '1s'\n")
    assert (load().grace, told(load(), "grace").source) == (
        timedelta(seconds=1),
        "pyproject.toml: tool.taskrunner.grace",
    )
    own.write_text("grace = '2s'\n")
    assert (load().grace, told(load(), "grace").source) == (timedelta(seconds=2), "taskrunner.toml: grace")
    monkeypatch.setenv("TASKRUNNER_GRACE", "3s")
    assert (load().grace, told(load(), "grace").source) == (timedelta(seconds=3), "environment TASKRUNNER_GRACE")
    flagged = load({"grace": "4s"})
    assert (flagged.grace, told(flagged, "grace").source) == (timedelta(seconds=4), "flag --grace")


def test_a_shadowed_bad_value_is_nobodys_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUNNER_CONCURRENCY", "many")
    assert load({"concurrency": 7}).concurrency == 7


def test_a_flag_that_is_none_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUNNER_API_PORT", "9000")
    settings = load({"api_port": None, "project": None})
    assert (settings.api_port, told(settings, "api_port").source) == (9000, "environment TASKRUNNER_API_PORT")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(variable(name), "")
    settings = load(project=Path.cwd())
    assert settings.database_url is None
    assert {setting.source for setting in explain(settings)} == {"default", "flag --project"}


GOOD = {
    "database_url": "postgresql://u@h/db",
    "listen": "off",
    "prepare": "false",
    "tasks": "shop.tasks",
    "queues": "mail:2,default",
    "concurrency": "8",
    "processes": "2",
    "process_slots": "3",
    "session_connections": "4",
    "grace": "1m",
    "poll": "0.5",
    "uvloop": "no",
    "heartbeat": "2s",
    "lease": "20",
    "crash_limit": "4",
    "stray_limit": "6",
    "catch_up_limit": "50",
    "history_retention": "90d",
    "history_keep": "mail:7d,*/ignored:1d,mail/cancelled:90d",
    "history_partition": "Week",
    "archive_dir": "/srv/archive",
    "stats_retention": "14d",
    "audit_retention": "90d",
    "idempotency_retention": "12h",
    "partitions_ahead": "60",
    "api_host": "::1",
    "api_port": "0",
    "api_token": "s3cret",
    "api_tokens": "grafana:read:dashb0ard,ada:write:with:colons",
    "log_level": "DEBUG",
    "log_format": "json",
    "task_log": "Warning",
    "task_log_lines": "50",
    "redact": "+iban,+pin-code",
    "traces": "off",
    "metrics_port": "9100",
    "metrics_host": "::1",
}


def test_every_setting_can_be_set_by_variable_and_by_file_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SPEC OPS 51."""
    server = tmp_path / "bin"
    server.mkdir()
    (server / "postgres").touch()
    values = {**GOOD, "pg_bin": str(server)}
    assert values.keys() == NAMES - {"project"}
    (tmp_path / "taskrunner.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in values.items()))
    by_file = load()
    (tmp_path / "taskrunner.toml").unlink()
    for name, value in values.items():
        monkeypatch.setenv(variable(name), value)
    by_variable = load(project=tmp_path)
    assert by_file.model_dump() == by_variable.model_dump()
    changed = {name for name in values if getattr(by_file, name) != getattr(Settings(), name)}
    assert changed | {"process_slots"} == values.keys() | {"process_slots"}


def test_the_database_is_named_by_its_own_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@h/db")
    url = load().database_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://u:p@h/db"
    monkeypatch.setenv("TASKRUNNER_DATABASE_URL", "postgresql://other/db")
    assert "TASKRUNNER_DATABASE_URL is no setting; did you mean DATABASE_URL?" in complaint()


def test_settings_made_directly_read_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASKRUNNER_CONCURRENCY", "7")
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/db")
    (tmp_path / "taskrunner.toml").write_text("processes = 2")
    (tmp_path / ".env").write_text("TASKRUNNER_PROCESSES=2")
    settings = Settings(crash_limit=4)
    assert (settings.concurrency, settings.processes, settings.database_url) == (100, 1, None)
    assert told(settings, "crash_limit").source == "code"


def test_a_dotenv_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TASKRUNNER_PROCESSES=2")
    assert load(project=tmp_path).processes == 1


def test_importing_the_settings_reads_neither_environment_nor_files(tmp_path: Path) -> None:
    (tmp_path / "taskrunner.toml").write_text("not toml")
    bad = {**os.environ, "TASKRUNNER_LEASE": "never", "DATABASE_URL": "nonsense"}
    subprocess.run([sys.executable, "-c", "import taskrunner.settings"], cwd=tmp_path, env=bad, check=True)


def test_importing_the_task_api_does_not_load_the_settings() -> None:
    program = "import sys, taskrunner; sys.exit('taskrunner.settings' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_cannot_be_changed_and_travel_to_child_processes() -> None:
    settings = load({"concurrency": 7}, project=Path.cwd())
    with pytest.raises(ValidationError, match="frozen"):
        settings.concurrency = 8  # type: ignore[misc]  # the point of the test
    copy = pickle.loads(pickle.dumps(settings))  # noqa: S301
    assert copy == settings
    assert told(copy, "concurrency").source == "flag --concurrency"


# --- the project's folder


@pytest.mark.parametrize(
    ("mark", "text", "reason"),
    [
        ("taskrunner.toml", "", "found by taskrunner.toml"),
        ("pyproject.toml", "[tool.taskrunner]\n", "found by pyproject.toml"),
        ("tasks/mail.py", "", "found by the folder tasks"),
    ],
)
def test_the_project_is_the_nearest_folder_upwards_that_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, text: str, reason: str
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).write_text(text)
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'something else'\n")
    monkeypatch.chdir(inner)
    settings = load()
    assert (settings.project, told(settings, "project").source) == (tmp_path, reason)


def test_without_a_mark_the_project_is_the_current_folder(tmp_path: Path) -> None:
    assert find_project(tmp_path, "no_such_package_anywhere") == (tmp_path, "current folder")


def test_a_project_named_by_variable_or_flag_is_not_searched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "taskrunner.toml").write_text(f"tasks = '{name}'")
    monkeypatch.chdir(tmp_path / "here")
    assert load().tasks == "here"
    monkeypatch.setenv("TASKRUNNER_PROJECT", "../one")
    assert (load().tasks, load().project) == ("one", tmp_path / "one")
    assert load(project=tmp_path / "two").tasks == "two"
    assert load({"project": "../two"}).tasks == "two"


def test_a_project_that_is_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUNNER_PROJECT", "/nowhere/at/all")
    with pytest.raises(
        SettingsInvalid, match=r"project = /nowhere/at/all \(environment TASKRUNNER_PROJECT\): is no fold"
    ):
        load()


def test_a_folder_in_a_file_is_relative_to_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "postgres").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "taskrunner.toml").write_text("pg_bin = 'server'")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load().pg_bin == tmp_path / "server"


def test_a_server_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    assert "(flag --pg-bin): holds no program `postgres`" in complaint(pg_bin=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mail", "has no duration"),
        ("mail:", "must be a duration"),
        ("mail:59m", "at least 1h"),
        ("*:7d", "selects nothing"),
        ("mail/dead:7d", "selects nothing"),
        ("mail:7d,mail:8d", "twice"),
        ("50%:7d", "selects nothing"),
    ],
)
def test_a_time_for_what_history_does_not_hold_is_refused(text: str, reason: str) -> None:
    """SPEC OPS 51, HIS 52."""
    assert reason in complaint(history_keep=text)


def test_times_for_queues_and_states_are_read_from_a_table_too(tmp_path: Path) -> None:
    """SPEC OPS 51, HIS 52."""
    (tmp_path / "taskrunner.toml").write_text("[history_keep]\nmail = '7d'\n'*/ignored' = '1d'\n")
    assert load().history_keep == {"mail": timedelta(days=7), "*/ignored": timedelta(days=1)}
    assert told(load(), "history_keep").value == "mail:7d,*/ignored:1d"


# --- bad values


BAD = {
    "database_url": "mysql://root:hunter2@h/db",
    "pg_bin": "/nowhere",
    "listen": "maybe",
    "prepare": "2",
    "project": "/nowhere",
    "tasks": "../tasks",
    "queues": "mail:0",
    "concurrency": "0",
    "processes": "many",
    "process_slots": "1.5",
    "session_connections": "0",
    "grace": "8d",
    "poll": "0",
    "uvloop": "perhaps",
    "heartbeat": "1w",
    "lease": "-1",
    "crash_limit": "0",
    "stray_limit": "0",
    "catch_up_limit": "0",
    "history_retention": "23h",
    "history_keep": "mail/pending:7d",
    "history_partition": "year",
    "archive_dir": "/dev/null",
    "stats_retention": "P1D",
    "audit_retention": "P1D",
    "idempotency_retention": "0s",
    "partitions_ahead": "29",
    "api_token": "two words",
    "api_tokens": "ada:admin:s3cret",
    "api_host": "",
    "api_port": "65536",
    "log_level": "loud",
    "log_format": "xml",
    "task_log": "some",
    "task_log_lines": "0",
    "redact": "password,+iban",
    "traces": "perhaps",
    "metrics_port": "-1",
    "metrics_host": "",
}


def test_every_bad_value_is_told_at_once_with_its_name_value_reason_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC OPS 51."""
    assert BAD.keys() == NAMES
    by_flag = ("lease", "api_host", "metrics_host")  # an empty variable counts as unset
    for name in NAMES - set(by_flag):
        monkeypatch.setenv(variable(name), BAD[name])
    with pytest.raises(SettingsInvalid) as caught:
        load({name: BAD[name] for name in by_flag})
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(Settings.model_fields)
    assert all(re.fullmatch(r"  \w+ = .* \((environment|flag) \S+\): \S.+", line) for line in lines[1:])
    assert "  concurrency = 0 (environment TASKRUNNER_CONCURRENCY): must be 1 to 10000" in lines
    assert "  processes = many (environment TASKRUNNER_PROCESSES): must be a whole number" in lines
    assert "  listen = maybe (environment TASKRUNNER_LISTEN): must be true or false" in lines
    assert "  grace = 8d (environment TASKRUNNER_GRACE): must be at most 7d" in lines
    assert caught.value.exit_code == 3


def test_rules_between_settings_are_told_together_with_bad_values() -> None:
    text = complaint(lease="10s", api_host="0.0.0.0", concurrency=0)  # noqa: S104
    assert "lease = 10s (flag --lease): must be at least 12.5s, 2.5 times the heartbeat of 5s" in text
    assert "api_host = 0.0.0.0 (flag --host): can be reached from other machines: set TASKRUNNER_API_TOKEN" in text
    assert "concurrency = 0 (flag --concurrency)" in text


def test_a_heartbeat_too_slow_for_the_default_lease_is_refused() -> None:
    assert "lease = 15s (default): must be at least 17.5s" in complaint(heartbeat="7s")
    assert load({"heartbeat": "6s"}).lease == timedelta(seconds=15)


def test_each_runner_needs_a_metrics_port_of_its_own() -> None:
    text = complaint(metrics_port="65535", processes="3")
    assert "metrics_port = 65535" in text
    assert "must be at most 65533: each of the 3 runners has the next port" in text
    assert load({"metrics_port": "65533", "processes": "3"}).metrics_port == 65_533
    assert load({"metrics_port": "65535"}).metrics_port == 65_535
    assert load({"metrics_port": "0", "processes": "256"}).metrics_port == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "example.org", "localhost.example.org"])  # noqa: S104
def test_off_loopback_the_api_needs_a_token(host: str) -> None:
    assert "set TASKRUNNER_API_TOKEN" in complaint(api_host=host)
    assert load({"api_host": host, "api_token": "s3cret"}).api_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_on_loopback_the_api_is_open(host: str) -> None:
    assert is_loopback(host)
    assert load({"api_host": host}).api_host == host.strip("[]")


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TASKRUNNER_HOME", "TASKRUNNER_QUEUE_URL", "TASKRUNNER_POOL", "TASKRUNNER_MAIL_SENDER", "LEESE"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("TASKRUNNER_CONCURENCY", "")
    load()
    monkeypatch.setenv("TASKRUNNER_LEESE", "9")
    monkeypatch.setenv("TASKRUNNER_CONCURENCY", "9")
    text = complaint()
    assert "environment TASKRUNNER_LEESE is no setting; did you mean TASKRUNNER_LEASE?" in text
    assert "environment TASKRUNNER_CONCURENCY is no setting; did you mean TASKRUNNER_CONCURRENCY?" in text
    assert "mine" not in text


def test_an_unknown_name_in_a_file_is_an_error_with_a_near_match(tmp_path: Path) -> None:
    (tmp_path / "taskrunner.toml").write_text("crash-limit = 5\n[api]\nport = 1")
    (tmp_path / "pyproject.toml").write_text("[tool.taskrunner]\nleese = 1")
    text = complaint()
    assert "taskrunner.toml: crash-limit is no setting; did you mean 'crash_limit'" in text
    assert "taskrunner.toml: api is no setting" in text
    assert "pyproject.toml: tool.taskrunner.leese is no setting; did you mean 'lease'" in text


def test_the_project_cannot_be_set_in_a_file_it_is_found_by(tmp_path: Path) -> None:
    (tmp_path / "taskrunner.toml").write_text("project = '..'")
    assert "taskrunner.toml: project cannot be set in a file" in complaint()


@pytest.mark.parametrize("name", ["taskrunner.toml", "pyproject.toml"])
def test_a_broken_file_is_told_with_its_line_beside_the_other_errors(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[tool.taskrunner]\ngrace = 3\nlease 15\n")
    with pytest.raises(SettingsInvalid) as caught:
        load({"concurrency": 0})
    text = str(caught.value)
    assert str(tmp_path / name) in text
    assert "line 3" in text
    assert "concurrency = 0" in text


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "taskrunner.toml").write_bytes(b"tasks = '\xff'")
    assert f"{tmp_path / 'taskrunner.toml'} cannot be read" in complaint()


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\ntaskrunner = 3"])
def test_something_else_in_the_place_of_our_table_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert "tool.taskrunner must be a table" in complaint()


@pytest.mark.parametrize(
    "line",
    ["concurrency = true", "grace = true", "tasks = 3", "pg_bin = 3", "grace = 07:32:00", "queues = 3", "poll = nan"],
)
def test_a_value_of_the_wrong_kind_in_a_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "taskrunner.toml").write_text(line)
    name = line.split()[0]
    assert f"(taskrunner.toml: {name}): must be" in complaint()


# --- secrets


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h/db",
        "postgresql://u:hunter2@h1:5432,h2:5433/db?target_session_attrs=read-write",
        "postgresql://u@h/db?password=hunter2&sslmode=require",
        "postgresql://u@[::1]:5432,[::2]/db?sslmode=require&sslpassword=hunter2",
        "postgresql+asyncpg://u:hunter2@h/db",
        "postgresql://u:hunter2@x@h/db",
        "postgresql://u:hunter2/x@h/db",
        "postgresql://u:12?hunter2@h/db",
        "postgresql://u:12#hunter2@h/db",
        "postgresql://u:12/hunter2@h/db",
        "host=h password=hunter2",
        "hunter2",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert "hunter2" not in mask_url(url)
    try:
        settings = load({"database_url": url, "api_token": "hunter2"})
        shown = repr(explain(settings)) + repr(settings) + str(settings)
    except SettingsInvalid as error:
        shown = str(error) + repr(error.__cause__) + repr(error.__context__)
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hunter2", "token 1 must be NAME:read:SECRET"),
        ("ada:admin:hunter2", "token 1 must be NAME:read:SECRET"),
        ("ada:write:", "token 1 must be NAME:read:SECRET"),
        ("bob:read:x,a da:write:hunter2", "the name of token 2"),
        ("token:write:hunter2", "and not local, token"),
        ("ada:write:hunter 2", "the secret of ada must be ASCII"),
        ("ada:write:hunter2,ada:read:x", "has the name ada twice"),
        ("ada:write:hunter2,bob:read:hunter2", "two names have the same secret"),
    ],
)
def test_bad_tokens_are_told_without_their_secrets(text: str, reason: str) -> None:
    told = complaint(api_tokens=text)
    assert reason in told
    assert "hunter" not in told
    assert f"api_tokens = {MASK}" in told


def test_tokens_have_names_and_scopes_and_hide_their_secrets() -> None:
    settings = load({"api_tokens": "grafana:read:hunter2, ada:write:hunter:2", "api_host": "0.0.0.0"})  # noqa: S104
    read = [(token.name, token.scope, token.secret.get_secret_value()) for token in settings.api_tokens]
    assert read == [("grafana", "read", "hunter2"), ("ada", "write", "hunter:2")]
    assert "hunter" not in repr(explain(settings)) + repr(settings) + str(settings)
    assert Settings(**json.loads(json.dumps(settings_to_json(settings)))).api_tokens == settings.api_tokens
    assert "the secret of TASKRUNNER_API_TOKEN" in complaint(api_token="hunter2", api_tokens="ada:write:hunter2")


def test_the_rest_of_the_address_is_shown() -> None:
    settings = load({"database_url": "postgres://me:pw@h1:5432,h2/db?sslmode=require", "api_token": "pw"})
    assert told(settings, "database_url").value == "postgresql://me:********@h1:5432,h2/db?sslmode=require"
    assert told(settings, "api_token").value == "********"
    assert mask_url("postgresql://me@h:5432/db") == "postgresql://me@h:5432/db"


def test_an_error_of_the_model_itself_does_not_quote_its_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"database_url": "mysql://u:hunter2@h"})
    assert "hunter2" not in str(caught.value)


def test_a_very_long_value_is_shown_cut() -> None:
    assert len(display("tasks", "x" * 1000)) == 200


# --- spellings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15", 15),
        (15, 15),
        (0.5, 0.5),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("15s", 15),
        ("5m", 300),
        ("2h", 7200),
        (" 1 d ", 86400),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_its_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", -1, "1w", "1h30m", "1e3", "٣", float("inf"), float("nan"), True, None, [1], 1e300, "9" * 400],
)
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r"must be a duration|longer than"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_a_duration_is_written_as_it_can_be_read(microseconds: int) -> None:
    duration = timedelta(microseconds=microseconds)
    assert abs(parse_duration(format_duration(duration)) - duration) <= timedelta(microseconds=1)


def test_queues_are_names_with_weights(tmp_path: Path) -> None:
    weights = {"mail": 2, "default": 1}
    assert parse_queues(" mail:2 , default,") == weights
    assert parse_queues(format_queues(weights)) == weights
    assert parse_queues("") == {}
    for line in ("queues = 'mail:2,default'", "queues = ['mail:2', 'default']", "queues = {mail = 2, default = 1}"):
        (tmp_path / "taskrunner.toml").write_text(line)
        assert load().queues == weights


@pytest.mark.parametrize("text", ["mail:0", "mail:-1", "mail:x", "mail:", ":2", "a b", "mail:1:2", "mail,mail:2"])
def test_queues_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no queue|twice"):
        parse_queues(text)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("postgres://h/db", "postgresql://h/db"),
        ("postgresql+psycopg://u:p@h:5432/db", "postgresql://u:p@h:5432/db"),
        (" postgresql://h1:1,h2:2/db?target_session_attrs=any ", "postgresql://h1:1,h2:2/db?target_session_attrs=any"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("postgresql://%2Frun%2Fpostgresql/db", "postgresql://%2Frun%2Fpostgresql/db"),
        ("postgresql://u:a%40b%2Fc@[::1]:5432/db", "postgresql://u:a%40b%2Fc@[::1]:5432/db"),
    ],
)
def test_a_database_address_gets_the_scheme_that_libpq_knows(url: str, same: str) -> None:
    assert normalise_url(url) == same


@pytest.mark.parametrize(
    "url",
    ["", "h/db", "host=h", "mysql://h/db", "postgresql://h:port/db", "postgresql://u:p w@h/db", "postgresql://a@b@h"],
)
def test_what_is_no_database_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|cannot"):
        normalise_url(url)


# --- the pages made from the model


def test_every_setting_is_described_and_in_one_group() -> None:
    assert all(setting.description.endswith(".") for setting in explain(Settings()))
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(NAMES)


@pytest.mark.parametrize(("path", "text"), [(PAGE, reference()), (EXAMPLE, example())], ids=["reference", "example"])
def test_the_written_page_is_what_the_model_says(path: Path, text: str) -> None:
    """SPEC OPS 51."""
    assert (ROOT / path).read_text("utf-8") == text, "run `python -m taskrunner.settings.reference`"


def test_the_example_file_changes_nothing_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.removeprefix("#") for line in example().splitlines() if re.match(r"#\w+=", line)]
    assert len(lines) == len(NAMES)
    for line in lines:
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    assert load(project=Path.cwd()).model_dump() == Settings().model_dump()


def test_every_setting_is_read_by_the_code_that_it_is_for() -> None:
    """SPEC OPS 51."""
    package = ROOT / "taskrunner"
    text = "".join(path.read_text("utf-8") for path in package.rglob("*.py") if "settings" not in path.parts)
    assert [name for name in Settings.model_fields if not re.search(rf"settings\.{name}\b", text)] == []


def test_a_child_process_says_of_each_setting_what_its_parent_says() -> None:
    """SPEC OPS 51."""
    parent = Settings(grace=timedelta(seconds=7))
    parent.remember({"grace": "environment TASKRUNNER_GRACE"})
    child = Settings(**settings_to_json(parent))
    child.remember(parent.origins())
    assert child.origin("grace") == "environment TASKRUNNER_GRACE"
    assert {one.name: one.source for one in explain(child)} == {one.name: one.source for one in explain(parent)}
