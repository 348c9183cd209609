"""Actions of pages: asked first, then done, noted, and said at the top of the page that they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskrunner.actions import Action
from taskrunner.api.ui.frame import ask, check_writes, did, do

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What a page asks before an action; `done` is what it says afterwards."""

    action: Action[T]
    title: str
    text: str
    verb: str
    done: Callable[[T], str]
    danger: bool = False
    fields: Sequence[Mapping[str, Any]] = ()
    back: str | None = None


async def settle(request: Request, question: Question[T]) -> Response:
    """Ask by GET, do it by POST. Raises: 403 for whoever may only read, and what the action raises."""
    check_writes(request)
    if request.method == "POST":
        value = await do(request, question.action)
        return await did(request, question.done(value), command=question.action.command, back=question.back)
    return ask(
        request, question.action, title=question.title, text=question.text, verb=question.verb,
        danger=question.danger, fields=question.fields, address=address(request),
    )  # fmt: skip


def address(request: Request) -> str:
    """Return where a form goes: to the address that asked for it."""
    return f"{request.scope['path']}?{request.url.query}"


def named(request: Request, name: str, default: str | None = None) -> str:
    """Return a part of the address. Raises: 404 where it is missing."""
    value = request.query_params.get(name) or default
    if not value or len(value) > 200:
        raise HTTPException(404, f"the address does not say which {name}: go there from the list")
    return value
