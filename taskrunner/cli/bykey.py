"""Which task a command means: by its id, or the live one of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from taskrunner.cli.options import task_id
from taskrunner.errors import InvalidArgument

if TYPE_CHECKING:
    from taskrunner.cli.session import Session

SomeId = Annotated[UUID | None, typer.Argument(metavar="[ID]", help="The task's id.", parser=task_id)]
OfType = Annotated[str | None, typer.Option("--type", help="Instead of the id: the live task of this type …")]
Key = Annotated[str | None, typer.Option(help="… with this key (none for a type that is unique=True) …")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="… of this tenant: `default` if nothing is said.")]


def meant(opened: Session, id_: UUID | None, type_: str | None, key: str | None, tenant: str | None) -> UUID:
    """Return the id of the task. Raises: `NotFound`, `UnknownType`, `InvalidArgument`."""
    if (id_ is None) == (type_ is None) or (type_ is None and key is not None):
        raise InvalidArgument("give the task's id, or --type and --key")
    if id_ is not None:
        return id_
    from taskrunner.intake import held, place_of
    from taskrunner.registry import discover
    from taskrunner.store.replacement import live_of

    registry = discover(opened.settings.project, opened.settings.tasks)
    place = place_of(registry, str(type_), key, tenant or "default")
    return held(opened.run(live_of(place)), place)
