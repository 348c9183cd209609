"""`/ui/tasks`: the list, found by what people type; every state of it is its address."""

from __future__ import annotations

import shlex
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from taskrunner import reads
from taskrunner.api.door import Door, door_of
from taskrunner.api.ui.act import VERBS
from taskrunner.api.ui.frame import page
from taskrunner.bulk import PARTS
from taskrunner.db import Steps
from taskrunner.errors import InvalidArgument
from taskrunner.listing import searched
from taskrunner.reads import Page, TaskFilter, TaskView
from taskrunner.search import quoted, term
from taskrunner.states import State

FACETS = ("type", "queue", "tenant")
"""What is asked for beside the search, and becomes a part of it."""

_EMPTY: Page[TaskView] = Page(items=[])


def install(app: FastAPI) -> None:
    """Serve the list."""
    app.add_route("/ui/tasks", tasks, include_in_schema=False)


async def tasks(request: Request) -> Response:
    """Show a page of the tasks that are searched for."""
    door, query = door_of(request), request.query_params
    text = query.get("q", "").strip()
    if any(name in query for name in FACETS):
        return _canonical(text, {name: query.get(name, "") for name in FACETS})
    if found := _id(text):
        return RedirectResponse(f"/ui/tasks/{found}", 303)
    now, known = await door.run(_around)
    try:
        wanted = searched(text, now, after=_after(query.get("after")))
    except InvalidArgument as error:
        wanted, problem = TaskFilter(), str(error)
        shown = _EMPTY
    else:
        problem, shown = "", await door.run(lambda: reads.list_tasks(wanted, brief=True))
    return page(
        request,
        "tasks.html",
        status=422 if problem else 200,
        title="Tasks",
        now=now,
        text=text,
        problem=problem,
        wanted=wanted,
        shown=shown,
        tabs=[(state, _url(with_word(text, "state", state))) for state in ("", *State)],
        matching=_matching(wanted) if text and not problem else {},
        types=sorted({*known, *types_of(door)}),
        queues=sorted({task_type.queue for task_type in door.types}),
        first=_url(text) if query.get("after") else "",
        older=_url(text, str(shown.next)) if shown.next else "",
    )


def _around() -> Steps[tuple[datetime, list[str]]]:
    return (yield reads.now()), (yield reads.known_types())


def _matching(wanted: TaskFilter) -> dict[str, str]:
    """Return what can be done to all that a search finds: the verbs, and the words on their buttons."""
    fit = {verb: {state for part in parts for state in part.states} for verb, parts in PARTS.items()}
    verbs = ["retry", "cancel"] if wanted.state is None else [v for v in fit if wanted.state in fit[v] and v != "retry"]
    return {verb: VERBS[verb].word for verb in verbs}


def types_of(door: Door) -> list[str]:
    """Return the names of the task types that this process knows."""
    return [task_type.name for task_type in door.types]


def _canonical(text: str, facets: dict[str, str]) -> Response:
    for name, value in facets.items():
        text = with_word(text, name, value.strip())
    return RedirectResponse(_url(text), 303)


def with_word(text: str, name: str, value: str) -> str:
    """Return a search with this word instead of those of that name; without one where the value is empty."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text  # the page says what is wrong with it
    kept = [_written(word) for word in words if word.partition(":")[0] != name]
    return " ".join([*kept, term(name, value)] if value else kept)


def _written(word: str) -> str:
    name, colon, value = word.partition(":")
    return term(name, value) if colon else quoted(word)


def _url(text: str, after: str = "") -> str:
    given = {name: value for name, value in (("q", text), ("after", after)) if value}
    return "/ui/tasks" + (f"?{urlencode(given)}" if given else "")


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _after(text: str | None) -> UUID | None:
    if text and _id(text) is None:
        raise HTTPException(422, "after is the id of a task: go back to the first page")
    return _id(text or "")
