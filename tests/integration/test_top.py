"""`taskrunner top`, driven by its keys on a real database; the screen has the usual 80 by 24."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from taskrunner.cli import main
from taskrunner.cli.session import Session, reconnecting
from taskrunner.db import connect
from taskrunner.registry import Registry
from taskrunner.schedules import Planner
from taskrunner.settings import Settings
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.top.app import Top
from taskrunner.top.desk import Desk
from tests.engine import WAIT, Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Screen:
    """The application as a person at the terminal has it."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                await self.pilot.pause(0.02)

    async def shows(self, text: str, *, where: str = "") -> None:
        await self.until(lambda: text in (self.line(where) if where else self.text()))

    def line(self, name: str) -> str:
        return str(self.app.screen_stack[0].query_one(f"#{name}", Static).content)

    def rows(self) -> list[str]:
        table = self.app.screen_stack[0].query_one(DataTable)
        return [" ".join(str(cell) for cell in table.get_row_at(row)) for row in range(table.row_count)]

    def text(self) -> str:
        """All that is on the screen, dialogues too."""
        over = [str(each.content) for screen in self.app.screen_stack[1:] for each in screen.query(Static)]
        return "\n".join([self.line("head"), self.line("tabs"), *self.rows(), self.line("foot"), *over])


@contextmanager
def desk_of(engine: Engine) -> Iterator[Desk]:
    with (
        connect(engine.url, name="taskrunner cli") as connection,
        reconnecting(Session(Settings(), engine.url, connection)) as current,
        closing(Desk(current, lambda: Planner(Registry()))) as desk,
    ):
        yield desk


@asynccontextmanager
async def top(engine: Engine) -> AsyncIterator[Screen]:
    with desk_of(engine) as desk:
        app = Top(desk, desk.look("queues"))
        async with app.run_test(size=(80, 24)) as pilot:
            yield Screen(app, pilot)


def running(engine: Engine, count: int = 1) -> list[UUID]:
    return [claim.id for claim in engine.claim(engine.join(), count)]


def bury(engine: Engine, count: int = 1) -> list[UUID]:
    engine.add(count)
    claims = engine.claim(runner := engine.join(), count)
    for claim in claims:
        engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail='[{"message": "SMTP is down"}]')]))
    return [claim.id for claim in claims]


def audited(engine: Engine) -> list[tuple[str, str]]:
    rows = engine.rows("SELECT actor, action, target FROM taskrunner.audit ORDER BY id")
    assert all(actor.startswith("cli:") and "@" in actor for actor, _, _ in rows)
    return [(action, target) for _, action, target in rows]


async def test_each_tab_shows_what_there_is_within_80_columns(engine: Engine) -> None:
    engine.add(5, queue="mail")
    bury(engine)
    engine.add(2)
    (busy, failing) = engine.claim(runner := engine.join(), 2)
    engine.retry(runner, failing, delay=300)
    engine.conn.execute('UPDATE taskrunner.task SET progress = \'{"done": 1, "total": 4, "message": null}\'')
    async with top(engine) as screen:
        await screen.shows("mail 5 5 0 0")
        assert "due 5  running 1  retrying 1  dead 1" in screen.line("head")
        await screen.press("l")
        await screen.shows(f"…{str(busy.id)[-6:]} T default  1 paper:1 1 of 4 (25%)")
        await screen.press("right")
        await screen.shows(f"…{str(failing.id)[-6:]} T default 1 5m no")
        await screen.press("4")
        await screen.shows("SMTP is down")
        await screen.press("l")
        await screen.shows("runner paper:1 0/100")
        await screen.press("l", "l")
        await screen.shows("mail 5 5 0 0")
        assert all(len(screen.line(name)) <= 80 for name in ("head", "tabs"))


async def test_p_pauses_a_queue_and_resumes_it_and_both_are_in_the_audit_trail(engine: Engine) -> None:
    engine.add(queue="mail")
    async with top(engine) as screen:
        await screen.press("p")
        await screen.shows("done: taskrunner queues pause mail")
        await screen.shows("paused nobody serves it")
        await screen.press("p")
        await screen.shows("done: taskrunner queues resume mail")
    assert audited(engine) == [("queue.pause", "mail"), ("queue.resume", "mail")]


async def test_c_and_r_steer_the_chosen_task_which_the_cursor_stays_on(engine: Engine) -> None:
    engine.add(3)
    first, second, _ = sorted(running(engine, 3), reverse=True)
    async with top(engine) as screen:
        await screen.press("2")
        await screen.until(lambda: len(screen.rows()) == 3)
        await screen.press("j")
        engine.conn.execute("DELETE FROM taskrunner.task WHERE id = %s", [first])
        await screen.until(lambda: len(screen.rows()) == 2)
        await screen.press("c")
        await screen.shows(f"done: taskrunner tasks cancel {second}")
    asked = "SELECT id FROM taskrunner.task WHERE cancel_requested_at IS NOT NULL"
    assert engine.rows(asked) == [(second,)]


async def test_r_lets_a_failed_task_try_now(engine: Engine) -> None:
    engine.add()
    (claim,) = engine.claim(runner := engine.join())
    engine.retry(runner, claim, delay=300)
    async with top(engine) as screen:
        await screen.press("3")
        await screen.shows("5m no")
        await screen.press("r")
        await screen.shows("now no")
    assert audited(engine) == [("task.retry", str(claim.id))]


async def test_upper_case_asks_first_and_only_y_is_a_yes(engine: Engine) -> None:
    """Dead letters: one requeued, one deleted, then the rest at once."""
    ids = set(bury(engine, 5))
    async with top(engine) as screen:
        await screen.press("4")
        await screen.until(lambda: len(screen.rows()) == 5)
        await screen.press("D")
        await screen.shows("y yes   n no")
        await screen.press("n")
        await screen.until(lambda: len(screen.app.screen_stack) == 1)
        assert audited(engine) == []
        await screen.press("D")
        await screen.shows("y yes   n no")
        await screen.press("y")
        await screen.until(lambda: len(screen.rows()) == 4)
        await screen.press("r")
        await screen.until(lambda: len(screen.rows()) == 3)
        await screen.press("R")
        await screen.shows("requeue ALL: 3 tasks?")
        await screen.press("y")
        await screen.until(lambda: screen.rows() == [])
    noted = audited(engine)
    assert [action for action, _ in noted] == ["dead.delete", *["dead.requeue"] * 4]
    assert {UUID(target) for _, target in noted} == ids
    assert engine.value("SELECT count(*) FROM taskrunner.task") == 4


async def test_a_filter_hides_other_rows_until_escape(engine: Engine) -> None:
    engine.add(queue="mail")
    engine.add(queue="reports")
    async with top(engine) as screen:
        await screen.until(lambda: len(screen.rows()) == 2)
        await screen.press("slash", *"REPO")
        await screen.until(lambda: len(screen.rows()) == 1)
        assert screen.app.query_one(Input).has_class("shown")
        await screen.press("enter")
        assert "only 'repo'" in screen.line("foot")
        await screen.press("p")
        await screen.shows("taskrunner queues pause reports")
        await screen.press("escape")
        await screen.until(lambda: len(screen.rows()) == 2)


async def test_details_and_why_are_a_key_away_and_help_names_all_keys(engine: Engine) -> None:
    (id_,) = bury(engine)
    async with top(engine) as screen:
        await screen.press("4")
        await screen.shows("SMTP is down")
        await screen.press("enter")
        await screen.shows(f'"id": "{id_}"')
        await screen.press("escape", "w")
        await screen.shows("dead, dead: it died")
        await screen.press("q", "question_mark")
        await screen.shows("UPPER CASE is for what cannot be undone")
        for words in ("requeue ALL", "DELETE", "filter the rows"):
            assert words in screen.text()


async def test_what_is_refused_is_said_and_changes_nothing(engine: Engine) -> None:
    (id_,) = bury(engine)
    async with top(engine) as screen:
        await screen.press("4")
        await screen.shows("SMTP is down")
        await screen.press("space")
        await screen.shows("HELD")
        engine.conn.execute("DELETE FROM taskrunner.dead_letter")
        await screen.press("r")
        await screen.shows("refused: ")
        assert str(id_) in screen.line("foot")
    assert audited(engine) == []


async def test_it_outlives_the_database_going_away(engine: Engine) -> None:
    engine.add(queue="mail")
    name = sql.Identifier(engine.db.name)
    async with top(engine) as screen:
        await screen.shows("mail 1 1")
        engine.db.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        for pid in engine.backends("taskrunner cli"):
            engine.value("SELECT pg_terminate_backend(%s)", pid)
        await screen.shows("the database cannot be reached", where="foot")
        assert screen.rows()[0].startswith("mail 1 1")
        await screen.press("p")
        await screen.shows("the database cannot be reached", where="foot")
        engine.db.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        engine.add(queue="mail")
        await screen.shows("mail 2 2")
        await screen.shows("? keys", where="foot")


async def test_hostile_texts_are_shown_as_they_are(engine: Engine) -> None:
    """Neither markup of the screen's own, nor control characters."""
    engine.add(queue="[bold]x[/bold] [@click=app.quit]y")
    bury(engine)
    engine.conn.execute("""UPDATE taskrunner.dead_letter SET errors = '[{"message": "[/] \\u001b[2J [red"}]'""")
    async with top(engine) as screen:
        await screen.shows("[bold]x[/bold] [@click=app.quit]y")
        await screen.press("4")
        await screen.shows("[/] �[2J [red")
        await screen.press("enter")
        await screen.shows("\\u001b[2J")


def test_without_a_terminal_it_says_what_to_use_instead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", engine.url)
    with pytest.raises(SystemExit) as left:
        main(["top"])
    assert left.value.code == 2
    assert "`taskrunner status --watch`" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("taskrunner.cli.top._is_terminal", lambda: True)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.delitem(sys.modules, "taskrunner.top.app", raising=False)
    with pytest.raises(SystemExit) as left:
        main(["top"])
    assert left.value.code == 3
    assert "pip install 'taskrunner[top]'" in capsys.readouterr().err
