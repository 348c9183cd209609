"""`/ui/tasks/{id}`: one task with all that is known of it, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskrunner import actions, reads
from taskrunner.actions import Action
from taskrunner.api.door import door_of
from taskrunner.api.ui.frame import ask, check_writes, did, do, form_of, page
from taskrunner.db import Steps
from taskrunner.errors import InvalidArgument
from taskrunner.reads import AuditEntry, FlowTask, FlowView, LogPage, TaskDetail, TaskView, Why
from taskrunner.settings import parse_duration
from taskrunner.states import HISTORY, State

LINES = 200
"""Log lines on a page."""

SHOWN = 200
"""Tasks of a flow that are drawn."""


class Event(NamedTuple):
    """One thing that happened to a task, or will."""

    at: datetime
    title: str
    kind: str = ""
    message: str = ""
    traceback: str = ""


class Around(NamedTuple):
    """What belongs to a task, read in one transaction."""

    now: datetime
    task: TaskDetail
    why: Why
    log: LogPage
    audit: list[AuditEntry]
    flow: FlowView | None
    requeued_as: UUID | None


class Stage(NamedTuple):
    """Tasks of a flow that wait for the same number of steps before them; each with the ids that it comes after."""

    number: int
    tasks: list[tuple[FlowTask, list[UUID]]]


class Deed(NamedTuple):
    """What a button does: the words of its dialogue, and the action."""

    title: str
    text: str
    verb: str
    make: Callable[[UUID], Action[Any]]
    done: str
    danger: bool = False


DEEDS = {
    "retry": Deed(
        "Run this task now?", "It becomes due at once. A dead task becomes a new one, with the same work.", "Run now",
        actions.retry_task, "The task is due now.",
    ),
    "cancel": Deed(
        "Cancel this task?", "A waiting task ends as cancelled. A running one is asked to stop.", "Cancel the task",
        actions.cancel_task, "The task is cancelled, or its runner was asked to stop it.", danger=True,
    ),
    "delete": Deed(
        "Delete this dead letter?", "It is gone for good, with its payload and its errors.", "Delete for good",
        actions.delete_dead, "The dead letter is deleted.", danger=True,
    ),
    "retry-flow": Deed(
        "Requeue what is dead in this flow?", "Each dead task of the flow becomes a new one.", "Requeue the flow",
        actions.retry_flow, "What was dead in the flow is pending again.",
    ),
    "cancel-flow": Deed(
        "Cancel the whole flow?", "All tasks connected with this one that have not ended are cancelled.",
        "Cancel the flow", actions.cancel_flow, "The flow is cancelled.", danger=True,
    ),
}  # fmt: skip
"""By the last part of the address."""


def install(app: FastAPI) -> None:
    """Serve the page and its actions."""
    app.add_route("/ui/tasks/{id:uuid}", task, include_in_schema=False)
    app.add_route("/ui/tasks/{id:uuid}/reschedule", ask_when, ["GET"], include_in_schema=False)
    app.add_route("/ui/tasks/{id:uuid}/reschedule", reschedule, ["POST"], include_in_schema=False)
    app.add_route("/ui/tasks/{id:uuid}/{deed}", ask_deed, ["GET"], include_in_schema=False)
    app.add_route("/ui/tasks/{id:uuid}/{deed}", do_deed, ["POST"], include_in_schema=False)


async def task(request: Request) -> Response:
    """Show the task."""
    door = door_of(request)
    view = await door.get(_id(request))
    around = await door.run(lambda: _around(view))
    return page(
        request,
        "task.html",
        title=around.task.type,
        **around._asdict(),
        deeds=_deeds(around),
        events=sorted(_events(around.task), key=lambda event: event.at),
        stages=_stages(around.flow) if around.flow else [],
        shown=SHOWN,
    )


def _id(request: Request) -> UUID:
    found: UUID = request.path_params["id"]
    return found


def _around(view: TaskView) -> Steps[Around]:
    detail = yield from reads.detail(view)
    dead = (yield reads.dead_letter_by_id(view.id)) if view.state == State.DEAD else None
    return Around(
        now=(yield reads.now()),
        task=detail,
        why=(yield from reads.why(view.id)),
        log=(yield reads.log_lines(view.id, limit=LINES)),
        audit=(yield reads.audit_of(str(view.id))),
        flow=(yield from reads.flow(view.id)) if detail.parents or detail.children else None,
        requeued_as=dead.requeued_as if dead else None,
    )


def _deeds(around: Around) -> dict[str, str]:
    """Return what can be done in this state: the last part of the address, and the word on the button."""
    state = around.task.state
    found = {}
    if state == State.DEAD:
        if around.requeued_as is None:
            found["retry"] = "Requeue"
        found["delete"] = "Delete"
    elif state not in HISTORY:
        if state == State.PENDING:
            found |= {"retry": "Run now", "reschedule": "Reschedule"}
        found["cancel"] = "Cancel"
    if around.flow is not None:
        states, more = {task.state for task in around.flow.tasks}, around.flow.more
        found |= {"retry-flow": "Requeue the flow"} if more or "dead" in states else {}
        found |= {"cancel-flow": "Cancel the flow"} if more or states & {"pending", "blocked", "running"} else {}
    return found


def _events(task: TaskDetail) -> Iterator[Event]:
    yield Event(task.created_at, "created")
    if task.state == State.PENDING:
        yield Event(task.maturity_at, "due" if task.tries == 0 else f"try {task.tries + task.crashes + 1} due")
    for number, error in enumerate(task.errors, 1):
        at = _instant(error.get("at")) or task.created_at
        title = f"try {error.get('try', number)} failed"
        yield Event(at, title, "bad", str(error.get("message", "")), str(error.get("traceback", "")))
    if task.started_at is not None:
        yield Event(task.started_at, "started" if task.tries == 0 else f"try {task.tries + 1} started", "run")
    if task.finished_at is not None:
        yield Event(task.finished_at, task.state, "bad" if task.state == State.DEAD else "good")


def _instant(text: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return read if read.tzinfo else None


def _stages(flow: FlowView) -> list[Stage]:
    """Put each task behind all that it comes after; what is in a circle, which there should be none of, comes last."""
    parents: dict[UUID, list[UUID]] = {task.id: [] for task in flow.tasks[:SHOWN]}
    for parent, child in flow.edges:
        if parent in parents and child in parents:
            parents[child].append(parent)
    placed: dict[UUID, int] = {}
    number, left = 0, set(parents)
    while left:
        ready = {id_ for id_ in left if all(parent in placed for parent in parents[id_])} or left
        placed |= dict.fromkeys(ready, number)
        left = left - ready
        number += 1
    return [
        Stage(stage + 1, [(task, parents[task.id]) for task in flow.tasks[:SHOWN] if placed[task.id] == stage])
        for stage in range(number)
    ]


async def ask_deed(request: Request) -> Response:
    """Ask before one of the deeds."""
    check_writes(request)
    deed = _deed(request)
    action = deed.make(_id(request))
    return ask(request, action, title=deed.title, text=deed.text, verb=deed.verb, danger=deed.danger)


async def do_deed(request: Request) -> Response:
    """Do one of the deeds, and show the task that there is afterwards."""
    deed, id_ = _deed(request), _id(request)
    form = await form_of(request)
    action = deed.make(id_)
    value = await do(request, action)
    back, here = form.get("back", [""])[0], f"/ui/tasks/{id_}"
    text = deed.done
    if isinstance(value, UUID) and value != id_ and deed.make is actions.retry_task:
        text, moved = f"Requeued as {value}.", f"/ui/tasks/{value}"
        back = moved if here in back else back
    elif deed.make is actions.delete_dead and here in back:
        back = "/ui/dead"
    return await did(request, text, command=action.command, back=back)


def _deed(request: Request) -> Deed:
    deed = DEEDS.get(request.path_params["deed"])
    if deed is None:
        raise HTTPException(404)
    return deed


async def ask_when(request: Request) -> Response:
    """Ask for the new maturity."""
    check_writes(request)
    return _when(request, _id(request))


def _when(request: Request, id_: UUID, given: str = "", error: str = "", status: int = 200) -> Response:
    field = {
        "name": "when",
        "label": "When: an instant with its zone, or in how long",
        "value": given,
        "placeholder": "2026-12-01T08:00:00Z or 2h",
        "error": error,
        "required": True,
    }
    return ask(
        request,
        actions.reschedule_task(id_, delay=timedelta(hours=2)),
        title="Reschedule this task?",
        text="It is not started before the instant that you give.",
        verb="Reschedule",
        fields=[field],
        status=status,
    )


async def reschedule(request: Request) -> Response:
    """Give the task its new maturity."""
    id_ = _id(request)
    given = (await form_of(request)).get("when", [""])[0].strip()
    try:
        action = actions.reschedule_task(id_, **maturity(given))
    except InvalidArgument as error:
        return _when(request, id_, given, str(error), 422)
    await do(request, action)
    return await did(request, f"Rescheduled: {given}.", command=action.command)


def maturity(text: str) -> dict[str, Any]:
    """Read an instant, or a duration from now. Raises: `InvalidArgument`."""
    try:
        if text[4:5] != "-":
            return {"delay": parse_duration(text)}
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{text!r} is neither an instant as in 2026-12-01T08:00:00Z nor 15m, 2h or 1d") from None
    if at.tzinfo is None:
        raise InvalidArgument(f"{text} has no time zone: write {text}Z or {text}+02:00")
    return {"at": at}
