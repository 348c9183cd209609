"""The database's schema: bring it up or down, and say whether this code can work with it.

Migrations are Alembic's; they ship in the wheel beside the package's modules. All of one run happens in one
transaction behind an advisory lock, so that two processes may migrate at once.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from taskrunner.db import Op, scalar, translated
from taskrunner.errors import SchemaBehind

CURRENT: Op[str | None] = Op("SELECT version_num FROM taskrunner.schema_version", {}, scalar)


def folder() -> Path:
    """Return where the migrations are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def head() -> str:
    """Return the newest revision this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "the package carries no migrations"  # noqa: S101 - a broken build, not an input
    return revision


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`, upwards; nothing happens when it is there already.

    Raises: `DatabaseUnreachable`.
    """
    _alembic(url, command.upgrade, revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take the database at `url` down to `revision`; `base` removes every table with what it holds."""
    _alembic(url, command.downgrade, revision)


def _alembic(url: str, action: Any, revision: str) -> None:
    with translated(), psycopg.connect(url, connect_timeout=10, application_name="taskrunner migrate") as conn:
        engine = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=NullPool)
        with engine.connect() as connection:
            action(_config(connection=connection), revision)


def sql(revision: str = "head") -> str:
    """Return the SQL that brings an empty database to `revision`, for people who run it themselves."""
    config = _config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


def check(current: str | None) -> None:
    """Raise `SchemaBehind` if the database's revision is not one this code can work with.

    A revision this code has never heard of is a newer release's: migrations are written so that one release older
    keeps working.
    """
    known = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
    if current is None or (current in known and current != known[0]):
        at = "has no schema" if current is None else f"is at {current}"
        raise SchemaBehind(f"the database {at}, this code needs {known[0]}: run `taskrunner migrate`")
