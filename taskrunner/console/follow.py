"""How far one task is: in words, and live as a bar until it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from rich.console import Console

from taskrunner.console.terminal import cell, until_interrupted
from taskrunner.console.words import stamp
from taskrunner.errors import DatabaseUnreachable
from taskrunner.reads import TaskView
from taskrunner.states import TERMINAL

if TYPE_CHECKING:
    from rich.progress import Progress

PAUSE = 0.5
"""Seconds between two looks: progress is written as often."""

Look = Callable[[], TaskView]


def progress_words(progress: Any) -> str:
    """Return a task's progress as a person says it; what some other hand has written as it is."""
    match progress:
        case {"done": int() | float() as done, "total": int() | float() as total, "message": str() | None as message}:
            share = f" ({done / total:.0%})" if total else ""
            return _with(f"{done:g} of {total:g}{share}" if total < 1e5 else f"{done:,} of {total:,}{share}", message)
        case {"done": int() | float() as done, "total": None, "message": str() | None as message}:
            return _with(f"{done:,}", message)
    return to_json(progress).decode()


def _with(words: str, message: str | None) -> str:
    return f"{words}: {message}" if message else words


def follow_task(console: Console, look: Look, line: Callable[[TaskView], str] | None = None) -> TaskView | None:
    """Show a task until it has ended, and return it then; None after Ctrl-C.

    On a terminal as a bar; with `line`, or without a terminal, as a line for each change. The first look must succeed.
    """
    with until_interrupted() as interrupted, suppress(KeyboardInterrupt):
        if console.is_terminal and line is None:
            return _draw(console, look, interrupted)
        said = None
        for task, trouble in _looks(look, interrupted):
            words = trouble or (line or task_line)(task)
            if words != said:
                console.file.write(words + "\n")
                console.file.flush()
            said = words
            if task.state in TERMINAL:
                return task
    return None


def task_line(task: TaskView) -> str:
    """Return where a task is in one line, for a watch that is no terminal."""
    since = stamp(task.finished_at or task.started_at or task.created_at)
    words = cell(progress_words(task.progress)).plain if task.progress is not None else ""
    return f"{task.state} since {since}" + (f"  {words}" if words else "")


def _draw(console: Console, look: Look, interrupted: Event) -> TaskView | None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[state]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task("", total=None, state="", words="")
        for task, trouble in _looks(look, interrupted):
            _move(bar, task, trouble)
            if task.state in TERMINAL:
                return task
    return None


def _move(bar: Progress, task: TaskView, trouble: str) -> None:
    """Without a total the bar only pulses."""
    progress = task.progress if isinstance(task.progress, dict) else {}
    done, total = progress.get("done"), progress.get("total")
    numbers = isinstance(done, int | float) and isinstance(total, int | float)
    words = trouble or (progress_words(task.progress) if task.progress is not None else "")
    state = cell(f"{task.type} {task.state}").plain
    bar.update(
        bar.task_ids[0],
        total=total if numbers else None,
        completed=done if numbers else 0,
        state=state,
        words=cell(words).plain,
    )


def _looks(look: Look, interrupted: Event) -> Iterator[tuple[TaskView, str]]:
    """Yield a look twice a second; while the database is away, the last one with the reason."""
    task, trouble = look(), ""
    while True:
        yield task, trouble
        if interrupted.wait(PAUSE):
            return
        try:
            task, trouble = look(), ""
        except DatabaseUnreachable as error:
            trouble = str(error)
