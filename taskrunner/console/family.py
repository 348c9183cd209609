"""A flow as a tree: each task once, beneath the last of those that it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from rich.text import Text
from rich.tree import Tree

from taskrunner.console.lists import STYLES
from taskrunner.reads import FlowTask, FlowView

_ALIKE = 5  # tasks of one type and state, beneath one parent, are a line each; more of them are one line
_LINES = 200


def show_flow(flow: FlowView, marked: UUID) -> Tree:
    """Return the flow, the task `marked` in bold; of many alike with nothing beneath them, only how many there are."""
    drawing = _Drawing(flow, marked)
    tree = Tree(Text(f"flow of {len(flow.tasks)} tasks", "bold"))
    drawing.draw(tree)
    return tree


class _Drawing:
    def __init__(self, flow: FlowView, marked: UUID) -> None:
        self._marked = marked
        self._tasks = {task.id: task for task in flow.tasks}
        self._parents: dict[UUID, int] = {}
        last: dict[UUID, UUID] = {}
        for parent, child in flow.edges:  # in the order of the parents' ids
            self._parents[child] = self._parents.get(child, 0) + 1
            last[child] = parent
        self._beneath: dict[UUID | None, list[FlowTask]] = {}
        for task in flow.tasks:
            self._beneath.setdefault(last.get(task.id), []).append(task)

    def draw(self, tree: Tree) -> None:
        """Branch by branch without recursion: a chain may be longer than Python's stack."""
        waiting: list[tuple[Tree, UUID | None]] = [(tree, None)]
        lines = 0
        for branch, above in waiting:  # it grows
            for alike in self._lines(self._beneath.get(above, ())):
                if lines == _LINES:
                    branch.add(Text("…", "dim"))
                    return
                lines += 1
                added = branch.add(self._label(alike))
                if len(alike) == 1:
                    waiting.append((added, alike[0].id))

    def _lines(self, tasks: Sequence[FlowTask]) -> list[list[FlowTask]]:
        kinds: dict[tuple[str, str], list[FlowTask]] = {}
        lines: list[list[FlowTask]] = []
        for task in tasks:
            if task.id in self._beneath or task.id == self._marked or self._parents.get(task.id, 0) > 1:
                lines.append([task])
            else:
                kinds.setdefault((task.type, task.state), []).append(task)
        for alike in kinds.values():
            lines += [alike] if len(alike) > _ALIKE else [[task] for task in alike]
        return sorted(lines)

    def _label(self, alike: Sequence[FlowTask]) -> Text:
        task = alike[0]
        state = (task.state, STYLES.get(task.state, ""))
        if len(alike) > 1:
            return Text.assemble(f"{len(alike)} × {task.type} ", state)
        parents = self._parents.get(task.id, 0)
        after = f" after {parents} tasks" if parents > 1 else ""
        style = "bold" if task.id == self._marked else ""
        return Text.assemble((f"{task.type} {task.id}", style), " ", state, (after, "dim"))
