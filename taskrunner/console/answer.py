"""Why a task does not run, for people."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from taskrunner.console.terminal import cell
from taskrunner.console.words import stamp

if TYPE_CHECKING:
    from taskrunner.reads import Why


def show_why(why: Why) -> RenderableType:
    """Return the sentence, what it rests on, and what to do next."""
    parts: list[RenderableType] = [
        Text.assemble((f"{why.state}, {why.reason}", "bold"), ": ", cell(why.answer, fold=True), overflow="fold")
    ]
    parts += [cell(f"  · {name.replace('_', ' ')}: {_words(value)}", fold=True) for name, value in why.facts.items()]
    parts += [cell(f"  next: {command}", "green", fold=True) for command in why.commands]
    return Group(*parts)


def _words(value: Any) -> str:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, float):
        return f"{value:,.1f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
