"""A flow as a tree: each task once, beneath the last of those that it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from rich.text import Text
from rich.tree import Tree

from taskrunner.console.lists import STYLES
from taskrunner.console.terminal import cell
from taskrunner.reads import FlowTask, FlowView

_ALIKE = 5  # tasks of one type and state, beneath one parent, are a line each; more of them are one line
_LINES = 200
_DEEP = 4  # what comes after that stays on its level, with an arrow: a line has 80 columns


def show_flow(flow: FlowView, marked: UUID) -> Tree:
    """Return the flow, the task `marked` in bold; of many alike with nothing beneath them, only how many there are."""
    drawing = _Drawing(flow, marked)
    tree = Tree(Text(f"flow of {flow.size}", "bold"))
    drawing.draw(tree)
    return tree


class _Drawing:
    def __init__(self, flow: FlowView, marked: UUID) -> None:
        self._marked = marked
        self._room = _LINES
        self._deep = False
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
        """Draw all beneath the tree, or as much as there is room for."""
        self._draw(tree, None, 1)
        if self._room < 0:
            tree.add(Text("…", "dim"))
        if self._deep:
            tree.label = Text.assemble(tree.label, ("; ↓ after the line above", "dim"))  # type: ignore[arg-type]  # a Text

    def _draw(self, branch: Tree, above: UUID | None, depth: int) -> None:
        """The room for lines also bounds the recursion: a chain may be longer than Python's stack."""
        for alike in self._lines(self._beneath.get(above, ())):
            self._room -= 1
            if self._room < 0:
                return
            self._deep |= depth > _DEEP
            added = branch.add(self._label(alike, level=depth > _DEEP))
            if len(alike) == 1:
                self._draw(branch if depth >= _DEEP else added, alike[0].id, depth + 1)

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

    def _label(self, alike: Sequence[FlowTask], *, level: bool) -> Text:
        task = alike[0]
        state = (task.state, STYLES.get(task.state, ""))
        arrow = ("↓ " if level else "", "dim")
        if len(alike) > 1:
            return Text.assemble(arrow, f"{len(alike)} × ", cell(task.type), " ", state)
        parents = self._parents.get(task.id, 0)
        after = f" after {parents} tasks" if parents > 1 else ""
        style = "bold" if task.id == self._marked else ""
        return Text.assemble(arrow, cell(f"{task.type} {task.id}", style), " ", state, (after, "dim"))
