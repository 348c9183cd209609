"""The screen of `taskrunner top`: tabs, a table, a line below; it looks again each second, or at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import psycopg
from pydantic_core import to_json
from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from taskrunner import actions
from taskrunner.actions import Action
from taskrunner.console.words import figure, rate, span, stamp
from taskrunner.errors import DatabaseUnreachable, TaskrunnerError
from taskrunner.reads import DeadView, Queue, Schedule, TaskView
from taskrunner.states import State
from taskrunner.top.desk import Desk, Sight
from taskrunner.top.dialogues import Page, Question
from taskrunner.top.tabs import KEYS, TABS, Row, Tab
from taskrunner.wording import first_line

T = TypeVar("T")

SECOND = 1.0
"""Seconds between two looks."""

SHARE = 10.0
"""How many times as long as a look takes the screen rests: a tenth of one connection, whatever the tables hold."""

_CSS = """
Screen { layers: base; }
#head, #tabs, #foot { height: 1; padding: 0 1; }
#head { text-style: bold; }
#filter { display: none; height: 1; border: none; padding: 0 1; }
#filter.shown { display: block; }
DataTable { height: 1fr; overflow-x: hidden; }
.box { width: 90%; height: auto; max-height: 90%; background: $surface; border: round $primary; padding: 0 1; }
Question, Page { align: center middle; }
"""


class Top(App[None]):
    """Shows what there is, and does what its keys say."""

    CSS = _CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h,left", "tab(-1)", priority=False),
        Binding("l,right", "tab(1)", priority=False),
        *(Binding(str(number + 1), f"show({number})") for number in range(len(TABS))),
        Binding("j", "move(1)"),
        Binding("k", "move(-1)"),
        Binding("g", "end(False)"),
        Binding("G", "end(True)"),
        Binding("slash", "filter"),
        Binding("escape", "unfilter"),
        Binding("space", "hold"),
        Binding("question_mark", "help"),
        Binding("q", "quit"),
        Binding("w", "why"),
        *(Binding(key, f"press('{key}')") for key in ("r", "c", "p", "R", "D")),
    ]

    def __init__(self, desk: Desk, first: Sight) -> None:
        """`first` is what the screen begins with: where there is no database, there is no screen."""
        super().__init__()
        self._desk, self._sight = desk, first
        self._tab: Tab = TABS[0]
        self._words, self._held = "", False
        self._rows: dict[str, Row] = {}
        self._trouble, self._said = "", ""
        self._strange = False  # the cursor stands on another row than the one that was chosen
        self._done: set[str] = set()  # the rows of the last action, which it may have taken away
        self._again = asyncio.Event()

    # ── the screen ───────────────────────────────────────────────────────────────────────────────────────────────

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static(id="head")
        yield Static(id="tabs")
        table: DataTable[Text] = _Table(id="rows", cursor_type="row", zebra_stripes=False)
        yield table
        yield Input(placeholder="only rows with this text", id="filter", compact=True)
        yield Static(id="foot")

    def on_mount(self) -> None:
        """Begin to look."""
        self._columns()
        self.query_one(_Table).focus()
        self._draw()
        self._look_on()

    @work(exclusive=True)
    async def _look_on(self) -> None:
        """Look again and again; an action, or another tab, does not wait for its second."""
        while True:
            tab = self._tab
            if not self._held:
                try:
                    sight = await asyncio.to_thread(self._desk.look, tab.name)
                except (TaskrunnerError, psycopg.Error, OSError) as error:
                    self._trouble = first_line(error)
                else:
                    self._trouble = ""
                    if tab is self._tab:
                        self._sight = sight
                if tab is self._tab:
                    self._draw()
            if tab is self._tab:
                rest = max(SECOND, SHARE * self._sight.took)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), rest)
            self._again.clear()

    def _columns(self) -> None:
        table = self.query_one(_Table)
        table.clear(columns=True)
        for name in self._tab.columns:
            table.add_column(Text(name, justify="right" if name in self._tab.right else "left"), key=name or "words")

    def _draw(self) -> None:
        """Show the last sight; the cursor stays on the thing it is on, wherever that is now."""
        table = self.query_one(_Table)
        chosen, place = self._chosen(), table.cursor_row
        rows = [row for row in self._tab.rows(self._sight) if self._fits(row)]
        self._rows = {row.key: row for row in rows}
        table.clear()
        for row in rows:
            table.add_row(*row.cells, key=row.key)
        keys = list(self._rows)
        if keys:
            there = chosen is not None and chosen.key in self._rows
            self._strange |= chosen is not None and not there and chosen.key not in self._done
            place = keys.index(chosen.key) if chosen is not None and there else place
            table.move_cursor(row=min(place, len(keys) - 1), animate=False)
        self._tell()

    def _fits(self, row: Row) -> bool:
        return not self._words or any(self._words in text.plain.lower() for text in (*row.cells, Text(row.key)))

    def _tell(self) -> None:
        counts, recent = self._sight.status.tasks, self._sight.recent
        head = f"{stamp(self._sight.now)}  due {figure(counts.due)}  running {figure(counts.running)}"
        head += f"  retrying {figure(counts.retrying)}  dead {figure(counts.dead)}  {rate(recent.rate)}"
        head += f"  wait {span(recent.wait_seconds)}" if recent.wait_seconds is not None else ""
        self.query_one("#head", Static).update(Text(head, no_wrap=True, overflow="ellipsis"))
        named = [
            (f" {number} {tab.name} ", "reverse bold" if tab is self._tab else "") for number, tab in enumerate(TABS, 1)
        ]
        self.query_one("#tabs", Static).update(Text.assemble(*named, no_wrap=True, overflow="crop"))
        self.query_one("#foot", Static).update(self._foot())

    def _foot(self) -> Text:
        if self._trouble:
            return Text(self._trouble, "bold red", no_wrap=True, overflow="ellipsis")
        if self._said:
            return Text(self._said, "green", no_wrap=True, overflow="ellipsis")
        held = ["HELD: space goes on"] if self._held else []
        own = [f"{key} {words}" for key, words in self._tab.keys.items()]
        only = [f"only {self._words!r}"] if self._words else []
        empty = [] if self._rows else ["nothing to show"]
        return Text("   ".join([*held, "? keys", *only, *empty, *own]), "dim", no_wrap=True, overflow="ellipsis")

    def _chosen(self) -> Row | None:
        table = self.query_one(_Table)
        if not table.row_count or not table.is_valid_coordinate(table.cursor_coordinate):
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._rows.get(key or "")

    # ── keys of all tabs ─────────────────────────────────────────────────────────────────────────────────────────

    def action_tab(self, step: int) -> None:
        """Go to the next tab, or the one before."""
        self.action_show((TABS.index(self._tab) + step) % len(TABS))

    def action_show(self, number: int) -> None:
        """Go to a tab."""
        self._tab, self._said, self._strange = TABS[number], "", False
        self._sight = self._sight._replace(tasks=())
        self._columns()
        self._draw()
        self._again.set()

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        table, self._strange = self.query_one(_Table), False
        table.move_cursor(row=max(0, table.cursor_row + step), animate=False)

    def action_end(self, last: bool) -> None:
        """Move the cursor to the first row, or the last."""
        self.query_one(_Table).move_cursor(row=len(self._rows) - 1 if last else 0, animate=False)

    def action_filter(self) -> None:
        """Ask for the text that rows must have."""
        field = self.query_one(Input)
        field.add_class("shown")
        field.focus()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        field = self.query_one(Input)
        field.value = self._words = self._said = ""
        self._close_filter()

    @on(Input.Changed)
    def _filtered(self, event: Input.Changed) -> None:
        self._words = event.value.strip().lower()
        self._draw()
        self._strange = False

    @on(Input.Submitted)
    def _close_filter(self) -> None:
        self.query_one(Input).remove_class("shown")
        self.query_one(_Table).focus()
        self._draw()

    def action_hold(self) -> None:
        """Hold the screen still, or let it go on."""
        self._held = not self._held
        self._tell()
        self._again.set()

    def action_help(self) -> None:
        """Show the keys."""
        lines = [f"{key:<8}{words}" for key, words in KEYS.items()]
        own = [f"{key:<8}{words}" for key, words in self._tab.keys.items()] or ["none"]
        small = "UPPER CASE is for what cannot be undone, and asks first. Each action is in the audit trail."
        self.push_screen(Page(Text("\n".join(["Keys", *lines, "", f"On {self._tab.name}", *own, "", small]))))

    # ── keys that look at, or change, the chosen row ─────────────────────────────────────────────────────────────

    @on(DataTable.RowSelected)
    @work
    async def _open(self) -> None:
        """Show all about the chosen thing."""
        row = self._chosen()
        if row is None:
            return
        thing = row.thing
        if isinstance(thing, TaskView) and (found := await self._ask(partial(self._desk.task, thing.id))) is not None:
            thing = found
        shown = to_json(thing.model_dump(mode="json"), indent=2).decode()
        traces = [str(error.get("traceback") or "") for error in getattr(thing, "errors", [])[-1:]]
        await self.push_screen(Page(Text("\n\n".join([shown, *filter(None, traces)]))))

    @work
    async def action_why(self) -> None:
        """Show why the chosen task is as it is."""
        row = self._chosen()
        if row is None or not isinstance(row.thing, TaskView):
            return
        found = await self._ask(partial(self._desk.why, row.thing.id))
        if found is not None:
            facts = [f"· {name.replace('_', ' ')}: {value}" for name, value in found.facts.items()]
            lines = [f"{found.state}, {found.reason}: {found.answer}", *facts, *found.commands]
            await self.push_screen(Page(Text("\n".join(lines))))

    @work
    async def action_press(self, key: str) -> None:
        """Do what the key means on this tab, to the chosen row; upper case asks first."""
        row, rows = self._chosen(), list(self._rows.values())
        if row is None or key not in self._tab.keys:
            return
        if self._strange:  # the row that was meant may have ended a moment ago
            self._strange, self._said = False, "the chosen row has gone: press again to mean this one"
            self._tell()
            return
        wanted = await self._ask(partial(self._actions, key, row, rows))
        if not wanted or (key.isupper() and not await self._sure(key, wanted)):
            return
        self._done = {row.key} if len(wanted) == 1 else set(self._rows)
        done = 0
        for action in wanted:
            command = await self._ask(partial(self._desk.act, action))
            if command is None:
                break
            done += 1
            self._said = f"done: {command}"
        if done > 1:
            self._said = f"done: {done} times as {wanted[0].command}"
        self._tell()
        self._again.set()

    async def _sure(self, key: str, wanted: list[Action[Any]]) -> bool:
        what = wanted[0].target if len(wanted) == 1 else f"{len(wanted)} tasks"
        question: Screen[bool] = Question(f"{self._tab.keys[key]}: {what}?", wanted[0].command)
        return await self.push_screen_wait(question)

    def _actions(self, key: str, row: Row, rows: list[Row]) -> list[Action[Any]]:
        thing = row.thing
        if isinstance(thing, Queue):
            return [self._desk.pause(thing)]
        if isinstance(thing, Schedule):
            return [self._desk.pause(thing) if key == "p" else self._desk.run_schedule(thing)]
        if key == "c":
            return [actions.cancel_task(thing.id)]
        if key == "D":
            return [actions.delete_dead(thing.id)]
        if key == "R":
            return [actions.requeue_dead(UUID(each.key)) for each in rows]
        dead = isinstance(thing, DeadView) or thing.state is State.DEAD
        return [actions.requeue_dead(thing.id) if dead else actions.retry_task(thing.id)]

    async def _ask(self, what: Callable[[], T]) -> T | None:
        """Do it in a thread; what is refused, or cannot be reached, is said below and None returned."""
        try:
            value = await asyncio.to_thread(what)
        except DatabaseUnreachable as error:
            self._trouble = first_line(error)
        except (TaskrunnerError, psycopg.Error, OSError) as error:
            self._said = f"refused: {first_line(error)}"
        else:
            return value
        self._tell()
        return None


class _Table(DataTable[Text]):
    """The rows; left and right are for tabs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "app.tab(-1)", show=False),
        Binding("right", "app.tab(1)", show=False),
    ]
