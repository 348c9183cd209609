"""`taskrunner audit`: who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from taskrunner.cli.options import AsJson, Limit

app = typer.Typer(help="See who did what to tasks, queues and schedules.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list", epilog="Example: taskrunner audit list --action task.cancel --since 2h")
def list_(
    actor: Annotated[str | None, typer.Option(help="Only what this one did, as in cli:ada@host.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, as in task.cancel; `task` is all that is done to tasks.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to it: an id, a queue, a schedule.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only what was done to this tenant's things.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what was done since: 15m, 2h, 7d, or an ISO time.")] = None,
    limit: Limit = 50,
    after: Annotated[int | None, typer.Option(metavar="N", help="Go on after this entry of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what people did by commands, over HTTP and on the dashboard, the newest first.

    What a program does by a TaskQueue of its own is not listed.
    """
    from taskrunner import console, reads
    from taskrunner.cli.options import since as since_when
    from taskrunner.cli.session import emit, session, talk

    with session(tenant=tenant) as opened:
        now = opened.run(reads.now())
        begin = since_when(since, now)
        wanted = reads.AuditFilter(
            actor=actor, action=action, target=target, tenant=tenant, since=begin, limit=limit, after=after
        )
        page = opened.run(reads.audit_trail(wanted))
    emit(page.items, as_json, lambda: console.show_audit(page.items, now))
    if page.next is not None:
        talk(f"there may be more: --after {page.next}")
