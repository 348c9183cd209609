"""Flows: tasks that wait for tasks, as plain values. Nothing happens until `queue.add_flow(flow)`.

`chain(a, b, c)` runs one after the other, `group(a, b)` side by side, `group(a, b).then(c)` c once both have succeeded;
all of them nest. The same task in two places is one task: so any graph without a circle can be said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from taskrunner.errors import InvalidArgument
from taskrunner.task import Task

OnParentFailure: TypeAlias = Literal["fail", "run", "wait"]
"""What a failed parent means for its child: it fails too, runs all the same, or waits until the parent is requeued."""

MODES = ("fail", "run", "wait")
MOST_EDGES = 1_000_000
"""Dependencies in one flow: two groups of a thousand, one after the other."""


class Flow:
    """What `chain` and `group` make; also a single task can be a step."""

    def then(self, *steps: Step, on_parent_failure: OnParentFailure = "fail") -> Chain:
        """Let these steps come after all of this flow, one after the other."""
        return _chained((self, *steps), on_parent_failure)


Step: TypeAlias = Task | Flow


@dataclass(frozen=True, slots=True)
class Chain(Flow):
    """Steps that come one after the other."""

    steps: tuple[Step, ...]
    on_parent_failure: OnParentFailure = "fail"

    def then(self, *steps: Step, on_parent_failure: OnParentFailure | None = None) -> Chain:
        """Let these steps come after the last one; what a failure means stays as it is unless it is said."""
        mode = on_parent_failure or self.on_parent_failure
        whole = (*self.steps, *steps) if mode == self.on_parent_failure else (self, *steps)
        return _chained(whole, mode)


@dataclass(frozen=True, slots=True)
class Group(Flow):
    """Steps that run side by side."""

    steps: tuple[Step, ...]


def chain(*steps: Step, on_parent_failure: OnParentFailure = "fail") -> Chain:
    """Return a flow of steps that run one after the other, each once the one before has succeeded.

    Raises: `InvalidArgument` for what is no task or flow, or for no step at all.
    """
    return _chained(steps, on_parent_failure)


def group(*steps: Step) -> Group:
    """Return a flow of steps that run side by side; what comes after it waits for all of them."""
    return Group(_checked("group", steps))


def _chained(steps: Sequence[Step], on_parent_failure: OnParentFailure) -> Chain:
    return Chain(_checked("chain", steps), check_mode(on_parent_failure))


def _checked(what: str, steps: Sequence[Any]) -> tuple[Step, ...]:
    if not steps:
        raise InvalidArgument(f"{what}() needs at least one step")
    for step in steps:
        if not isinstance(step, Task | Flow):
            hint = f": write {what}(*steps)" if isinstance(step, Iterable) else ""
            raise InvalidArgument(f"a step of {what}() must be a task or a flow, not {step!r:.60}{hint}")
    return tuple(steps)


def check_mode(mode: str) -> OnParentFailure:
    """Return the mode. Raises: `InvalidArgument` for what is none of the choices."""
    if mode not in MODES:
        raise InvalidArgument(f"on_parent_failure must be 'fail', 'run' or 'wait', not {mode!r}")
    return mode  # type: ignore[return-value]  # one of them


class Edge(NamedTuple):
    """Task number `child` comes after task number `parent`."""

    parent: int
    child: int
    on_failure: str


class Layout(NamedTuple):
    """A flow as a graph: its tasks in the order in which they stand there, each once, and its edges."""

    tasks: list[Task]
    edges: list[Edge]


def lay_out(flow: Step) -> Layout:
    """Return the graph of a flow. Raises: `InvalidArgument` for a circle, and for more than MOST_EDGES edges."""
    if not isinstance(flow, Task | Flow):
        raise InvalidArgument(
            f"a flow is a task, chain(…) or group(…), not a {type(flow).__name__}: write group(*tasks)"
        )
    graph = _Graph()
    graph.place(flow, [], "fail")
    graph.refuse_circle()
    return Layout(graph.tasks, [Edge(*pair, mode) for pair, mode in graph.edges.items()])


class _Graph:
    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.edges: dict[tuple[int, int], str] = {}
        self._numbers: dict[int, int] = {}

    def place(self, step: Step, parents: list[int], mode: str) -> list[int]:
        """Put a step behind its parents; returns the tasks that end it."""
        match step:
            case Chain(steps, own_mode):
                for number, part in enumerate(steps):
                    parents = self.place(part, parents, own_mode if number else mode)
                return parents
            case Group(steps):
                ends = [end for part in steps for end in self.place(part, parents, mode)]
                return list(dict.fromkeys(ends))
            case _:
                return [self._put(step, parents, mode)]  # type: ignore[arg-type]  # it is a task

    def _put(self, task: Task, parents: list[int], mode: str) -> int:
        number = self._numbers.setdefault(id(task), len(self.tasks))
        if number == len(self.tasks):
            self.tasks.append(task)
        if len(self.edges) + len(parents) > MOST_EDGES:
            raise InvalidArgument(
                f"the flow has more than {MOST_EDGES:,} dependencies: put a task between groups, which all of the "
                "first lead to and all of the second come after"
            )
        for parent in parents:
            self.edges.setdefault((parent, number), mode)
        return number

    def refuse_circle(self) -> None:
        """Take away what waits for nothing until nothing is left (Kahn's algorithm)."""
        waits, children = [0] * len(self.tasks), [[] for _ in self.tasks]  # type: list[int], list[list[int]]
        for parent, child in self.edges:
            waits[child] += 1
            children[parent].append(child)
        free = [number for number, count in enumerate(waits) if not count]
        for number in free:  # it grows
            for child in children[number]:
                waits[child] -= 1
                if not waits[child]:
                    free.append(child)
        if len(free) < len(self.tasks):
            raise InvalidArgument(f"the flow goes round in a circle: {self._circle(waits)}")

    def _circle(self, waits: list[int]) -> str:
        """Go up from one that waits, always to a parent that waits too, until one is met again."""
        above = {child: parent for parent, child in self.edges if waits[parent] and waits[child]}
        number, path = next(iter(above)), []  # type: int, list[int]
        while number not in path:
            path.append(number)
            number = above[number]
        around = [*path[path.index(number) :], number]
        return " → ".join(type(self.tasks[one]).__name__ for one in reversed(around))
