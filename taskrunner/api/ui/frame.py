"""How a page is made: template and values in, a response with its policy out; and how a page's form is answered.

A page's route is a plain function of the request: it reads through `door_of(request)`, and returns `page(…)`. What
changes something has two routes of one address: GET asks (`ask`), by a page or a dialogue, and POST does it (`did`).
"""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from taskrunner.actions import Action
from taskrunner.api.door import door_of
from taskrunner.api.kept import kept_of
from taskrunner.api.security import who_of
from taskrunner.api.ui.assets import asset_url
from taskrunner.api.ui.words import FILTERS
from taskrunner.jsonvalue import readable

T = TypeVar("T")

PAGES = (
    ("Overview", "/ui/", "o"),
    ("Tasks", "/ui/tasks", "t"),
    ("Schedules", "/ui/schedules", "s"),
    ("Queues", "/ui/queues", "q"),
    ("Runners", "/ui/runners", "r"),
    ("Dead letters", "/ui/dead", "d"),
    ("System", "/ui/system", "y"),
    ("Audit", "/ui/audit", "a"),
)
"""What the navigation lists: name, address, and the key after `g` that leads there."""

_FLASH = "taskrunner_note"
_FLASH_SECONDS = 30
_FLASH_ROOM = 3000  # characters: with its name and attributes a cookie has 4,096


class Note(NamedTuple):
    """What a page says at its top of what was just done; `command` is the same for a terminal."""

    text: str
    kind: str = "good"
    command: str = ""


@cache
def environment() -> Environment:
    """Return the templates; everything is escaped, and a name that is not given is an error."""
    made = Environment(
        loader=PackageLoader("taskrunner.api.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    made.globals.update(asset=asset_url, pages=PAGES, version=version("taskrunner"))
    return made


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page; its scripts have this response's nonce, and nothing else runs."""
    nonce = secrets.token_urlsafe(16)
    note = values.pop("note", None) or _note_of(request)
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    body = environment().get_template(template).render(
        nonce=nonce, note=note, path=request.url.path, here=here, query=request.query_params, who=who_of(request),
        again=round(1000 * getattr(request.state, "again", 0)),
        **values,
    )  # fmt: skip
    response = HTMLResponse(body, status, {"Content-Security-Policy": _policy(nonce), "Vary": "Accept"})
    if _FLASH in request.cookies and "x-live" not in request.headers:
        response.delete_cookie(_FLASH, path="/ui")
    return response


def ask(request: Request, action: Action[Any], *, title: str, text: str, verb: str, **values: Any) -> Response:
    """Return the page, or dialogue, that asks before an action; its form is sent to the same address."""
    back = local(request.query_params.get("back") or request.headers.get("hx-current-url"))
    return page(
        request, "ask.html", title=title, text=text, verb=verb, command=action.command, back=back,
        **{"danger": False, "fields": (), "ticked": (), **values},
    )  # fmt: skip


async def do(request: Request, action: Action[T]) -> T:
    """Do what the form asks for, in the name of who is asking. Raises: what the action raises."""
    check_writes(request)
    return await door_of(request).act(action, f"ui:{who_of(request).name}")


def check_writes(request: Request) -> None:
    """Raise an HTTP error for who may only read."""
    if not who_of(request).writes:
        raise HTTPException(403, "this token may read only")


async def did(request: Request, text: str, *, command: str = "", back: str | None = None) -> Response:
    """Return to where the form was opened, and say there what was done."""
    kept_of(request).forget()
    place = local(back or (await form_of(request)).get("back", [""])[0])
    response = RedirectResponse(place, 303)
    note = _written(Note(text, "good", command)) or _written(Note(text)) or _written(Note(text[:200]))
    response.set_cookie(_FLASH, note, max_age=_FLASH_SECONDS, path="/ui", httponly=True, samesite="strict")
    return response


def _written(note: Note) -> str:
    """Return the note for a cookie; nothing if it were more than browsers keep and proxies let pass."""
    text = urlsafe_b64encode(json.dumps(note._asdict()).encode()).decode()
    return text if len(text) <= _FLASH_ROOM else ""


async def form_of(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form that was sent, each with its values. Raises: an HTTP error for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send a form, as the page does")
    try:
        return parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=5000, errors="strict")
    except ValueError:
        raise HTTPException(422, "the form cannot be read: it is no UTF-8, or has too many fields") from None


def local(url: str | None) -> str:
    """Return the path and query of a page of ours; of anything else the first page."""
    try:
        parts = urlsplit(url or "/ui/")
    except ValueError:  # such as brackets that do not close
        return "/ui/"
    if not parts.path.startswith("/ui/") or "\\" in parts.path or "//" in parts.path:
        return "/ui/"
    return parts.path + (f"?{parts.query}" if parts.query else "")


def failure(request: Request, status: int, title: str, detail: str) -> Response:
    """Return an error as a page."""
    return page(request, "failure.html", status=status, title=title, detail=detail, code=status)


def _note_of(request: Request) -> Note | None:
    """Return what the last action left to be said; a cookie that is not as ours says nothing."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        said = json.loads(urlsafe_b64decode(request.cookies.get(_FLASH, "").encode()))
        kind = said["kind"] if said["kind"] in ("good", "bad", "warn") else "good"
        return Note(readable(str(said["text"])), kind, readable(str(said["command"])))
    return None


def _policy(nonce: str) -> str:
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
