"""`/ui/act/{verb}`: what is done with the tasks that are ticked in a list: counted, asked, done one by one, told."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskrunner import actions, reads
from taskrunner.actions import Action
from taskrunner.api.door import door_of
from taskrunner.api.ui.frame import did, do, form_of, local, page
from taskrunner.errors import Conflict, NotFound
from taskrunner.reads import TaskFilter, TaskView
from taskrunner.states import State

MOST = 1000
"""Tasks that are done with at once; more are found by a filter: `taskrunner tasks --help`."""

_TOLD = 40  # ids in a command that is shown: more are no command that anybody types


class Verb(NamedTuple):
    """One thing that is done with several tasks: its words, the states in which it can be done, and the action."""

    word: str
    what: str
    states: frozenset[State]
    make: Callable[[UUID], Action[Any]]
    command: tuple[str, ...]
    danger: bool = False


VERBS = {
    "retry": Verb(
        "Run now or requeue",
        "Pending ones become due at once; each dead one becomes a new task with the same work.",
        frozenset({State.PENDING, State.DEAD}),
        actions.retry_task,
        ("tasks", "retry"),
    ),
    "cancel": Verb(
        "Cancel",
        "Waiting ones end as cancelled; running ones are asked to stop.",
        frozenset({State.PENDING, State.BLOCKED, State.RUNNING}),
        actions.cancel_task,
        ("tasks", "cancel"),
        danger=True,
    ),
    "delete": Verb(
        "Delete",
        "Dead letters are gone for good, with their payloads and errors.",
        frozenset({State.DEAD}),
        actions.delete_dead,
        ("dead", "delete", "--yes"),
        danger=True,
    ),
}


def install(app: FastAPI) -> None:
    """Serve the question and its answer."""
    app.add_route("/ui/act/{verb}", ask_many, ["GET"], include_in_schema=False)
    app.add_route("/ui/act/{verb}", do_many, ["POST"], include_in_schema=False)


async def ask_many(request: Request) -> Response:
    """Ask before something is done with the tasks that are ticked."""
    name = request.path_params["verb"]
    _verb(name)
    return await ask_about(request, name, _ids(request.query_params.getlist("id")))


async def ask_about(request: Request, name: str, ids: Sequence[UUID]) -> Response:
    """Say how many tasks it is about, in which states, and ask."""
    verb = _verb(name)
    found = await _found(request, ids)
    able = [task.id for task in found if task.state in verb.states]
    back = local(request.query_params.get("back") or request.headers.get("hx-current-url"))
    return page(
        request,
        "ask.html",
        title=f"{verb.word}: {_tasks(len(able))}?",
        text=f"{_counted(found, ids)} {verb.what}{_unable(found, verb)}",
        verb=f"{verb.word}: {_tasks(len(able))}",
        command=_command(verb, able),
        back=back,
        danger=verb.danger,
        fields=(),
        ticked=able,
        address=f"/ui/act/{name}",
    )


async def do_many(request: Request) -> Response:
    """Do it to each; one that has changed meanwhile does not hold up the others."""
    verb = _verb(request.path_params["verb"])
    ids = _ids((await form_of(request)).get("id", []))
    done: list[UUID] = []
    refused: list[str] = []
    for id_ in ids:
        try:
            await do(request, verb.make(id_))
        except (Conflict, NotFound) as error:
            refused.append(str(error))
        else:
            done.append(id_)
    text = f"{verb.word}: done with {_tasks(len(done))}."
    if refused:
        text += f" Not with {len(refused)}: {refused[0]}" + ("; and others" if len(refused) > 1 else "")
    return await did(request, text, command=_command(verb, done))


def _verb(name: str) -> Verb:
    verb = VERBS.get(name)
    if verb is None:
        raise HTTPException(404)
    return verb


def _ids(given: Sequence[str]) -> list[UUID]:
    try:
        ids = list(dict.fromkeys(map(UUID, given)))
    except ValueError:
        raise HTTPException(422, "one of the ids is none: go back and tick the tasks again") from None
    if not ids:
        raise HTTPException(422, "no task is ticked: go back and tick some")
    if len(ids) > MOST:
        raise HTTPException(422, f"at most {MOST} tasks at once, not {len(ids)}")
    return ids


async def _found(request: Request, ids: Sequence[UUID]) -> list[TaskView]:
    """Return those that are there; dead letters that were requeued are not."""
    found = await door_of(request).run(lambda: reads.list_tasks(TaskFilter(ids=tuple(ids), limit=MOST)))
    return found.items


def _counted(found: Iterable[TaskView], ids: Sequence[UUID]) -> str:
    states = Counter(task.state.value for task in found)
    words = [f"{count} {state}" for state, count in sorted(states.items())]
    gone = len(ids) - states.total()
    return f"{_tasks(len(ids))}: " + ", ".join(words + ([f"{gone} no longer there"] if gone else [])) + "."


def _unable(found: Iterable[TaskView], verb: Verb) -> str:
    states = Counter(task.state.value for task in found if task.state not in verb.states)
    if not states:
        return ""
    return " Left as they are: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + "."


def _tasks(count: int) -> str:
    return f"{count:,} task{'' if count == 1 else 's'}"


def _command(verb: Verb, ids: Sequence[UUID]) -> str:
    words = shlex.join(["taskrunner", *verb.command])
    if not ids or len(ids) > _TOLD:
        return ""
    if len(ids) == 1:
        return f"{words} {ids[0]}"
    return f"for id in {' '.join(map(str, ids))}; do {words} $id; done"
