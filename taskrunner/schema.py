"""The database's schema: bring it up or down, and say whether this code can work with it.

Migrations are Alembic's; they ship in the wheel beside the package's modules. All of one run happens in one
transaction behind an advisory lock, so that two processes may migrate at once. Every command asks whether the schema
is current and few migrate: Alembic, which costs half a second, is imported by those.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from taskrunner.db import SCHEMA, Op, in_schema, scalar, translated
from taskrunner.errors import SchemaBehind

if TYPE_CHECKING:
    from alembic.config import Config

CURRENT: Op[str | None] = Op("SELECT version_num FROM taskrunner.schema_version", {}, scalar)


def folder() -> Path:
    """Return where the migrations are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config(**attributes: Any) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def revisions() -> list[str]:
    """Return the revisions that this code knows, the newest last: a migration's file begins with its number."""
    return sorted(path.name.partition("_")[0] for path in (folder() / "versions").glob("[0-9]*_*.py"))


def head() -> str:
    """Return the newest revision this code knows."""
    return revisions()[-1]


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`, upwards; nothing happens when it is there already.

    Raises: `DatabaseUnreachable`.
    """
    _alembic("upgrade", url, revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take the database at `url` down to `revision`; `base` removes every table with what it holds."""
    _alembic("downgrade", url, revision)


def _alembic(action: str, url: str, revision: str) -> None:
    from alembic import command
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    with translated(), psycopg.connect(url, connect_timeout=10, application_name="taskrunner migrate") as conn:
        engine = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=NullPool)
        event.listen(engine, "before_cursor_execute", _in_schema, retval=True)
        with engine.connect() as connection:
            getattr(command, action)(_config(connection=connection), revision)


def _in_schema(_conn: Any, _cursor: Any, statement: str, params: Any, *_: Any) -> tuple[str, Any]:
    """Let a migration, and what Alembic asks the catalogue, mean the schema that this process works in."""
    if isinstance(params, dict):
        params = {name: in_schema(value) if value == SCHEMA else value for name, value in params.items()}
    return in_schema(statement), params


def sql(revision: str = "head") -> str:
    """Return the SQL that brings an empty database to `revision`, for people who run it themselves."""
    from alembic import command

    config = _config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


def check(current: str | None) -> None:
    """Raise `SchemaBehind` if the database's revision is not one this code can work with.

    A revision this code has never heard of is a newer release's: migrations are written so that one release older
    keeps working.
    """
    known = revisions()
    if current is None or current in known[:-1]:
        at = "has no schema" if current is None else f"is at {current}"
        raise SchemaBehind(f"the database {at}, this code needs {known[-1]}: run `taskrunner migrate`")
