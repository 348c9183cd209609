"""`/ui/act/{verb}`: one action on the tasks that are ticked in a list, or on all that a search finds.

First a preview with the exact number, then the action on no more than that, by `taskrunner.bulk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskrunner import bulk, reads
from taskrunner.api.door import door_of
from taskrunner.api.security import who_of
from taskrunner.api.ui.frame import check_writes, did, form_of, local, page
from taskrunner.api.ui.task import maturity
from taskrunner.bulk import Order, Outcome, Preview
from taskrunner.errors import InvalidArgument
from taskrunner.listing import searched
from taskrunner.reads.views import MOST_IDS
from taskrunner.store.bulk import When
from taskrunner.wording import some


class Verb(NamedTuple):
    """One thing that is done with several tasks: its words."""

    word: str
    what: str
    danger: bool = False


VERBS = {
    "retry": Verb("Run now or requeue", "Pending ones become due at once; each dead one becomes a new task."),
    "requeue": Verb("Requeue", "Each becomes a new pending task with the same work."),
    "reschedule": Verb("Reschedule", "None of them is started before the instant that you give."),
    "cancel": Verb("Cancel", "Waiting ones end as cancelled; running ones are asked to stop.", danger=True),
    "delete": Verb("Delete", "These dead letters are gone for good, with their payloads and errors.", danger=True),
}


class Asked(NamedTuple):
    """What a form or an address says: which tasks, and what is to be done with them."""

    verb: str
    text: str
    ids: tuple[UUID, ...]
    when: str
    back: str


def install(app: FastAPI) -> None:
    """Serve the question and its answer."""
    app.add_route("/ui/act/{verb}", ask_many, ["GET"], include_in_schema=False)
    app.add_route("/ui/act/{verb}", do_many, ["POST"], include_in_schema=False)


async def ask_many(request: Request) -> Response:
    """Ask before something is done with the tasks that are ticked, or with all that the search finds."""
    query = request.query_params
    back = local(query.get("back") or request.headers.get("hx-current-url"))
    return await ask_about(request, _asked(request, {name: query.getlist(name) for name in query}, back))


async def ask_about(request: Request, asked: Asked, error: str = "") -> Response:
    """Say how many tasks it is about, show some of them, and ask."""
    door, verb = door_of(request), VERBS[asked.verb]
    order = _order(asked, await door.run(reads.now), None if error else asked.when)
    found: Preview = await bulk.adrive(door.run, bulk.preview(order))
    hidden = {"q": asked.text, "before": found.before.isoformat(), "expected": str(found.count), "back": asked.back}
    return page(
        request,
        "act.html",
        status=422 if error else 200,
        title=f"{verb.word}: {_counted(found)}?",
        verb=verb,
        found=found,
        able=found.exact and 0 < found.count <= bulk.MOST,
        most=bulk.MOST,
        address=f"/ui/act/{asked.verb}",
        hidden=hidden,
        ids=asked.ids,
        back=asked.back,
        left=len(asked.ids) - found.count if asked.ids else 0,
        when=asked.when if asked.verb == "reschedule" else None,
        error=error,
    )


async def do_many(request: Request) -> Response:
    """Do it, and say what came of it where the form was opened."""
    check_writes(request)
    form = await form_of(request)
    asked = _asked(request, form, form.get("back", [""])[0])
    if asked.verb == "reschedule":
        try:
            maturity(asked.when)
        except InvalidArgument as error:
            return await ask_about(request, asked, str(error))
    door = door_of(request)
    now = await door.run(reads.now)
    order = _order(asked, min(_instant(form, now), now), asked.when)
    expected = _number(form.get("expected", [""])[0], len(asked.ids))
    pieces = bulk.apply(order, f"ui:{who_of(request).name}", expected=expected, most=bulk.MOST)
    outcome: Outcome = await bulk.adrive(door.run, pieces)
    return await did(request, _told(VERBS[asked.verb], outcome), command=order.command, back=asked.back)


def asked_about(verb: str, ids: Sequence[UUID], back: str) -> Asked:
    """Return the question about these tasks. Raises: an HTTP error for a verb that is none."""
    if verb not in VERBS:
        raise HTTPException(404)
    return Asked(verb, "", tuple(ids), "2h" if verb == "reschedule" else "", back)


def _asked(request: Request, given: Mapping[str, Sequence[str]], back: str) -> Asked:
    asked = asked_about(request.path_params["verb"], (), back)
    asked = asked._replace(ids=tuple(_ids(given.get("id", ()))))
    text = given.get("q", [""])[0].strip()
    if not text and not asked.ids:
        raise HTTPException(422, "no task is ticked: go back and tick some")
    return asked._replace(text=text, when=given.get("when", [asked.when])[0].strip())


def _ids(given: Sequence[str]) -> list[UUID]:
    try:
        ids = list(dict.fromkeys(map(UUID, given)))
    except ValueError:
        raise HTTPException(422, "one of the ids is none: go back and tick the tasks again") from None
    if len(ids) > MOST_IDS:
        raise HTTPException(422, f"at most {MOST_IDS} tasks can be ticked, not {len(ids)}: search for them instead")
    return ids


def _order(asked: Asked, before: datetime, when: str | None) -> Order:
    later = When()
    if asked.verb == "reschedule":
        given: dict[str, Any] = maturity(when) if when else {"delay": timedelta(hours=2)}
        later = When(given.get("at"), given.get("delay", timedelta(0)))
    return Order(asked.verb, searched(asked.text, before, ids=asked.ids), before, later)


def _instant(form: Mapping[str, Sequence[str]], now: datetime) -> datetime:
    try:
        read = datetime.fromisoformat(form.get("before", [""])[0])
    except ValueError:
        return now
    return read if read.tzinfo else now


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else otherwise


def _counted(found: Preview) -> str:
    return ("" if found.exact else "at least ") + some(found.count, "task")


def _told(verb: Verb, outcome: Outcome) -> str:
    words = [f"{outcome.done:,} done"]
    words += [f"{outcome.requested:,} running asked to stop"] if outcome.requested else []
    words += [f"{count:,} left alone ({why})" for why, count in sorted(outcome.skipped.items())]
    return f"{verb.word}: {', '.join(words)}."
