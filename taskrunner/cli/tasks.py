"""`taskrunner tasks`: list and show tasks in any state, and steer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from taskrunner.cli.bulk import bulk
from taskrunner.cli.bykey import Key, OfTenant, OfType, SomeId
from taskrunner.cli.options import (
    After,
    AsJson,
    At,
    ByError,
    ByKey,
    ByQueue,
    ByRunner,
    ByState,
    ByTenant,
    ByType,
    Delay,
    Limit,
    Search,
    Since,
    TaskId,
    Until,
    Where,
)
from taskrunner.cli.tasklog import Log
from taskrunner.cli.wholeflow import Flow

if TYPE_CHECKING:
    from uuid import UUID

    from taskrunner.cli.session import Session
    from taskrunner.reads import TaskView

app = typer.Typer(help="List, show and steer tasks.", no_args_is_help=True, rich_markup_mode=None)


Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it live until it has ended.")]


@app.command("list", epilog="Example: taskrunner tasks list state:dead since:2h payload.user.id:42 --limit 20")
def list_(
    search: Search = None,
    state: ByState = None,
    type_: ByType = None,
    queue: ByQueue = None,
    tenant: ByTenant = None,
    key: ByKey = None,
    since: Since = None,
    until: Until = None,
    error: ByError = None,
    where: Where = None,
    runner: ByRunner = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List tasks of all states, the newest first.

    A search has the words state, type, queue, tenant, key, since, until, error, runner, payload.FIELD and meta.FIELD,
    each with a colon and a value, and ids. A type may end with a star. All that is given must hold.

    A page that is not the last ends with how to get the next one.
    """
    from taskrunner import console, reads
    from taskrunner.cli.options import searched
    from taskrunner.cli.pages import listed
    from taskrunner.cli.session import emit, session

    with session(tenant=tenant) as opened:
        now = opened.run(reads.now())
        wanted = searched(
            search,
            now,
            state=state,
            type=type_,
            queue=queue,
            tenant=tenant,
            key=key,
            since=since,
            until=until,
            error=error,
            where=tuple(where or ()),
            runner_id=runner,
            limit=limit,
            after=after,
        )
        found = listed(opened, reads.list_tasks, wanted)
    emit(found, as_json, lambda: console.show_tasks(found, now))


@app.command(epilog="Example: taskrunner tasks show 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60 --watch")
def show(id_: TaskId, watch: Watch = False, log: Log = False, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Show one task with its progress, result, errors and last log lines, and the flow that it belongs to.

    A flow is drawn with each task beneath the last of those that it runs after.

    A watch ends with the task, and is 1 unless that has succeeded or was ignored; Ctrl-C ends the watch alone, with 1.
    In a pipe, and with --json, it writes a line for each change.
    """
    from taskrunner import console, reads
    from taskrunner.cli import tasklog, wholeflow
    from taskrunner.cli.session import emit, session

    with session(tenant=tenant) as opened:
        if watch:
            _watch(opened, id_, as_json, log)
            return
        found = _there(opened, id_)
        if log:
            tasklog.show_all(opened, id_, as_json)
            return
        detail, why = opened.run(reads.detail(found)), opened.run(reads.unattended(id_))
        emit(detail, as_json, lambda: console.show_task(detail, why))
        if not as_json:
            wholeflow.show(opened, detail)
            tasklog.show_last(opened, id_)


def _there(opened: Session, id_: UUID) -> TaskView:
    from taskrunner import reads
    from taskrunner.errors import NotFound

    view = opened.run(reads.task_by_id(id_)) or opened.run(reads.successor_by_id(id_))
    if view is None or opened.tenant not in (None, view.tenant):
        raise NotFound(f"no task {id_}: it was never stored, or retention has removed it")
    return view


def _watch(opened: Session, id_: UUID, as_json: bool, log: bool) -> None:
    from taskrunner import console
    from taskrunner.cli import tasklog
    from taskrunner.cli.session import emit, reconnecting

    with reconnecting(opened) as current:
        if log:
            ended = tasklog.follow(current, lambda: _there(current(), id_), as_json)
        else:
            ended = console.follow_task(
                console.screen(), lambda: _there(current(), id_), _json_line if as_json else None
            )
    if ended is not None and not as_json and not log:
        emit(ended, as_json, lambda: console.show_task(ended))
    if ended is None or ended.state not in ("succeeded", "ignored"):
        raise typer.Exit(1)


def _json_line(task: TaskView) -> str:
    return task.model_dump_json()


@app.command(epilog="Example: taskrunner tasks cancel 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")
def cancel(
    id_: SomeId = None,
    type_: OfType = None,
    key: Key = None,
    tenant: OfTenant = None,
    flow: Flow = False,
    as_json: AsJson = False,
) -> None:
    """Cancel a task.

    A waiting one is cancelled at once; the runner of a running one is asked to stop it.
    """
    from taskrunner import actions
    from taskrunner.cli import wholeflow
    from taskrunner.cli.bykey import meant
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant, of=id_) as opened:
        id_ = meant(opened, id_, type_, key, tenant)
        if flow:
            wholeflow.cancel(opened, id_, as_json)
            return
        outcome = opened.act(actions.cancel_task(id_))
    words = "cancelled" if outcome == "cancelled" else "its runner was asked to stop it"
    tell({"id": id_, "outcome": outcome}, as_json, f"{id_} {words}")


@app.command(epilog="Example: taskrunner tasks retry 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")
def retry(id_: TaskId, flow: Flow = False, tenant: ByTenant = None, as_json: AsJson = False) -> None:
    """Let a task run now.

    A pending task becomes due. A dead one is requeued under a new id, which is printed; with --flow all that is dead in
    its flow is, to run in its order.
    """
    from taskrunner import actions
    from taskrunner.cli import wholeflow
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant, of=id_) as opened:
        if flow:
            wholeflow.retry(opened, id_, as_json)
            return
        live = opened.act(actions.retry_task(id_))
    words = "is due now" if live == id_ else f"was requeued as {live}"
    tell({"id": live, "requeued_from": None if live == id_ else id_}, as_json, f"{id_} {words}")


@app.command(epilog="Example: taskrunner tasks reschedule 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60 --delay 2h")
def reschedule(
    id_: TaskId, delay: Delay = None, at: At = None, tenant: ByTenant = None, as_json: AsJson = False
) -> None:
    """Give a pending task a new maturity."""
    from datetime import timedelta

    from taskrunner import actions
    from taskrunner.cli.options import duration, instant
    from taskrunner.cli.session import session, tell
    from taskrunner.errors import InvalidArgument

    if (delay is None) == (at is None):
        raise InvalidArgument("give one of --delay and --at")
    due_at, wait = instant(at, "--at"), duration(delay, "--delay") or timedelta(0)
    with session(tenant=tenant, of=id_) as opened:
        due = opened.act(actions.reschedule_task(id_, at=due_at, delay=wait))
    seconds = max(0.0, round(due.due_in, 3))
    tell({"id": id_, "due_in_seconds": seconds}, as_json, f"{id_} is due in {seconds:g} s")


@app.command(epilog="Example: taskrunner tasks delete 0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")
def delete(
    id_: SomeId = None, type_: OfType = None, key: Key = None, tenant: OfTenant = None, as_json: AsJson = False
) -> None:
    """Take a waiting task back.

    It ends as cancelled. Dead letters are deleted by `taskrunner dead delete`.
    """
    from taskrunner import actions
    from taskrunner.cli.bykey import meant
    from taskrunner.cli.session import session, tell

    with session(tenant=tenant, of=id_) as opened:
        id_ = meant(opened, id_, type_, key, tenant)
        outcome = opened.act(actions.delete_task(id_))
    tell({"id": id_, "outcome": outcome}, as_json, f"{id_} {outcome}")


app.command(epilog="Example: taskrunner tasks bulk requeue type:SendEmail since:2h 'error:\"timed out\"'")(bulk)
