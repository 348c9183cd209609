"""The pages that are made from the code: `make docs` writes them, and a test compares each with its source.

A row of PAGES is the page's file, the module it is made from, and the function that turns that module into text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTE = "<!-- Made from the code by `make docs`; changes here are overwritten. -->\n\n"
STATES = """# The life of a task

Every state, and every transition that is allowed between them. `pending`, `running` and `blocked` are live; the
others are terminal, and every task ends in exactly one of them.

```mermaid
{diagram}```
"""


def states(module: Any) -> str:
    """Return the page that draws the table of transitions."""
    return NOTE + STATES.format(diagram=module.diagram())


def commands(module: Any) -> str:
    """Return the page that lists every command with its arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    root = typer.main.get_command(module.app)
    text = get_docs_for_click(obj=root, ctx=typer.Context(root), name="taskrunner")
    return NOTE + "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


PAGES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("docs/explanation/states.md", "taskrunner.states", states),
    ("docs/reference/settings.md", "taskrunner.settings.reference", lambda module: str(module.reference())),
    (".env.example", "taskrunner.settings.reference", lambda module: str(module.example())),
    ("docs/reference/cli.md", "taskrunner.cli", commands),
)


def pages() -> Iterator[tuple[Path, str]]:
    """Yield the file and the text of every page whose module is there."""
    for name, module, render in PAGES:
        if find_spec(module) is not None:
            yield ROOT / name, render(import_module(module))


def main() -> None:
    """Write every page."""
    for path, text in pages():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
