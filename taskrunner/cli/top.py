"""`taskrunner top`: the terminal that people leave open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from taskrunner.schedules import Planner


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: taskrunner top")(top)


def top() -> None:
    """Watch and steer queues, tasks, runners and schedules on the terminal.

    Keys: h l tabs, j k rows, r retry, c cancel, p pause, w why, / filter, ? help; upper case asks first. Needs the
    extra: pip install 'taskrunner[top]'.
    """
    from contextlib import closing

    from taskrunner.cli.session import reconnecting, session
    from taskrunner.errors import ConfigError, InvalidArgument

    if not _is_terminal():
        raise InvalidArgument("there is no terminal here: `taskrunner status --watch` writes lines into a pipe")
    try:
        from taskrunner.top.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise ConfigError("this needs textual, which is not installed: pip install 'taskrunner[top]'") from None
    from taskrunner.top.desk import Desk

    with session() as opened, reconnecting(opened) as current, closing(Desk(current, _planner)) as desk:
        Top(desk, desk.look("queues")).run()


def _is_terminal() -> bool:
    import sys

    return sys.stdin.isatty() and sys.stdout.isatty()


def _planner() -> Planner:
    from taskrunner.registry import discover
    from taskrunner.schedules import Planner
    from taskrunner.settings import load

    settings = load()
    return Planner(discover(settings.project, settings.tasks))
