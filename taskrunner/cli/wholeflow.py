"""What `tasks show|cancel|retry` do with all that is connected with a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

if TYPE_CHECKING:
    from taskrunner.cli.session import Session
    from taskrunner.reads import TaskDetail

Flow = Annotated[bool, typer.Option("--flow", help="All that is connected with it by tasks that run after tasks.")]


def cancel(opened: Session, id_: UUID, as_json: bool) -> None:
    """Cancel what has not ended, and say what became of it."""
    from taskrunner import actions
    from taskrunner.cli.session import tell

    outcomes = opened.act(actions.cancel_flow(id_))
    asked = sum(outcome == "requested" for outcome in outcomes.values())
    words = f"cancelled {len(outcomes) - asked}" + (f", asked the runners of {asked} to stop them" if asked else "")
    tell({"outcomes": outcomes}, as_json, words)


def retry(opened: Session, id_: UUID, as_json: bool) -> None:
    """Requeue what is dead, and say as what."""
    from taskrunner import actions
    from taskrunner.cli.session import tell

    fresh = opened.act(actions.retry_flow(id_))
    tell({"requeued": fresh}, as_json, "\n".join(f"{old} was requeued as {new}" for old, new in fresh.items()))


def show(opened: Session, task: TaskDetail) -> None:
    """Draw the flow that a task belongs to, if it does."""
    from taskrunner import console, reads
    from taskrunner.cli.session import emit

    if task.parents or task.children:
        flow = opened.run(reads.flow(task.id))
        emit(flow, False, lambda: console.show_flow(flow, task.id))
