"""The history of a run: what the workload saw, as JSON lines that many processes append to, one write a line.

Every line has `what`, `pid`, `at` (this machine's clock, which its database shares) and `mono`, the monotonic one,
which all its processes share. The kinds:

- `enqueue` task, ack (`yes`: the door returned; `unknown`: it raised, the task may be there or not)
- `run` task, claim_no, tries, crashes: user code has begun; `done`: it is about to return; `failed`: to raise
- `effect` task, claim_no: something outside the database was done
- `fault` name, and whatever describes it
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "WORKLOAD_HISTORY"
"""The environment variable that tells the workload's tasks where the history is."""

Event = dict[str, Any]


class History:
    """One file of events; any number of processes and threads may append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: str, **values: Any) -> None:
        """Append an event. O_APPEND and a single write keep lines whole, also when the writer is killed."""
        event = {"what": what, "pid": os.getpid(), "at": time.time(), "mono": time.monotonic(), **values}
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, json.dumps(event, default=str).encode() + b"\n")
        finally:
            os.close(handle)

    def __iter__(self) -> Iterator[Event]:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def of(self, what: str, task: object = None) -> list[Event]:
        """Return the events of a kind, of one task or of all."""
        wanted = None if task is None else str(task)
        return [event for event in self if event["what"] == what and wanted in (None, event.get("task"))]


def here() -> History:
    """Return the history of this process's run."""
    return History(Path(os.environ[VARIABLE]))
