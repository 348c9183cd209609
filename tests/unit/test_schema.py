"""What this code knows of the database's schema without asking anybody: the revisions, and which it can work with."""

from __future__ import annotations

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from taskrunner import schema
from taskrunner.errors import SchemaBehind


def test_the_revisions_in_the_files_names_are_those_that_alembic_would_run() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.folder()))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert schema.revisions() == [script.revision for script in scripts.walk_revisions()][::-1]
    assert schema.head() == scripts.get_current_head()


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "revisions", lambda: ["0001", "0002", "0003"])


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("current", "found"), [(None, "has no schema"), ("0001", "is at 0001"), ("0002", "is at 0002")]
)
def test_a_database_that_is_behind_is_told_with_the_command_to_run(current: str | None, found: str) -> None:
    with pytest.raises(SchemaBehind, match=rf"the database {found}, this code needs 0003: run `taskrunner migrate`"):
        schema.check(current)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("current", ["0003", "0004"])
def test_the_same_revision_and_a_newer_releases_are_fine(current: str) -> None:
    """SPEC HIS 53: a runner one release older keeps working on the newer schema."""
    schema.check(current)
