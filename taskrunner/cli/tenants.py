"""`taskrunner tenants`: database logins that belong to one tenant each."""

from __future__ import annotations

from typing import Annotated

import typer

from taskrunner.cli.options import AsJson

app = typer.Typer(help="Map database logins to tenants.", no_args_is_help=True, rich_markup_mode=None)

Login = Annotated[str, typer.Argument(metavar="LOGIN", help="The database login.")]


@app.command("list", epilog="Example: taskrunner tenants list --json")
def list_(as_json: AsJson = False) -> None:
    """List the logins that are mapped to a tenant."""
    from taskrunner import console, roles
    from taskrunner.cli.session import emit, session

    with session() as opened:
        found = [one._asdict() for one in opened.run(roles.mappings())]
    emit(found, as_json, lambda: console.show_logins(found))


@app.command("map", epilog="Example: taskrunner tenants map acme_reports acme")
def map_(
    login: Login,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose rows it sees and changes.")],
    as_json: AsJson = False,
) -> None:
    """Let a database login see and change the rows of one tenant, whatever it sets.

    For logins that write their own SQL. The roles are made by `taskrunner migrate --roles`, the login by you.
    """
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session() as opened:
        opened.act(actions.map_tenant(login, tenant))
    tell({"login": login, "tenant": tenant}, as_json, f"{login} sees the tenant {tenant}")


@app.command(epilog="Example: taskrunner tenants unmap acme_reports")
def unmap(login: Login, as_json: AsJson = False) -> None:
    """Take a login its tenant: it sees nothing from now on."""
    from taskrunner import actions
    from taskrunner.cli.session import session, tell

    with session() as opened:
        tenant = opened.act(actions.unmap_tenant(login))
    tell({"login": login, "tenant": tenant}, as_json, f"{login} sees nothing any more")
