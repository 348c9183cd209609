"""`taskrunner init`: a project with a first task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

HELLO = '''"""A first task. Every module in this folder is imported; nothing else has to list it."""

from taskrunner import Task, register_task


@register_task("Hello")
class Hello(Task):
    name: str = "world"

    async def run(self) -> str:
        return f"Hello, {self.name}!"
'''

SETTINGS = """\
# Settings of this project: `taskrunner config show` prints all of them, with their values and where those came from.
# DATABASE_URL names the PostgreSQL to use; without it, a private one is started in .taskrunner/.

# concurrency = 100
"""

FILES = {"tasks/hello.py": HELLO, "taskrunner.toml": SETTINGS}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: taskrunner init shop")(init)


def init(folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path()) -> None:
    """Write a project with a first task. Files that are there already stay as they are."""
    from taskrunner.cli.session import talk
    from taskrunner.errors import ConfigError

    for name, content in FILES.items():
        file = folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as fresh:
                fresh.write(content)
        except FileExistsError:
            talk(f"{file} is there already: left alone")
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
        else:
            typer.echo(file)
    talk(_next_steps(folder))


def _next_steps(folder: Path) -> str:
    enter = "" if folder.resolve() == Path.cwd() else f"\n  cd {os.fspath(folder)}"
    return f"""
Next:{enter}
  taskrunner start all        # in another terminal: scheduler, runner and API
  taskrunner enqueue Hello '{{"name": "you"}}' --wait
  taskrunner status"""
