"""Errors as RFC 9457 `application/problem+json`: every one, whatever raised it.

What a person can act on is in `detail`; a traceback or the database's own words are in the log only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from taskrunner.api.headers import HEADERS
from taskrunner.errors import (
    Conflict,
    DatabaseUnreachable,
    InvalidArgument,
    NotFound,
    PayloadInvalid,
    SchemaBehind,
    UnknownType,
    suggest,
)

log = logging.getLogger("taskrunner.api")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "5"}
"""Seconds: a pool that could not connect starts anew with the next request."""


class Kind(NamedTuple):
    """What an error becomes: `slug` ends its `type`; `detail` replaces messages that are not for clients."""

    status: int
    slug: str
    title: str
    detail: str | None = None


KINDS: dict[type[Exception], Kind] = {
    InvalidArgument: Kind(422, "invalid-argument", "A value cannot be used"),
    UnknownType: Kind(422, "unknown-type", "No such task type"),
    PayloadInvalid: Kind(422, "payload-invalid", "The payload does not fit the task type"),
    NotFound: Kind(404, "not-found", "No such thing"),
    Conflict: Kind(409, "conflict", "Its state forbids it"),
    SchemaBehind: Kind(503, "schema-behind", "The database needs a migration"),
    DatabaseUnreachable: Kind(
        503, "database-unreachable", "The database is away", "the database cannot be reached: try again soon"
    ),
    # What the doors check before is not met here; a page's filter, or a name in an address, may hold a NUL.
    psycopg.DataError: Kind(
        422, "invalid-argument", "A value cannot be used", "a value cannot be looked for or stored: does it hold a NUL?"
    ),
    psycopg.OperationalError: Kind(
        503, "database-busy", "The database is busy", "the database refused for the moment: try again soon"
    ),
}
INVALID = Kind(422, "invalid-request", "The request is not as described")

_UNREADABLE = "There was an error parsing the body"  # FastAPI's words for bytes that are no UTF-8

_OTHER_NAMES = {"task_name": "type"}
"""What the body of `POST /tasks` takes, and what a list calls it."""

# What to do about errors of HTTP itself; `{path}` and `{method}` are the request's.
_ADVICE = {
    400: "the body is not JSON in UTF-8",
    404: "there is nothing at {path}: /docs lists what there is",
    405: "{path} does not take {method}",
}


def problem(
    request: Request,
    kind: Kind | int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Response:
    """Return the response for an error: of a kind of ours, or of HTTP itself, whose `type` is `about:blank`."""
    if "text/html" in request.headers.get("accept", "") and request.url.path.startswith("/ui"):
        shown = (kind, HTTPStatus(kind).phrase) if isinstance(kind, int) else (kind.status, kind.title)
        response: Response = request.app.state.failure(request, *shown, detail)
        response.headers.update(headers or {})
        return response
    if isinstance(kind, int):
        status, type_, title = kind, "about:blank", HTTPStatus(kind).phrase
    else:
        status, type_, title = kind.status, f"urn:taskrunner:problem:{kind.slug}", kind.title
    body: dict[str, Any] = {"type": type_, "title": title, "status": status, "detail": detail}
    body["instance"] = request.url.path
    if errors:
        body["errors"] = errors
    # ASCII: a message may quote a lone surrogate, which no encoding takes
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    for error in KINDS:
        app.add_exception_handler(error, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unexpected)


async def _expected(request: Request, error: Exception) -> Response:
    kind = next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)
    if kind.detail is not None:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    headers = RETRY_AFTER if kind.status == 503 else None
    return problem(request, kind, kind.detail or str(error), headers=headers, errors=_payload_errors(error))


def _payload_errors(error: Exception) -> list[dict[str, str]]:
    cause = error.__cause__
    if not isinstance(error, PayloadInvalid) or not isinstance(cause, ValidationError):
        return []
    details = cause.errors(include_url=False, include_context=False, include_input=False)
    return [_field(("body", "payload", *detail["loc"]), detail["msg"]) for detail in details]


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    errors = [_told(request, detail, error.body) for detail in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in errors[:5])
    return problem(request, INVALID, detail + ("; …" if len(errors) > 5 else ""), errors=errors)


def _told(request: Request, detail: Mapping[str, Any], body: object) -> dict[str, str]:
    """Say what is wrong with one value; the framework's words for two mistakes help nobody."""
    path = detail["loc"]
    if detail["type"] == "json_invalid" and isinstance(body, str):
        before = body[: path[-1]]
        place = f"line {before.count(chr(10)) + 1}, column {path[-1] - before.rfind(chr(10))}"
        return _field(path[:1], f"is no JSON: {detail['ctx']['error']}, at {place}")
    if detail["type"] == "extra_forbidden" and path[0] == "query":
        name = str(path[-1])
        known, meant = _parameters(request), _OTHER_NAMES.get(name)
        close = f"; did you mean {meant!r}?" if meant in known else suggest(name, known)
        return _field(path, f"there is no such parameter{close}")
    return _field(path, detail["msg"])


def _parameters(request: Request) -> list[str]:
    """Return the names of what the operation takes behind the question mark."""
    operation = request.app.openapi()["paths"].get(request.scope["route"].path, {}).get(request.method.lower(), {})
    return [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]


def _field(path: Sequence[int | str], message: str) -> dict[str, str]:
    """The path begins with where the value was: body, query, path, header. The value may be secret: it is left out."""
    return {"field": ".".join(map(str, path)), "detail": message.removeprefix("Value error, ")}


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    detail = error.detail
    if detail in (HTTPStatus(error.status_code).phrase, _UNREADABLE):
        detail = _ADVICE.get(error.status_code, detail).format(path=request.url.path, method=request.method)
    headers = {**(error.headers or {}), **_allowed(request)} if error.status_code == 405 else error.headers
    return problem(request, error.status_code, detail, headers=headers)


def _allowed(request: Request) -> dict[str, str]:
    """All methods of the path (RFC 9110, 15.5.6); the framework names those of the first route that it meets."""
    routes = [route for router in request.app.state.routers for route in router.routes if route.include_in_schema]
    there = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    there = [route for route in there if route.path == request.url.path] or there
    methods = sorted({method for route in there for method in route.methods})
    return {"Allow": ", ".join(methods)} if methods else {}


async def _unexpected(request: Request, error: Exception) -> Response:
    """The server logs the error with its traceback; this response leaves outside of all other middleware."""
    detail = "an error on our side, not in the request: the server's log has it"
    return problem(request, 500, detail, headers=HEADERS)
