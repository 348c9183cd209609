"""`taskrunner queues`: how full they are; pause and resume; fairness between tenants."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from taskrunner.cli.options import AsJson

app = typer.Typer(help="List, pause and resume queues; make them fair.", no_args_is_help=True, rich_markup_mode=None)

Switch = Literal["on", "off"]
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
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    pausing = actions.pause_queue(name)
    with session() as opened:
        opened.act(pausing)
    tell({"name": name, "paused": True}, as_json, f"queue {name} is paused")


@app.command(epilog="Example: taskrunner queues resume mail")
def resume(name: Name, as_json: AsJson = False) -> None:
    """Let runners take tasks from a queue again."""
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session() as opened:
        opened.act(actions.resume_queue(name))
    tell({"name": name, "paused": False}, as_json, f"queue {name} is open")


@app.command(epilog="Example: taskrunner queues fair mail on")
def fair(
    name: Name,
    switch: Annotated[Switch, typer.Argument(metavar="on|off", help="Fair, or ordinary.")],
    as_json: AsJson = False,
) -> None:
    """Let the tenants of a queue take turns, however many tasks one of them has waiting.

    Tasks may be added and run meanwhile. A tenant's own tasks keep their order: priority, then maturity.
    """
    from taskrunner import actions, fairness
    from taskrunner.cli.session import actor, session, talk, tell

    fair = switch == "on"
    first = actions.acting(actor(), actions.make_fair(name, fair_queue=fair)).make()
    with session() as opened:
        settled = fairness.set_fair_by(opened.connection, name, fair=fair, first=first)
    if not settled:
        talk(
            "transactions are open that began before: what they add comes when nothing else is due; "
            "say the same again once they have ended"
        )
    tell({"name": name, "fair": fair}, as_json, f"queue {name} is {'fair' if fair else 'ordinary'}")


@app.command(epilog="Example: taskrunner queues weight mail acme 3")
def weight(
    name: Name,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose tasks they are.")],
    count: Annotated[int, typer.Argument(metavar="N", help="Its tasks in each round, 1 to 1000; everybody has 1.")],
    as_json: AsJson = False,
) -> None:
    """Give a tenant more turns than others in a queue that is fair."""
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    weighing = actions.weigh_tenant(name, tenant, count)
    with session() as opened:
        opened.act(weighing)
    shown = f"tenant {tenant} has {count} of each round of queue {name}"
    tell({"name": name, "tenant": tenant, "weight": count}, as_json, shown)
