"""`taskrunner start`: the processes that do the work."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskrunner.cli.session import check_schema

if TYPE_CHECKING:
    from taskrunner.access import Access
    from taskrunner.settings import Settings

log = logging.getLogger("taskrunner.start")

ALL = ("scheduler", "runner", "api")

app = typer.Typer(help="Start the processes that do the work.", no_args_is_help=True, rich_markup_mode=None)

Queues = Annotated[str | None, typer.Option(help="Queues to take from, with weights: mail:2,default.")]
Concurrency = Annotated[str | None, typer.Option(metavar="N", help="Tasks that one runner process runs at once.")]
Processes = Annotated[str | None, typer.Option(metavar="N", help="Runner processes.")]
Grace = Annotated[str | None, typer.Option(metavar="S", help="Time that running tasks get to finish: 30, 5m.")]
Host = Annotated[str | None, typer.Option(help="Address the API listens on.")]
Port = Annotated[str | None, typer.Option(metavar="N", help="Port the API listens on; 0 takes a free one.")]
Level = Annotated[str | None, typer.Option(help="Least severe log lines: debug, info, warning, error.")]
Format = Annotated[str | None, typer.Option(help="Log lines as text or json; auto is text on a terminal.")]


@app.command("all", epilog="Example: taskrunner start all --concurrency 20")
def all_(
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    grace: Grace = None,
    host: Host = None,
    port: Port = None,
    log_level: Level = None,
    log_format: Format = None,
) -> None:
    """Start scheduler, runner and API together.

    The schema is migrated first. SIGTERM and Ctrl-C let running tasks finish; a second one releases them at once.
    """
    flags = {
        "queues": queues,
        "concurrency": concurrency,
        "processes": processes,
        "grace": grace,
        "api_host": host,
        "api_port": port,
        "log_level": log_level,
        "log_format": log_format,
    }
    _start(ALL, flags)


@app.command(epilog="Example: taskrunner start runner --queues mail:2,default --processes 4")
def runner(
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    grace: Grace = None,
    log_level: Level = None,
    log_format: Format = None,
) -> None:
    """Start runners: they claim tasks and run them.

    SIGTERM and Ctrl-C let running tasks finish; a second one releases them at once.
    """
    flags = {
        "queues": queues,
        "concurrency": concurrency,
        "processes": processes,
        "grace": grace,
        "log_level": log_level,
        "log_format": log_format,
    }
    _start(("runner",), flags)


@app.command(epilog="Example: taskrunner start scheduler")
def scheduler(grace: Grace = None, log_level: Level = None, log_format: Format = None) -> None:
    """Start a scheduler.

    It turns schedules into tasks, and does the maintenance. There may be any number.
    """
    _start(("scheduler",), {"grace": grace, "log_level": log_level, "log_format": log_format})


@app.command(epilog="Example: taskrunner start api --port 9000")
def api(
    host: Host = None, port: Port = None, grace: Grace = None, log_level: Level = None, log_format: Format = None
) -> None:
    """Start the HTTP API; /docs lists what it answers."""
    flags = {"api_host": host, "api_port": port, "grace": grace, "log_level": log_level, "log_format": log_format}
    _start(("api",), flags)


def _start(kinds: tuple[str, ...], flags: dict[str, Any]) -> None:
    from taskrunner import logs
    from taskrunner.access import database
    from taskrunner.settings import load
    from taskrunner.supervisor import supervise

    settings = load(flags)
    _check_tasks()
    logs.configure(settings.log_level, settings.log_format)
    with database(settings) as way:
        _introduce(kinds, settings, way)
        _prepare(way.url, migrate=kinds == ALL)
        code = supervise(kinds, settings, way.url)
    raise typer.Exit(code)


def _introduce(kinds: tuple[str, ...], settings: Settings, way: Access) -> None:
    """Say in two lines what is started on which database, and how to stop it."""
    from taskrunner.settings.values import format_duration, mask_url

    if way.data is None:
        log.info("database: %s", mask_url(way.url))
    else:
        log.info("no DATABASE_URL: using a private PostgreSQL, its data are in %s", way.data)
    runners = "runner" if settings.processes == 1 else f"{settings.processes} runners"
    what = " + ".join(runners if kind == "runner" else kind for kind in kinds)
    log.info("starting %s; Ctrl-C ends it: what is running gets %s to finish", what, format_duration(settings.grace))


def _check_tasks() -> None:
    """Import the tasks folder once, in a process that ends, since a supervisor runs no user code.

    Exits as that process does when a module cannot be imported; it has said why.
    """
    _do("config", "check")


def _prepare(url: str, *, migrate: bool) -> None:
    """Check the schema, or bring it up first: in a process that ends, since Alembic would stay in this one's memory."""
    from taskrunner.db import connect
    from taskrunner.errors import SchemaBehind

    with connect(url, name="taskrunner cli") as connection:
        try:
            check_schema(connection)
        except SchemaBehind:
            if not migrate:
                raise
            _do("migrate")
            check_schema(connection)


def _do(*command: str) -> None:
    """Run one of our commands in a process of its own; exit as it does if it fails."""
    words = [sys.executable, "-P", "-m", "taskrunner", *command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
