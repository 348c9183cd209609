"""`make chaos` says by which seed it can be repeated."""

from __future__ import annotations

import os
import secrets


def pytest_report_header() -> str:
    """Choose a seed for all storms of this run, unless one is given, and print it."""
    seed = os.environ.setdefault("TASKRUNNER_CHAOS_SEED", str(secrets.randbelow(2**32)))
    return f"chaos: TASKRUNNER_CHAOS_SEED={seed} repeats it, as far as processes can be repeated"
