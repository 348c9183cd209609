"""`taskrunner runners`: the processes that run tasks and schedules."""

from __future__ import annotations

import typer

from taskrunner.cli.options import AsJson

app = typer.Typer(help="List runners and schedulers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def runners() -> None:
    """List runners and schedulers."""


@app.command("list", epilog="Example: taskrunner runners list")
def list_(as_json: AsJson = False) -> None:
    """List processes and their leases.

    One whose lease is over counts as dead: its tasks are taken back.
    """
    from taskrunner import console, reads
    from taskrunner.cli.session import emit, session

    with session() as opened:
        found = opened.run(reads.runners())
    emit(found, as_json, lambda: console.show_runners(found, ids=console.screen().width >= console.WIDE))
