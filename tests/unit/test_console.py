"""What people see: tables in 80 columns, hostile names, figures in a few letters, and log lines."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console, RenderableType

from taskrunner import logs
from taskrunner.console import (
    screen,
    show_dead,
    show_flow,
    show_instants,
    show_queues,
    show_runners,
    show_schedules,
    show_status,
    show_task,
    show_tasks,
    show_upcoming,
    status_line,
    watch,
)
from taskrunner.console.words import figure, since, span, until
from taskrunner.errors import DatabaseUnreachable
from taskrunner.reads import Counts, DeadView, FlowTask, FlowView, Queue, Runner, Schedule, Status, TaskView, TypeCounts
from taskrunner.states import State

NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
LONG = "a.very.long.name." * 12
HOSTILE = "\x1b[2J[red]\x07evil\r\n\u202eeman"


def task(**fields: Any) -> TaskView:
    values = {
        "id": uuid4(), "type": "SendEmail", "queue": "mail", "tenant": "default", "state": State.PENDING,
        "priority": 100, "payload": {}, "tries": 0, "crashes": 0, "maturity_at": NOW, "created_at": NOW,
        "started_at": None, "finished_at": None, "runner_id": None, "errors": [], "result": None, "progress": None,
        "meta": {},
    }  # fmt: skip
    return TaskView(**{**values, **fields})


def runner(**fields: Any) -> Runner:
    values = {
        "id": uuid4(), "kind": "runner", "host": "web-1", "pid": 4_194_304, "slots": 100, "running": 3, "strays": 0,
        "queues": ["default", "mail"], "types": [], "version": "0.1", "started_at": NOW, "lease_until": NOW,
        "lease_seconds": 12.3, "alive": True,
    }  # fmt: skip
    return Runner(**{**values, **fields})


def schedule(**fields: Any) -> Schedule:
    values = {
        "name": "nightly", "type": "Report", "tenant": "default", "trigger": "cron 0 3 * * *", "timezone": "UTC",
        "description": "0 3 * * * (UTC)", "payload": {}, "paused": False, "orphaned": False,
        "next_tick_at": NOW + timedelta(hours=15), "last_tick_at": NOW - timedelta(hours=9), "last_task_id": None,
        "last_error": None, "ticks": 3, "skipped": 0, "catch_up": "latest", "declared_in": "code",
        "ended": False, "start_at": None, "end_at": None, "jitter": None, "key": None, "queue": None, "priority": None,
        "created_at": NOW,
    }  # fmt: skip
    return Schedule(**{**values, **fields})


def full(name: str, types: int = 3) -> Status:
    """Return a page with large figures and the given name everywhere."""
    counts: dict[str, Any] = dict.fromkeys(Counts.model_fields, 12_345_678)
    by_type = [
        TypeCounts(type=f"{name}{place}", **counts, oldest_due_seconds=1e6, next_tick_at=NOW, unregistered=place == 0)
        for place in range(types)
    ]
    return Status(
        tasks=Counts(**counts),
        types=by_type,
        queues=[
            Queue(name=name, paused=True, fair=True, pending=10**9, due=10**9, running=9999, oldest_due_seconds=1e6)
        ],
        runners=[runner(host=name, queues=[name] * 5), runner(alive=False, strays=3)],
        schedules=[schedule(name=name, description=name), schedule(last_error=name), schedule(orphaned=True)],
    )


def text(shown: RenderableType, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, height=24, highlight=False, markup=False, emoji=False, **options)
    console.print(shown)
    written = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO of above
    return str(written)


def everything(name: str) -> Iterator[RenderableType]:
    yield show_status(full(name), NOW, width=80)
    yield show_tasks([task(type=name, queue=name)], NOW)
    error = {"message": name, "traceback": f"{name}\nTypeError: {name}", "at": name}
    yield show_dead([DeadView(**task(type=name, errors=[error]).model_dump(), requeued_as=None)], NOW)
    yield show_task(task(type=name, queue=name, payload={name: name}, errors=[error], meta={name: name}, result=name))
    yield show_runners(full(name).runners, ids=False)
    yield show_queues(full(name).queues)
    yield show_schedules(full(name).schedules, NOW, [])
    alone = FlowTask(uuid4(), name, "pending", None)
    yield show_flow(FlowView(tasks=[alone], edges=[]), alone.id)
    yield show_upcoming([(name, "Europe/Warsaw", NOW)])


@pytest.mark.parametrize("name", ["x", LONG, HOSTILE])
def test_everything_is_readable_at_80_columns(name: str) -> None:
    """SPEC OPS 49."""
    for shown in everything(name):
        assert max(map(len, text(shown).splitlines())) <= 80


def test_no_name_moves_the_cursor_or_changes_a_colour() -> None:
    for shown in everything(HOSTILE):
        written = text(shown, 300)
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(written)
        assert "[red]" in written


def test_ids_and_figures_are_never_cut_off_at_80_columns() -> None:
    one = task(type=LONG, queue=LONG, state=State.SUCCEEDED)
    assert str(one.id) in text(show_tasks([one], NOW))
    assert "succeeded" in text(show_tasks([one], NOW))
    for line in text(show_status(full(LONG), NOW, width=80)).splitlines():
        if "name." in line and "12.3M" in line:
            assert line.split().count("12.3M") == 7


def test_long_names_are_told_apart_by_their_ends() -> None:
    written = text(show_status(full(LONG), NOW, width=80))
    assert "…" in written
    for end in ("0 ", "1 ", "2 "):
        assert f".long.name.{end}" in written


def test_a_payload_is_shown_whole_however_narrow_the_terminal() -> None:
    payload = {"key": "v" * 300}
    shown = "".join(text(show_task(task(payload=payload))).split())
    assert "v" * 300 in shown


def test_an_empty_database_is_explained_with_the_next_step() -> None:
    empty = Status(tasks=Counts(), types=[], queues=[], runners=[], schedules=[])
    written = text(show_status(empty, NOW, width=80))
    assert "taskrunner enqueue" in written
    assert "taskrunner start all" in written


def test_a_wide_terminal_gets_the_full_words() -> None:
    assert "retrying" in text(show_status(full("x"), NOW, width=140), 140).splitlines()[3]
    assert "retrying" not in text(show_status(full("x"), NOW, width=80)).splitlines()[3]


def test_an_unregistered_type_and_a_dead_runner_are_named_as_such() -> None:
    """SPEC CLM 21, OPS 49."""
    written = text(show_status(full("Mail"), NOW, width=80))
    assert "! Mail0" in written
    assert "no live process knows this type" in written
    assert "dead" in text(show_runners([runner(alive=False)]))


def test_a_page_for_a_watch_shows_the_busiest_types_and_says_how_many_it_leaves_out() -> None:
    status = full("Type", 300)
    status.types[250].running = 10**8
    written = text(show_status(status, NOW, width=80, rows=5))
    assert "Type250" in written
    assert "295 more" in written
    assert len(written.splitlines()) <= 26


def test_a_list_of_ended_tasks_has_no_empty_column_and_cuts_a_long_type_at_its_end() -> None:
    ended = text(show_tasks([task(type="ImportedHealthCheckOfTheShop", state=State.SUCCEEDED)], NOW))
    assert not {"due", "tries"} & set(ended.split())
    assert " ImportedHealthCheck" in ended
    both = text(show_tasks([task(), task(state=State.DEAD, tries=3)], NOW))
    assert {"due", "tries"} <= set(both.split())


def test_schedules_are_orphaned_only_where_somebody_could_know_their_type() -> None:
    lost = [schedule(orphaned=True)]
    assert "orphaned" in text(show_schedules(lost, NOW, [runner(kind="scheduler")]))
    nobody = text(show_schedules(lost, NOW, [runner(kind="scheduler", alive=False)]))
    assert "orphaned" not in nobody
    assert "no scheduler runs" in nobody
    assert "no scheduler runs" not in text(show_schedules(lost, NOW, [runner(kind="scheduler")]))


def test_a_schedule_in_utc_has_its_times_once() -> None:
    instant = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert text(show_instants([instant], "UTC")).count("2026-03-29") == 1
    assert text(show_upcoming([("nightly", "UTC", instant)])).count("2026-03-29") == 1
    both = text(show_upcoming([("nightly", "UTC", instant), ("early", "Europe/Warsaw", instant)]))
    assert "03:00:00 +0200" in both
    assert both.count("2026-03-29") == 3


def test_due_times_are_shown_in_the_schedule_s_zone_and_in_utc() -> None:
    """SPEC SCH 41."""
    written = text(show_instants([datetime(2026, 3, 29, 1, 0, tzinfo=UTC)], "Europe/Warsaw"))
    assert "Sun 2026-03-29 03:00:00 +0200" in written
    assert "Sun 2026-03-29 01:00:00" in written


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0"), (99_999, "99,999"), (100_000, "100k"), (1_234_567, "1.23M"), (999_999_999, "999M"), (10**9, "1.00G")],
)
def test_figures_take_at_most_six_letters(count: int, written: str) -> None:
    assert figure(count) == written
    assert len(written) <= 6


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.25, "0.2s"), (59, "59s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d"), (None, "")],
)
def test_waits_are_written_in_the_largest_unit_of_which_there_are_two(seconds: float | None, written: str) -> None:
    assert span(seconds) == written


def test_times_are_written_from_now() -> None:
    assert since(NOW - timedelta(minutes=3), NOW) == "3m"
    assert until(NOW + timedelta(hours=3), NOW) == "3h"
    assert until(NOW - timedelta(hours=3), NOW) == "now"


def test_colours_go_to_terminals_only_and_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC OPS 49: no ANSI in a pipe."""
    shown = show_status(full("x"), NOW, width=80)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in text(shown, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in text(shown, force_terminal=True, color_system="standard")
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in text(shown)


def test_a_pipe_gets_lines_of_full_width_unless_columns_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert screen().width > 1000
    monkeypatch.setenv("COLUMNS", "80")
    assert screen().width == 80


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskrunner.console.overview.SECOND", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_watch_goes_on_when_the_database_comes_back_and_says_what_it_lacks_meanwhile() -> None:
    answers: Iterator[Any] = iter([full("x"), DatabaseUnreachable("it is away"), full("x"), KeyboardInterrupt()])

    def look() -> tuple[Status, datetime]:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer, NOW

    console = Console(file=io.StringIO())
    watch(console, look)
    line = status_line(full("x"), NOW)
    assert console.file.getvalue().splitlines() == [line, "it is away", line]  # type: ignore[attr-defined]  # a StringIO


@pytest.mark.usefixtures("at_once")
def test_a_watch_on_a_terminal_fits_its_screen_and_leaves_it_as_it_was() -> None:
    """SPEC OPS 49: live and clean on Ctrl-C."""
    answers = iter([full("Type", 300), None])

    def look() -> tuple[Status, datetime]:
        answer = next(answers)
        if answer is None:
            raise KeyboardInterrupt
        return answer, NOW

    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system="standard")
    watch(console, look)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO of above
    assert written.startswith("\x1b[?1049h")
    assert written.rstrip().endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?1049l" in written[-40:]
    assert "Ctrl-C ends" in written
    assert written.count("\n") <= 24


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_logs_are_one_object_a_line_with_the_fields_given() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream)
    log = logging.getLogger("taskrunner.test")
    log.debug("not this")
    id_ = UUID(int=7)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it %s", "failed", extra={"task_id": id_})
    [line] = [json.loads(one) for one in stream.getvalue().splitlines()]
    assert (line["message"], line["level"], line["logger"]) == ("it failed", "error", "taskrunner.test")
    assert line["task_id"] == str(id_)
    assert "ValueError: two\nlines" in line["exception"]
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_text_logs_in_a_pipe_are_plain_and_no_message_forges_a_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream=stream)
    logging.getLogger("taskrunner.test").warning("first\n2026 [error] \x1b[31mforged")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_line_is_the_time_the_level_and_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.configure("info", "auto", stream=stream)
    logging.getLogger("taskrunner.runner").info("it goes on")
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info\] it goes on\n", stream.getvalue())


def test_a_text_line_about_a_task_begins_with_the_task() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream=stream)
    extra = {"task_type": "Mail", "task_id": "01a2", "task_try": 2}
    logging.getLogger("taskrunner.task").warning("failed: %s", "no", extra=extra)
    assert "[warning] Mail 01a2, try 2: failed: no [taskrunner.task]" in stream.getvalue()
    assert "task_id" not in stream.getvalue()


def test_auto_is_json_where_there_is_no_terminal_and_configuring_twice_writes_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "auto", stream=first)
    logs.configure("warning", "auto", stream=second)
    logging.getLogger("taskrunner.test").warning("once")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "once"
    assert logging.getLogger().level == logging.WARNING


# ── flows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(edges: dict[int, list[int]], states: dict[int, str] | None = None, marked: int = 1) -> list[str]:
    """Draw a flow of tasks by their numbers; edges are children by parent."""
    ids = sorted({*edges, *(child for children in edges.values() for child in children)})
    tasks = [FlowTask(UUID(int=n), "T", (states or {}).get(n, "blocked"), None) for n in ids]
    pairs = sorted((UUID(int=parent), UUID(int=child)) for parent, children in edges.items() for child in children)
    shown = text(show_flow(FlowView(tasks=tasks, edges=pairs), UUID(int=marked)))
    return [line.rstrip() for line in re.sub(r"0{8}-0000-0000-0000-0{0,12}", "", shown).splitlines()]


def test_a_diamond_is_drawn_with_its_end_beneath_the_last_of_its_parents() -> None:
    """SPEC FLO 57."""
    assert drawn({1: [2, 3], 2: [4], 3: [4]}, {1: "succeeded", 2: "running"}) == [
        "flow of 4 tasks",
        "└── T 1 succeeded",
        "    ├── T 2 running",
        "    └── T 3 blocked",
        "        └── T 4 blocked after 2 tasks",
    ]


def test_many_alike_are_one_line_and_the_one_that_was_asked_for_is_its_own() -> None:
    assert drawn({1: list(range(2, 12))}, {5: "dead"}, marked=7) == [
        "flow of 11 tasks",
        "└── T 1 blocked",
        "    ├── 8 × T blocked",
        "    ├── T 5 dead",
        "    └── T 7 blocked",
    ]


def test_a_long_chain_keeps_to_the_screen_and_to_a_page() -> None:
    lines = drawn({n: [n + 1] for n in range(1, 1000)})
    assert len(lines) < 210
    assert max(map(len, lines)) < 60
    assert lines[-1].endswith("…")
    assert "↓ T" in lines[20]
