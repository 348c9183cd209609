"""Options that several commands share, and texts of people read as values."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from taskrunner.errors import InvalidArgument
from taskrunner.states import State

if TYPE_CHECKING:
    from taskrunner.reads import TaskFilter


def task_id(text: str) -> UUID:
    """Read a task's id."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no task id: an id is a UUID, as `taskrunner enqueue` prints it"
        ) from None


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TaskId = Annotated[UUID, typer.Argument(metavar="ID", help="The task's id.", parser=task_id)]
ByState = Annotated[State | None, typer.Option("--state", help="Only tasks in this state.")]
ByType = Annotated[str | None, typer.Option("--type", help="Only tasks of this type.")]
ByQueue = Annotated[str | None, typer.Option("--queue", help="Only tasks of this queue.")]
ByTenant = Annotated[str | None, typer.Option("--tenant", help="Only tasks of this tenant.")]
Since = Annotated[str | None, typer.Option(help="Only tasks created since: 15m, 2h, 7d ago, or an ISO time.")]
Until = Annotated[str | None, typer.Option(help="Only tasks created before: 15m, 2h, 7d ago, or an ISO time.")]
ByKey = Annotated[str | None, typer.Option("--key", help="Only tasks with this key.")]
ByError = Annotated[
    str | None, typer.Option("--error", help="Only tasks whose last error has this text, in its message or traceback.")
]
ByRunner = Annotated[
    UUID | None, typer.Option("--runner", metavar="ID", parser=task_id, help="Only tasks of this runner.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="FIELD:VALUE", help="Only tasks with this field: payload.user.id:42. Repeatable."),
]
Search = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SEARCH]...", help="Words such as type:SendEmail state:dead payload.user.id:42."),
]
Delay = Annotated[str | None, typer.Option(help="Due after this time: 30, 15s, 5m, 2h.")]
At = Annotated[str | None, typer.Option(help="Due at this ISO time, as in 2026-01-31T08:00:00Z.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]
After = Annotated[
    UUID | None,
    typer.Option(help="Go on after this id: the last one of the page before.", metavar="ID", parser=task_id),
]


def duration(text: str | None, option: str) -> timedelta | None:
    """Read `30`, `15s`, `5m`, `2h` or `7d`. Raises: `InvalidArgument` naming the option."""
    from taskrunner.settings import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidArgument(f"{option} {error}, not {text!r}") from None


def instant(text: str | None, option: str) -> datetime | None:
    """Read an ISO time with its zone. Raises: `InvalidArgument` naming the option."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{option} must be a time as in 2026-01-31T08:00:00Z, not {text!r}") from None
    if read.tzinfo is None:
        raise InvalidArgument(f"{option} {text} has no time zone: write {text}Z or {text}+02:00")
    return read


def since(text: str | None, now: datetime, option: str = "--since") -> datetime | None:
    """Read an ISO time, or a duration before `now`. Raises: `InvalidArgument`."""
    from taskrunner import search

    return None if text is None else search.instant(text, now, option)


def searched(words: list[str] | None, now: datetime, **filters: Any) -> TaskFilter:
    """Return the filter of a search and of options; the shell has taken the quotes of the words away."""
    from taskrunner import listing, search

    for name in ("since", "until"):
        filters[name] = since(filters.get(name), now, f"--{name}")
    return listing.searched(" ".join(map(search.from_shell, words or [])), now, **filters)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
