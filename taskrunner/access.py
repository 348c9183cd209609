"""Which database: DATABASE_URL, else the project's private server, joined by this process for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from taskrunner.errors import EmbeddedError
from taskrunner.settings import UNMARKED, Settings


@dataclass(frozen=True, slots=True)
class Access:
    """A way to the database; `data` is where the private server keeps it, None for a server of the user's."""

    url: str
    data: Path | None = None
    started: bool = False


@contextmanager
def database(settings: Settings) -> Iterator[Access]:
    """Lend the way to the database; a private server is left again afterwards, and stops after its last user.

    Raises: `EmbeddedError` when there is neither DATABASE_URL nor a PostgreSQL that could be started, and where a new
    one would be made in a folder that is no project.
    """
    if settings.database_url is not None:
        yield Access(settings.database_url.get_secret_value())
        return
    from taskrunner.embedded import is_made, join

    if settings.origin("project") == UNMARKED and not is_made(settings.project):
        raise EmbeddedError(
            f"no project here: there is neither taskrunner.toml nor a folder {settings.tasks} with modules in "
            f"{settings.project} or above it: change into the project's folder, run `taskrunner init`, or set "
            "DATABASE_URL"
        )
    with join(settings.project, binaries=settings.pg_bin) as server:
        yield Access(server.url, server.data, server.started)
