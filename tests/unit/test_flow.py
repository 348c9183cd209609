"""Flows as values: what a graph of tasks looks like once it is laid out."""

from __future__ import annotations

import pytest

from taskrunner import Task, chain, group
from taskrunner.errors import InvalidArgument
from taskrunner.flow import Flow, lay_out


class Step(Task):
    name: str


def steps(names: str) -> list[Step]:
    return [Step(name=name) for name in names]


def graph(flow: Flow | Task) -> tuple[str, set[str]]:
    """Return the tasks' names in their order, and the edges as `parent-child` with what a failure means."""
    tasks, edges = lay_out(flow)
    names = [task.name for task in tasks if isinstance(task, Step)]
    marks = {"fail": "", "run": "!", "wait": "?"}
    return "".join(names), {f"{names[one]}{names[two]}{marks[mode]}" for one, two, mode in edges}


def test_a_chain_is_one_after_the_other_and_a_group_side_by_side() -> None:
    a, b, c = steps("abc")
    assert graph(chain(a, b, c)) == ("abc", {"ab", "bc"})
    assert graph(group(a, b, c)) == ("abc", set())
    assert graph(a) == ("a", set())


def test_a_callback_comes_after_all_of_a_group() -> None:
    a, b, c, d = steps("abcd")
    assert graph(group(a, b).then(c, d)) == ("abcd", {"ac", "bc", "cd"})


def test_a_diamond_is_a_chain_with_a_group_in_it() -> None:
    a, b, c, d = steps("abcd")
    assert graph(chain(a, group(b, c), d)) == ("abcd", {"ab", "ac", "bd", "cd"})


def test_chains_and_groups_nest() -> None:
    a, b, c, d, e = steps("abcde")
    assert graph(chain(a, group(chain(b, c), d)).then(e)) == ("abcde", {"ab", "bc", "ad", "ce", "de"})


def test_the_same_task_in_two_places_is_one_task() -> None:
    a, b, c, d = steps("abcd")
    assert graph(group(chain(a, c), chain(b, c), chain(b, d))) == ("acbd", {"ac", "bc", "bd"})


def test_what_a_failure_means_is_said_of_a_chain_and_of_a_callback() -> None:
    a, b, c, d = steps("abcd")
    assert graph(chain(a, b, on_parent_failure="wait").then(c).then(d, on_parent_failure="run")) == (
        "abcd",
        {"ab?", "bc?", "cd!"},
    )
    assert graph(chain(a, chain(b, c, on_parent_failure="run"))) == ("abc", {"ab", "bc!"})


def test_ten_thousand_steps_of_a_chain_are_laid_out() -> None:
    first, *rest = steps("x" * 10_000)
    assert len(lay_out(chain(first, *rest)).edges) == 9_999
    flow = chain(first)
    for step in rest[:2000]:
        flow = flow.then(step)
    assert len(lay_out(flow).edges) == 2_000


def test_a_circle_is_refused_with_its_way_round() -> None:
    """SPEC FLO 57."""
    a, b, c = steps("abc")
    with pytest.raises(InvalidArgument, match=r"round in a circle: Step → Step → Step"):
        lay_out(group(chain(a, b), chain(b, c), chain(c, b)))
    with pytest.raises(InvalidArgument, match=r"circle: Step → Step$"):
        lay_out(chain(a, a))


def test_groups_after_groups_with_too_many_dependencies_are_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidArgument, match="put a task between"):
        lay_out(chain(group(*steps("x" * 1_100)), group(*steps("y" * 1_100))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a, b: chain(), "at least one step"),
        (lambda a, b: group(), "at least one step"),
        (lambda a, b: chain(a, "b"), "must be a task or a flow, not 'b'"),
        (lambda a, b: group([a, b]), r"write group\(\*steps\)"),
        (lambda a, b: chain(a, b, on_parent_failure="maybe"), "'fail', 'run' or 'wait', not 'maybe'"),
        (lambda a, b: chain(a).then(b, on_parent_failure="maybe"), "'fail', 'run' or 'wait', not 'maybe'"),
    ],
)
def test_what_is_no_flow_is_refused_where_it_stands(make: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        make(*steps("ab"))  # type: ignore[operator]
