"""Every file of docs/examples runs as its reader would run it, and ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskrunner.testing.database import Database

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.py"))
PATIENCE = 120  # seconds


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_it_is(example: Path, taskrunner_db: Database, tmp_path: Path) -> None:
    """On a migrated database without anything in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKRUNNER_")}
    ended = subprocess.run(
        [sys.executable, str(example)],
        env={**kept, "DATABASE_URL": taskrunner_db.url},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_each_example_is_named_on_a_page() -> None:
    """An example that nobody finds helps nobody."""
    pages = "".join(page.read_text(encoding="utf-8") for page in EXAMPLES[0].parents[1].rglob("*.md"))
    assert not [path.name for path in EXAMPLES if f"examples/{path.name}" not in pages]
