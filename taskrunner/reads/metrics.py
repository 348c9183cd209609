"""What `/metrics` reads beside the status: how much ended in the last minutes, and how the server is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from taskrunner.db import Op, Row
from taskrunner.statements import metrics as sql


class EndedInMinute(NamedTuple):
    """What ended in one minute of one type in one queue; the histograms count runs and waits by `buckets.BOUNDS`."""

    minute: datetime
    queue: str
    type: str
    outcome: str
    ended: int
    run_seconds: float
    wait_seconds: float
    runs: list[int]
    waits: list[int]


class Server(NamedTuple):
    """How the database server is; sizes in bytes. What is not told to this login is None."""

    oldest_transaction_seconds: float | None
    connections: int
    max_connections: int
    dead_rows: int
    task_bytes: int
    dead_letter_bytes: int
    history_bytes: int
    partitions: int


def ended_lately(window: timedelta) -> Op[list[EndedInMinute]]:
    """Return what ended in the minutes that began within the window; their rows still grow."""
    return Op(sql.ENDED, {"window": window}, lambda rows: [EndedInMinute(*row) for row in rows])


def server() -> Op[Server]:
    """Return how the server is."""
    return Op(sql.SERVER, {}, _server)


def _server(rows: Sequence[Row]) -> Server:
    return Server(*rows[0])
