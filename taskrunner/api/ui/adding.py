"""`/ui/tasks/new`: a task added by hand, of a type that this process knows."""

from __future__ import annotations

import json
import shlex
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from taskrunner.api.door import Door, door_of
from taskrunner.api.security import who_of
from taskrunner.api.ui.frame import check_writes, did, form_of, page
from taskrunner.api.ui.task import maturity
from taskrunner.errors import Conflict, InvalidArgument, PayloadInvalid
from taskrunner.payload import dump_marked
from taskrunner.redaction import by_name, by_path
from taskrunner.store.enqueue import Enqueued

FIELDS = ("type", "payload", "when", "queue", "priority", "key")

_NUMBER_LENGTH = 12


class Refused(Exception):
    """What is wrong with one field of the form."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def install(app: FastAPI) -> None:
    """Serve the form."""
    app.add_route("/ui/tasks/new", blank, ["GET"], include_in_schema=False)
    app.add_route("/ui/tasks/new", add, ["POST"], include_in_schema=False)


async def blank(request: Request) -> Response:
    """Show the form; with `type` in the address, with that type's fields as a payload to begin with."""
    chosen = request.query_params.get("type", "")
    return _form(request, {"type": chosen, "payload": _draft(door_of(request), chosen)})


async def add(request: Request) -> Response:
    """Store the task, or show the form again with what is wrong beside its field."""
    check_writes(request)
    given = {name: values[0] for name, values in (await form_of(request)).items()}
    try:
        added, command = await _add(door_of(request), given, f"ui:{who_of(request).name}")
    except Refused as error:
        return _form(request, given, {error.field: str(error)}, 422)
    text = "Added." if added.created else "It is there already: this is it."
    return await did(request, text, command=command, back=f"/ui/tasks/{added.id}")


async def _add(door: Door, given: dict[str, str], actor: str) -> tuple[Enqueued, str]:
    """Store the task; a form that is sent twice stores one. The command has its secrets covered."""
    try:
        payload = json.loads(given.get("payload") or "{}")
    except (ValueError, RecursionError) as error:
        raise Refused("payload", f"this is no JSON: {error}") from None
    if not isinstance(payload, dict):
        raise Refused("payload", 'the fields are a JSON object, as in {"to": "ada@example.org"}')
    try:
        task = door.build(given.get("type", ""), payload)
    except PayloadInvalid as error:
        raise Refused("payload", _explained(error)) from None
    except InvalidArgument as error:
        raise Refused("type", str(error)) from None
    options = _options(given)
    command = _command({**given, "payload": json.dumps(by_name(by_path(payload, dump_marked(task)[1])))})
    once = given.get("once") or uuid4().hex
    try:
        return await door.add_by(actor, task, command, idempotency_key=f"form {once[:200]}", **options), command
    except Conflict as error:
        raise Refused("key", str(error)) from None
    except InvalidArgument as error:
        raise Refused(
            next((name for name in ("queue", "key", "priority") if name in str(error)), "type"), str(error)
        ) from None


def _explained(error: PayloadInvalid) -> str:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error)
    found = cause.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in found[:8])


def _options(given: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {name: given[name].strip() for name in ("queue", "key") if given.get(name, "").strip()}
    if when := given.get("when", "").strip():
        try:
            options |= maturity(when)
        except InvalidArgument as error:
            raise Refused("when", str(error)) from None
    if priority := given.get("priority", "").strip():
        try:
            options["priority"] = int(priority if len(priority) <= _NUMBER_LENGTH else "")
        except ValueError:
            raise Refused(
                "priority", f"{priority[:40]} is no whole number of at most {_NUMBER_LENGTH} digits"
            ) from None
    return options


def _form(request: Request, given: dict[str, str], errors: dict[str, str] | None = None, status: int = 200) -> Response:
    door = door_of(request)
    return page(
        request,
        "adding.html",
        title="Add a task",
        status=status,
        given={name: given.get(name, "") for name in FIELDS},
        errors={name: (errors or {}).get(name, "") for name in FIELDS},
        types=[task_type.name for task_type in door.types],
        command=_command(given) if errors is None and given.get("type") else "",
        once=given.get("once") or uuid4().hex,
    )


def _draft(door: Door, name: str) -> str:
    """Return a payload with every field that a type must be given, and nothing that it need not."""
    chosen = next((task_type for task_type in door.types if task_type.name == name), None)
    if chosen is None:
        return "{}"
    required = [key for key, field in chosen.cls.model_fields.items() if field.is_required()]
    return json.dumps(dict.fromkeys(required, ""), indent=2)


def _command(given: dict[str, str]) -> str:
    words = ["taskrunner", "enqueue", given.get("type", ""), " ".join(given.get("payload", "{}").split())]
    for name in ("queue", "priority", "key"):
        if given.get(name):
            words += [f"--{name}", given[name]]
    if when := given.get("when", "").strip():
        words += ["--at" if when[4:5] == "-" else "--delay", when]
    return shlex.join(words)
