"""What a task is connected with: its parents and children, and the whole flow as a graph."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pydantic import BaseModel

from taskrunner.db import Op, Steps, column
from taskrunner.idtime import ended_since
from taskrunner.reads.views import TaskView
from taskrunner.statements import flow as sql

MOST = 500
"""Tasks of a flow that are read, those that are nearest to the one that is looked at; also parents, and children."""


class TaskDetail(TaskView):
    """A task and the ids of those that it waits for, or waited for, and of those that wait for it: the first 500."""

    parents: list[UUID]
    children: list[UUID]
    parents_count: int = 0
    children_count: int = 0


class FlowTask(NamedTuple):
    """A task of a flow; one that was requeued is there as what was made of it."""

    id: UUID
    type: str
    state: str
    requeued_as: UUID | None


class FlowView(BaseModel):
    """Tasks in the order of their ids, and pairs of a parent and its child; `more` if the flow has others too."""

    tasks: list[FlowTask]
    edges: list[tuple[UUID, UUID]]
    more: bool = False

    @property
    def size(self) -> str:
        """How many tasks it has, as far as that is known."""
        return f"more than {len(self.tasks)} tasks" if self.more else f"{len(self.tasks)} tasks"


def detail(task: TaskView) -> Steps[TaskDetail]:
    """Return the task with the first of its parents and children, and how many it has of each."""
    pairs = yield Op(sql.FAMILY, {"id": task.id, "most": MOST}, list)
    parents = [parent for parent, child in pairs if child == task.id]
    children = [child for parent, child in pairs if parent == task.id]
    sizes = len(parents), len(children)
    if MOST in sizes:
        sizes = (yield Op(sql.FAMILY_SIZE, {"id": task.id}, list))[0]
    return TaskDetail(**dict(task), parents=parents, children=children, parents_count=sizes[0], children_count=sizes[1])


def flow(id_: UUID) -> Steps[FlowView]:
    """Return the nearest `MOST` that are connected with a task; what retention has removed is left out."""
    found: list[UUID] = yield Op(sql.FLOW, {"id": id_, "most": MOST + 1}, column)
    ids = found[:MOST]
    rows = yield Op(sql.MEMBERS, {"ids": ids, "since": ended_since(ids)}, list)
    tasks = {row[0]: FlowTask(*row) for row in rows}
    shown = [task for task in tasks.values() if task.requeued_as not in tasks]
    pairs = yield Op(sql.EDGES, {"ids": [task.id for task in shown]}, list)
    return FlowView(tasks=sorted(shown), edges=pairs, more=len(found) > MOST)
