"""`taskrunner queues`: how full they are; pause and resume."""

from __future__ import annotations

from typing import Annotated

import typer

from taskrunner.cli.options import AsJson

app = typer.Typer(help="List, pause and resume queues.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]


@app.command("list", epilog="Example: taskrunner queues list --json")
def list_(as_json: AsJson = False) -> None:
    """List queues with what waits and runs in them."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session

    with session() as opened:
        found = opened.run(reads.queues())
    emit(found, as_json, lambda: console.show_queues(found))


@app.command(epilog="Example: taskrunner queues pause mail")
def pause(name: Name, as_json: AsJson = False) -> None:
    """Let no runner take tasks from a queue.

    What runs goes on. A queue may be paused before its first task.
    """
    from taskrunner.cli.session import session, tell
    from taskrunner.store import steering

    _check(name)
    with session() as opened:
        opened.run(steering.pause_queue(name, paused=True))
    tell({"name": name, "paused": True}, as_json, f"queue {name} is paused")


@app.command(epilog="Example: taskrunner queues resume mail")
def resume(name: Name, as_json: AsJson = False) -> None:
    """Let runners take tasks from a queue again."""
    from taskrunner.cli.session import session, tell
    from taskrunner.store import steering

    with session() as opened:
        opened.run(steering.resume_queue(name))
    tell({"name": name, "paused": False}, as_json, f"queue {name} is open")


def _check(name: str) -> None:
    """Raise `InvalidArgument` for what cannot be a queue's name: nothing would ever be taken from it."""
    from taskrunner.errors import InvalidArgument, RegistrationError
    from taskrunner.registry.checks import check_queue

    try:
        check_queue(name)
    except RegistrationError as error:
        raise InvalidArgument(str(error)) from None
