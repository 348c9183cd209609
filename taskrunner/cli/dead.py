"""`taskrunner dead`: the tasks that are out of retries."""

from __future__ import annotations

from typing import Annotated

import typer

from taskrunner.cli.options import (
    After,
    AsJson,
    ByError,
    ByQueue,
    ByTenant,
    ByType,
    Limit,
    Search,
    Since,
    TaskId,
    Until,
    Where,
    Yes,
)

app = typer.Typer(help="List, show, requeue and delete dead letters.", no_args_is_help=True, rich_markup_mode=None)

Requeued = Annotated[bool, typer.Option("--all", help="Also those that were requeued.")]


@app.command("list", epilog='Example: taskrunner dead list type:SendEmail error:"timed out"')
def list_(
    search: Search = None,
    type_: ByType = None,
    queue: ByQueue = None,
    tenant: ByTenant = None,
    since: Since = None,
    until: Until = None,
    error: ByError = None,
    where: Where = None,
    limit: Limit = 50,
    after: After = None,
    requeued: Requeued = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    A search is as that of `taskrunner tasks list`. Those that were requeued are left out, unless --all is given.
    """
    from functools import partial

    from taskrunner import console, reads
    from taskrunner.cli.options import searched
    from taskrunner.cli.pages import listed
    from taskrunner.cli.session import emit, session

    with session(tenant=tenant) as opened:
        now = opened.run(reads.now())
        wanted = searched(
            search,
            now,
            type=type_,
            queue=queue,
            tenant=tenant,
            since=since,
            until=until,
            error=error,
            where=tuple(where or ()),
            limit=limit,
            after=after,
        )
        found = listed(opened, partial(reads.dead_letters, requeued=requeued), wanted)
    emit(found, as_json, lambda: console.show_dead(found, now))


@app.command(epilog="Example: taskrunner dead show 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")
def show(id_: TaskId, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Show a dead letter with all its errors."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session
    from taskrunner.errors import NotFound

    with session(tenant=tenant, of=id_) as opened:
        found = opened.run(reads.dead_letter_by_id(id_))
    if found is None:
        raise NotFound(f"no dead letter {id_}: `taskrunner dead list` shows what there is")
    emit(found, as_json, lambda: console.show_task(found))


@app.command(epilog="Example: taskrunner dead requeue 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")
def requeue(id_: TaskId, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Make a new task of a dead letter.

    It is pending, with tries 0, and linked to the old one; its id is printed.
    """
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant, of=id_) as opened:
        fresh = opened.act(actions.requeue_dead(id_))
    tell({"id": fresh, "requeued_from": id_}, as_json, f"{id_} was requeued as {fresh}")


@app.command(epilog="Example: taskrunner dead delete 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60 --yes")
def delete(id_: TaskId, yes: Yes = False, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Delete a dead letter for good."""
    from taskrunner import actions
    from taskrunner.cli.session import confirm, session, tell

    confirm(f"Delete the dead letter {id_} for good?", yes=yes)
    with session(tenant=tenant, of=id_) as opened:
        opened.act(actions.delete_dead(id_))
    tell({"id": id_, "outcome": "deleted"}, as_json, f"{id_} deleted")
