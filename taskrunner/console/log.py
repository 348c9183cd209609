"""What a task has logged, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from taskrunner.console.terminal import cell
from taskrunner.reads import LogLine

_STYLES = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}


def show_log(lines: Sequence[LogLine]) -> RenderableType:
    """Return the lines as text; where another run of the task begins, one that says so."""
    return Group(*_shown(lines))


def _shown(lines: Sequence[LogLine]) -> Iterator[Text]:
    claim_no = lines[0].claim_no if lines else 0
    for line in lines:
        if line.claim_no != claim_no:
            claim_no = line.claim_no
            yield cell(f"── claim {claim_no} ──", "dim", fold=True)
        first, *more = line.message.splitlines() or [""]
        head = f"{line.logged_at:%Y-%m-%d %H:%M:%S.%f}"[:-3]
        yield cell(f"{head} {line.level:7} {first}", _STYLES.get(line.level, ""), fold=True)
        for text in more:
            yield cell(f"    {text}", "dim", fold=True)
