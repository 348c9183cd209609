"""`taskrunner migrate`, `maintain`, `health` and `config`: for whoever operates it."""

from __future__ import annotations

from typing import Annotated

import typer

from taskrunner.cli.options import AsJson
from taskrunner.cli.session import check_schema, emit, session, talk, tell

config = typer.Typer(help="Show and check the settings.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands and the group."""
    app.command(epilog="Example: taskrunner migrate --sql > schema.sql")(migrate)
    app.command(epilog="Example: taskrunner maintain --json")(maintain)
    app.command(epilog="Example: taskrunner health --ready")(health)
    app.add_typer(config, name="config")


def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL for an empty database; change nothing.")] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Also make the roles; with --sql: print what makes them.")
    ] = False,
    role_prefix: Annotated[
        str, typer.Option(metavar="NAME", help="What the roles' names begin with: one for each database of a server.")
    ] = "taskrunner",
    as_json: AsJson = False,
) -> None:
    """Bring the database up to this release.

    Nothing happens when it is there already; processes may do it at the same time. With --roles it gets roles for
    runners, applications and tenants' logins: this needs a login that may create roles, no superuser.
    """
    from taskrunner import roles as making
    from taskrunner import schema
    from taskrunner.access import database
    from taskrunner.console import waiting
    from taskrunner.db import connect
    from taskrunner.settings import load

    if sql:
        typer.echo(making.script(role_prefix) if roles else schema.sql(), nl=False)
        return
    with database(load()) as way:
        with waiting("migrating the database"):
            schema.migrate(way.url)
        with connect(way.url, name="taskrunner cli") as connection:
            revision = check_schema(connection)
        if roles:
            making.create(way.url, role_prefix)
    made = {"roles": [f"{role_prefix}_{kind}" for kind in making.KINDS]} if roles else {}
    shown = "".join(f"\nthere is {name}" for name in made.get("roles", ()))
    tell({"revision": revision, **made}, as_json, f"the schema is at {revision}{shown}")


def maintain(as_json: AsJson = False) -> None:
    """Do the maintenance once.

    Tasks of dead runners are taken back, partitions of history made ahead of time and dropped when their time is over.
    A scheduler does all this by itself.
    """
    import asyncio
    from dataclasses import asdict

    from taskrunner import janitor
    from taskrunner.console import waiting
    from taskrunner.db import Link

    async def duties(url: str) -> janitor.Maintained:
        link = Link(url, name="taskrunner janitor", prepare=opened.settings.prepare, patience=janitor.LONGEST)
        try:
            return await janitor.maintain(link, opened.settings)
        finally:
            await link.close()

    with session() as opened, waiting("maintenance"):
        done = asyncio.run(duties(opened.url))
    gone = ", ".join(f"{count} {kind}" for kind, count in done.deleted.items() if count) or "none"
    words = f"partitions: {len(done.created)} made, {len(done.dropped)} dropped, {len(done.blocked)} blocked"
    swept = f"; rows swept from others: {sum(done.swept.values())}" if done.swept else ""
    files = "".join(f"\narchived {path}" for path in done.archived)
    tell(asdict(done), as_json, f"{words}{swept}; rows moved: {done.moved}; rows deleted: {gone}{files}")
    for name, reason in done.failed.items():
        talk(f"{name} was kept, because it could not be archived: {reason}")
    if done.failed:
        raise typer.Exit(1)


def health(
    ready: Annotated[bool, typer.Option("--ready", help="Also: the schema is current and a runner is alive.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether the database answers.

    The exit code says why not: 4 the database is unreachable; with --ready also 5 its schema is behind, 1 no runner is
    alive.
    """
    from taskrunner.db import Op, scalar
    from taskrunner.errors import NotFound

    with session(checked=ready) as opened:
        if not ready:
            opened.run(Op("SELECT 1", {}, scalar))
            tell({"status": "ok"}, as_json, "ok")
            return

        from taskrunner import reads

        alive = opened.run(reads.live_runners())
    if not alive:
        raise NotFound("no runner is alive: start one with `taskrunner start runner`")
    tell({"status": "ok", "runners": alive}, as_json, f"ok, {alive} runners")


@config.command(epilog="Example: taskrunner config show --json")
def show(as_json: AsJson = False) -> None:
    """Show every setting with its source.

    Secrets are masked.
    """
    from taskrunner import console
    from taskrunner.settings import explain, load

    found = explain(load())
    emit(found, as_json, lambda: console.show_settings(found))


@config.command(epilog="Example: taskrunner config check")
def check(as_json: AsJson = False) -> None:
    """Check the settings and the task types.

    The tasks folder is imported, nothing is started; the types are printed.
    """
    from taskrunner.registry import discover
    from taskrunner.settings import load

    settings = load()
    registry = discover(settings.project, settings.tasks)
    if not registry.names():
        talk(f"no task type is registered in {settings.project / settings.tasks}")
    tell(registry.names(), as_json, "\n".join(registry.names()))
