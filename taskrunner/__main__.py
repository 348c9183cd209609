"""`python -m taskrunner` is the command `taskrunner`."""

from __future__ import annotations

from taskrunner.cli import main

if __name__ == "__main__":
    main()
