"""Tasks in all their states as one list: live ones, history and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from taskrunner.db import Op, Row, Steps, scalar
from taskrunner.idtime import made_before
from taskrunner.reads.conditions import Conditions, conditions
from taskrunner.reads.views import DeadView, Page, TaskFilter, TaskView
from taskrunner.redaction import covered, unmarked
from taskrunner.statements import reads as sql
from taskrunner.statements.successor import FOLLOW
from taskrunner.states import HISTORY, LIVE, State

T = TypeVar("T", bound=TaskView)

ROOM = 50_000
"""Rows of one table that a page looks at, at most: some 50 ms, whatever it is asked for (docs/decisions/016)."""

APART = 4
"""How much less of the rare states of history: each of their rows is on a page of its own."""

DEAR = 4
"""How much less where each row's JSON has to be looked into."""

_TASK_FIELDS, _DEAD_FIELDS = tuple(TaskView.model_fields), tuple(DeadView.model_fields)
_SUCCESSOR_FIELDS = ["type", "queue", "tenant", "priority", "payload", "maturity_at", "created_at", "meta"]
_WAITING: dict[str, Any] = {
    "state": State.PENDING,
    "tries": 0,
    "crashes": 0,
    "started_at": None,
    "finished_at": None,
    "runner_id": None,
    "errors": [],
    "result": None,
    "progress": None,
}
_OPEN = " AND t.requeued_as IS NULL"
_PAGE = " ORDER BY t.id DESC LIMIT %(limit)s"
_LAST = " ORDER BY t.id DESC OFFSET %(room)s - 1 LIMIT 1"

_AFTER, _FLOOR, _REACH = " AND t.id < %(after)s", " AND t.id >= %(floor)s", " AND t.finished_at >= %(reach)s"

# As text and not as a parameter, or a prepared plan could not use the index of the rare ones.
_STATES = {state: f" AND t.state = '{state.value}'" for state in State}
_RARE = tuple(state for state in HISTORY if state is not State.SUCCEEDED)


class Source(NamedTuple):
    """One table of a list: its select, what a page of it is counted by, and the conditions that are its own.

    `counted` is the table as the reach of a page counts its rows, with what an index answers; None counts nothing,
    where the rows asked for are few and found by an index of their own.
    """

    select: str
    counted: str | None
    own: str = ""
    ended: bool = False


def task_by_id(id_: UUID, *, whole: bool = False) -> Op[TaskView | None]:
    """Return a task in whatever state it is, a dead letter that was requeued included; None if nobody knows it.

    Without its secrets, as all that is here; `whole`, for code, as it is stored.
    """
    read = _whole_views if whole else views
    return Op(sql.ONE, {"id": id_}, lambda rows: read(rows)[0] if rows else None)


def successor_by_id(id_: UUID, *, whole: bool = False) -> Steps[TaskView | None]:
    """Return work that waits for a running task of the same key to end, as pending; None if nobody knows it.

    If that task ran again and took the work over, it is returned, under its own id.
    """
    places = yield Op(FOLLOW, {"id": id_}, list)
    if not places:
        return None
    place = places[0]
    if place[1] is not None:
        return _view({**_WAITING, **dict(zip(_SUCCESSOR_FIELDS, place[1:], strict=True)), "id": id_}, whole=whole)
    come: TaskView | None = yield task_by_id(id_, whole=whole)
    return come or (yield task_by_id(place[0], whole=whole))


def ended_tasks(ids: Collection[UUID]) -> Op[list[TaskView]]:
    """Return those of the tasks that have ended, whatever their end; for code, to which results come whole."""
    return Op(sql.ENDED_ONES, {"ids": list(ids)}, _views_with_results)


def list_tasks(
    wanted: TaskFilter, room: int = ROOM, *, whole: bool = False, brief: bool = False
) -> Steps[Page[TaskView]]:
    """Return a page of tasks, the newest first; a dead letter that was requeued is its new task's business.

    The order is that of the ids, which for UUIDv7 is that of their creation. A page looks at no more than `room` rows
    of each table, and a quarter of them where each one's JSON is looked into: where few of them are wanted it is short,
    or empty, and says where to go on. Those that are `brief` have what a line shows: the beginning of the payload and
    of the last error, and neither result, progress nor meta.
    """
    if wanted.state in _RARE:
        room = max(room // APART, 1)
    return (yield from _paged(_sources(wanted.state, brief), wanted, room, _whole_views if whole else views))


def retrying(limit: int, room: int = ROOM) -> Op[list[TaskView]]:
    """Return tasks that failed and wait for their next try, the next one first, among the newest `room` live ones."""
    return Op(sql.RETRYING, {"limit": limit, "room": room}, views)


def dead_letters(
    wanted: TaskFilter, *, requeued: bool = False, room: int = ROOM, brief: bool = False
) -> Steps[Page[DeadView]]:
    """Return a page of dead letters, the newest first; with `requeued` also those that a person has requeued.

    For `brief` see `list_tasks`.
    """
    source = Source(
        sql.DEAD_LETTER_BRIEF if brief else sql.DEAD_LETTER, sql.DEAD_IDS, "" if requeued else _OPEN, ended=True
    )
    return (yield from _paged([source], wanted, room, _dead_views))


def dead_letter_by_id(id_: UUID) -> Op[DeadView | None]:
    """Return a dead letter, requeued or not."""
    return Op(sql.ONE_DEAD_LETTER, {"id": id_}, lambda rows: _dead_views(rows)[0] if rows else None)


def _sources(state: State | None, brief: bool) -> list[Source]:
    own = "" if state is None else _STATES[state]
    found = []
    if state is None or state in LIVE:
        # What runs has an index of its own, and is never much.
        found.append(Source(sql.LIVE, None if state is State.RUNNING else sql.LIVE_IDS, own))
    if state is None or state in HISTORY:
        found.append(Source(sql.ENDED, sql.ENDED_IDS + (own if state in _RARE else ""), own, ended=True))
    if state in (None, State.DEAD):
        found.append(Source(sql.DEAD, sql.DEAD_IDS, _OPEN, ended=True))
    return [source._replace(select=sql.BRIEF[source.select]) for source in found] if brief else found


def _paged(
    sources: Sequence[Source], wanted: TaskFilter, room: int, read: Callable[[Sequence[Row]], list[T]]
) -> Steps[Page[T]]:
    """Find out how far down the page may look, and look."""
    asked = conditions(wanted)
    params: dict[str, Any] = {**dict(wanted), **asked.params, "room": room, "floor": None, "reach": None}
    params["after"] = _start(wanted)
    if wanted.since is not None and any(source.ended for source in sources):
        params["reach"] = yield Op(sql.REACH, params, scalar)
    if asked.dear:
        params["room"] = max(room // DEAR, 1)
    narrow = wanted.state is not None or asked.texts
    counted = _floor(sources, params) if narrow and not wanted.ids else ""
    params["floor"] = (yield Op(counted, params, scalar)) if counted else None
    items: list[T] = yield Op(_merged([_page(source, asked, params) for source in sources]), params, read)
    return Page(items=items, next=items[-1].id if len(items) == wanted.limit else params["floor"])


def _floor(sources: Sequence[Source], params: Mapping[str, Any]) -> str:
    """Return the statement for the lowest id to look at."""
    parts = [source.counted + _bounds(source, params) + _LAST for source in sources if source.counted]
    return "SELECT greatest((" + "),\n(".join(parts) + "))" if parts else ""


def _page(source: Source, asked: Conditions, params: Mapping[str, Any]) -> str:
    """Put what is wanted behind the select of one table."""
    return source.select + source.own + "".join(asked.texts) + _bounds(source, params) + _PAGE


def _start(wanted: TaskFilter) -> UUID | None:
    """Return the id to begin below: that of the page before, or one that was made after `until`."""
    if wanted.until is None:
        return wanted.after
    end = made_before(wanted.until)
    return end if wanted.after is None else min(end, wanted.after)


def _bounds(source: Source, params: Mapping[str, Any]) -> str:
    """Say which part of a table a page may look at: the ids, and of what has ended the partitions."""
    bounds = [text for name, text in (("after", _AFTER), ("floor", _FLOOR)) if params[name] is not None]
    return "".join(bounds) + (_REACH if source.ended and params["reach"] is not None else "")


def _merged(pages: Sequence[str]) -> str:
    if len(pages) == 1:
        return pages[0]
    return "(" + ")\nUNION ALL (".join(pages) + ")\n ORDER BY id DESC LIMIT %(limit)s"


# All views are made here, so that nobody who shows one can forget to cover what is secret in it.


def views(rows: Sequence[Row]) -> list[TaskView]:
    return [_view(row) for row in _named(rows)]


def _whole_views(rows: Sequence[Row]) -> list[TaskView]:
    return [_view(row, whole=True) for row in _named(rows)]


def _views_with_results(rows: Sequence[Row]) -> list[TaskView]:
    return [TaskView(**{**covered(row), "result": row["result"]}) for row in _named(rows)]


def _view(row: dict[str, Any], *, whole: bool = False) -> TaskView:
    return TaskView(**({**row, "meta": unmarked(row["meta"])} if whole else covered(row)))


def _named(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    return (dict(zip(_TASK_FIELDS, row, strict=True)) for row in rows)


def _dead_views(rows: Sequence[Row]) -> list[DeadView]:
    return [DeadView(**covered(dict(zip(_DEAD_FIELDS, row, strict=True)))) for row in rows]
