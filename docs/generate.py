"""The pages that are made from the code: `make docs` writes them, and a test compares each with its source.

A row of PAGES is the page's file, the module it is made from, and the function that turns that module into text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
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


ERRORS = """# Errors and exit codes

Every error that taskrunner raises on purpose is a `taskrunner.errors.TaskrunnerError`. The command line prints it as
one line, `error: …`, and leaves with the exit code of its class: 0 is success, 2 also a command line that cannot be
parsed.

```text
{tree}
```

| class | is a | exit code | when |
|---|---|---:|---|
"""


def errors(module: Any) -> str:
    """Return the page of the tree of errors, with each class's exit code and docstring."""
    tree = str(module.__doc__).partition("::")[2].strip("\n")
    found = [module.TaskrunnerError, *_below(module.TaskrunnerError)]
    rows = [
        f"| `{cls.__name__}` | {', '.join(f'`{base.__name__}`' for base in cls.__bases__)} "
        f"| {cls.exit_code} | {cls.__doc__} |"
        for cls in found
    ]
    return NOTE + ERRORS.format(tree=dedent(tree).rstrip()) + "\n".join(rows) + "\n"


def _below(cls: type) -> Iterator[Any]:
    for one in cls.__subclasses__():
        if one.__module__ == cls.__module__:  # not those that some other module has added
            yield one
            yield from _below(one)


TABLES = """# Tables

All tables are in the schema `taskrunner`. Read them as you like; a task's state is changed by taskrunner alone: use the
command line, the API or a door. `taskrunner migrate --sql` prints the SQL that makes them.
"""


def tables(module: Any) -> str:
    """Return the page that lists every table with its columns."""
    documented = {one.__tablename__: one for one in module.Table.__subclasses__()}
    return NOTE + TABLES + "".join(_table(one, documented[one.name]) for one in module.metadata.tables.values())


def _table(table: Any, model: Any) -> str:
    from sqlalchemy.dialects import postgresql

    lines = [f"\n## {table.name}\n", f"{model.__doc__}\n", "| column | type | default |", "|---|---|---|"]
    for column in table.columns:
        kind = column.type.compile(dialect=postgresql.dialect()).lower()
        default = getattr(column.server_default, "arg", "")
        default = f"`{default}`" if str(default) else ""
        lines.append(f"| `{column.name}` | {kind}{' or null' if column.nullable else ''} | {default} |")
    return "\n".join(lines) + "\n"


PAGES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("docs/explanation/states.md", "taskrunner.states", states),
    ("docs/reference/settings.md", "taskrunner.settings.reference", lambda module: str(module.reference())),
    (".env.example", "taskrunner.settings.reference", lambda module: str(module.example())),
    ("docs/reference/cli.md", "taskrunner.cli", commands),
    ("docs/reference/errors.md", "taskrunner.errors", errors),
    ("docs/reference/tables.md", "taskrunner.models", tables),
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
