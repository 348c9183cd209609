"""What tasks log: kept in batches, bounded, shown by command line and API, lost only with the last second."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskrunner import reads
from taskrunner.store import log as store
from taskrunner.store.log import Line
from tests.engine import Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def lines_of(engine: Engine, id_: UUID) -> list[str]:
    return [f"{line.level} {line.message}" for line in engine.do(reads.log_lines(id_, limit=1000)).lines]


# ── the read ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_are_read_a_page_at_a_time_in_the_order_in_which_they_were_written(engine: Engine) -> None:
    """SPEC OPS 49."""
    id_, other = uuid7(), uuid7()
    engine.do(store.keep([Line(owner, "default", 1, 9.0, "info", f"{n}") for n in range(7) for owner in (id_, other)]))
    seen: list[Any] = []
    page = engine.do(reads.log_lines(id_, limit=3))
    while page.next is not None:
        seen += page.lines
        page = engine.do(reads.log_lines(id_, after=page.next, limit=3))
    assert [line.message for line in [*seen, *page.lines]] == list("0123456")
    assert [line.message for line in engine.do(reads.last_lines(id_, 2))] == ["5", "6"]
    assert engine.do(reads.log_lines(uuid7())).lines == []
    exact = engine.do(reads.log_lines(id_, limit=7))
    assert len(exact.lines) == 7
    assert exact.next is None
