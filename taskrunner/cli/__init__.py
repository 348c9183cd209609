"""The command `taskrunner`: every sub-command parses, calls one function, prints, and leaves with an exit code.

Data go to stdout, talk to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 database unreachable,
5 schema behind. This package imports nothing but typer at its top: what a command needs, it loads when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from taskrunner.cli import (
    admin,
    audit,
    bench,
    dead,
    doctor,
    enqueue,
    init,
    queues,
    runners,
    schedules,
    start,
    status,
    tasks,
    tenants,
    top,
)
from taskrunner.errors import DatabaseUnreachable, TaskrunnerError

# As `--help` lists them: first steps, looking, steering, operating.
ORDER = (
    *("init", "start", "status", "top", "enqueue", "tasks", "dead", "schedules", "queues"),
    *("tenants", "runners", "audit"),
    *("why", "doctor", "migrate", "maintain", "health", "config", "bench"),
)


class Ordered(TyperGroup):
    """The commands in our order: typer alone puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names as `--help` lists them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="taskrunner",
    cls=Ordered,
    help="Background tasks and recurring schedules, on PostgreSQL and nothing else.",
    epilog="Example: taskrunner start all",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"taskrunner {version('taskrunner')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Background tasks and recurring schedules, on PostgreSQL and nothing else."""


init.register(app)
app.add_typer(start.app, name="start")
status.register(app)
top.register(app)
enqueue.register(app)
app.add_typer(tasks.app, name="tasks")
app.add_typer(dead.app, name="dead")
app.add_typer(schedules.app, name="schedules")
app.add_typer(queues.app, name="queues")
app.add_typer(audit.app, name="audit")
app.add_typer(tenants.app, name="tenants")
app.add_typer(runners.app, name="runners")
doctor.register(app)
admin.register(app)
bench.register(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; an error of ours becomes one line on stderr and its exit code."""
    command = typer.main.get_command(app)
    try:
        command(args=arguments, prog_name="taskrunner")
    except TaskrunnerError as error:
        remedy = ": `taskrunner config show` says which one is meant" if isinstance(error, DatabaseUnreachable) else ""
        typer.echo(f"error: {error}{remedy}", err=True)
        sys.exit(error.exit_code)
    sys.exit(0)
