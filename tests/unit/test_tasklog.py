"""Lines on their way to the database: none is lost while it is away, and memory stays bounded."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from taskrunner import tasklog
from taskrunner.db import Op
from taskrunner.errors import DatabaseUnreachable
from taskrunner.tasklog import TaskLog

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Database:
    """Takes statements, or is away."""

    def __init__(self) -> None:
        self.there = True
        self.batches: list[list[str]] = []

    async def __call__(self, op: Op[None]) -> None:
        if not self.there:
            raise DatabaseUnreachable("away")
        self.batches.append(list(op.params["messages"]))

    @property
    def lines(self) -> list[str]:
        return [line for batch in self.batches for line in batch]


def attempt(number: int) -> Any:
    claim = SimpleNamespace(id=UUID(int=number), tenant="default", claim_no=1)
    return _Attempt(claim)


class _Attempt:
    def __init__(self, claim: Any) -> None:
        self.claim = claim
        self.ended: float | None = None

    def veiled(self, text: str) -> str:
        return text


def say(log: TaskLog, who: Any, *texts: str) -> None:
    for text in texts:
        log.add(who, logging.LogRecord("x", logging.INFO, "", 0, text, (), None))


async def test_lines_wait_in_their_order_while_the_database_is_away() -> None:
    log, database, run = TaskLog(100), Database(), attempt(1)
    database.there = False
    say(log, run, "first", "second")
    await log.store(database)
    say(log, run, "third")
    run.ended = 1.0
    await log.store(database)
    assert database.lines == []
    database.there = True
    await log.store(database)
    await log.store(database)
    assert database.lines == ["first", "second", "third"]


async def test_a_run_that_is_over_says_nothing_more() -> None:
    log, database, run = TaskLog(100), Database(), attempt(1)
    say(log, run, "while it ran")
    run.ended = 1.0
    say(log, run, "from a thread that was left behind")
    await log.store(database)
    assert database.lines == ["while it ran"]


async def test_no_statement_is_bigger_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasklog, "BATCH", 3)
    log, database, run = TaskLog(100), Database(), attempt(1)
    say(log, run, *map(str, range(8)))
    await log.store(database)
    assert [len(batch) for batch in database.batches] == [3, 3, 2]


async def test_memory_is_bounded_and_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasklog, "MEMORY", 5)
    log, database = TaskLog(100), Database()
    runs = [attempt(number) for number in range(4)]
    for run in runs:
        say(log, run, "one", "two")
        run.ended = 1.0
    await log.store(database)
    assert database.lines == ["one", "two", "one", "two", "one", "… 1 more line dropped", "… 2 more lines dropped"]
    again = attempt(9)
    say(log, again, "room again")
    await log.store(database)
    assert database.lines[-1] == "room again"


@pytest.mark.parametrize("name", ["HALF\ud800", "NUL\0", 7])
async def test_a_level_may_be_called_anything(name: Any) -> None:
    log, stored = TaskLog(8), list[str]()
    record = logging.LogRecord("x", logging.INFO, "", 0, "odd", (), None)
    record.levelname = name
    log.add(attempt(1), record)

    async def pump(op: Op[None]) -> None:
        stored.extend(level.encode().decode() for level in op.params["levels"])

    await log.store(pump)
    assert stored == ["info" if name == 7 else name[:-1].lower() + "\ufffd"]
