"""`taskrunner enqueue`: add one task by hand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskrunner.cli.options import AsJson, duration, given, instant

if TYPE_CHECKING:
    from taskrunner.cli.session import Session
    from taskrunner.queue import TaskQueue
    from taskrunner.reads import TaskView
    from taskrunner.registry import Registry
    from taskrunner.store.enqueue import Enqueued
    from taskrunner.task import Task

EXAMPLE = """Example: taskrunner enqueue SendEmail '{"to": "a@b.c"}' --delay 5m"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(enqueue)


def enqueue(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The task type's name.")],
    payload: Annotated[str, typer.Argument(help="Its fields as a JSON object; `-` reads it from stdin.")] = "{}",
    delay: Annotated[str | None, typer.Option(help="Due after this time: 30, 15s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option(help="Due at this ISO time, as in 2026-01-31T08:00:00Z.")] = None,
    priority: Annotated[int | None, typer.Option(help="Larger is more urgent.")] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue than the type's.")] = None,
    key: Annotated[str | None, typer.Option(help="At most one live task of the type has this key.")] = None,
    on_conflict: Annotated[
        str | None, typer.Option(help="Where the key is taken: skip, replace (the live task gets the work), error.")
    ] = None,
    max_retries: Annotated[int | None, typer.Option(min=0, help="Retries after the first failure.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose work it is: `default` if nothing is said.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended; 1 unless it succeeded.")] = False,
    timeout: Annotated[str | None, typer.Option(help="Wait no longer than this: 30, 5m.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a task and print its id.

    The payload is checked against the type's fields. A live task of the same key answers instead of a new one.
    """
    from taskrunner.cli.session import session, tell
    from taskrunner.queue import TaskQueue
    from taskrunner.registry import discover
    from taskrunner.settings import load

    options = given(
        delay=duration(delay, "--delay"),
        at=instant(at, "--at"),
        priority=priority,
        queue=queue,
        key=key,
        on_conflict=on_conflict,
        max_retries=max_retries,
    )
    limit = duration(timeout, "--timeout")
    settings = load()
    registry = discover(settings.project, settings.tasks)
    task = _task(registry, type_, payload)
    with session() as opened, TaskQueue.connect(opened.url, tenant=tenant, registry=registry) as door:
        added = door.add(task, **options)
        if wait:
            _wait(opened, door, added, limit, as_json)
            return
    tell({"id": added.id, "created": added.created}, as_json, _answer(added))


def _task(registry: Registry, name: str, payload: str) -> Task:
    from taskrunner.payload import parse_payload

    return parse_payload(registry.get(name).cls, sys.stdin.read() if payload == "-" else payload)


def _answer(added: Enqueued) -> str:
    if added.created:
        return str(added.id)
    return f"{added.id} has the work now" if added.replaced else f"{added.id} is live already and has the same key"


def _wait(opened: Session, door: TaskQueue, added: Enqueued, limit: Any, as_json: bool) -> None:
    from taskrunner import reads
    from taskrunner.cli.session import talk, tell
    from taskrunner.console import waiting
    from taskrunner.redaction import by_name

    if not as_json:
        talk(str(added.id))
    if why := opened.run(reads.unattended(added.id)):
        talk(why)
    with waiting(f"waiting for {added.id}"):
        ended = door.wait(added.id, limit)
    ended = ended.model_copy(update={"result": by_name(ended.result)})  # code gets it whole, people do not
    found = {"id": ended.id, "created": added.created, "state": ended.state, "result": ended.result}
    tell(found, as_json, _outcome(ended))
    if ended.state not in ("succeeded", "ignored"):
        raise typer.Exit(1)


def _outcome(ended: TaskView) -> str:
    if ended.state == "succeeded":
        from pydantic_core import to_json

        return "succeeded" if ended.result is None else to_json(ended.result).decode()
    from taskrunner.console import cell

    last = f": {ended.errors[-1]['message']}" if ended.errors else ""
    return cell(f"{ended.state}{last}").plain  # a task's words must not move the cursor
