"""The watchdog on loops that really are blocked."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from taskrunner.watchdog import Blockage, Watchdog

pytestmark = pytest.mark.anyio

THRESHOLD = timedelta(milliseconds=300)
WAIT = 60.0
"""Seconds until a blockage counts as never seen: the loop is blocked until it has been."""

LOOPS = (("asyncio", False), ("uvloop", True))
on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": uvloop}), id="uvloop" if uvloop else "asyncio")
        for uvloop in (False, True)
    ],
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


told = threading.Event()


@contextmanager
def watching(*names: str, threshold: timedelta = THRESHOLD) -> Iterator[list[Blockage]]:
    seen: list[Blockage] = []
    told.clear()

    def report(blockage: Blockage) -> None:
        seen.append(blockage)
        told.set()

    def running(current: asyncio.Task[Any] | None) -> list[str]:
        """As the crew does: the one that is in this asyncio task, else all."""
        return [name for name in names if current is not None and current.get_name() == name] or list(names)

    watchdog = Watchdog(running=running, threshold=threshold, report=report)
    watchdog.start()
    try:
        yield seen
    finally:
        watchdog.stop()


def hog() -> None:
    told.wait(WAIT)  # the line that is to be named


async def blocking() -> None:
    hog()


@on_both_loops
async def test_a_blocked_loop_is_reported_once_with_the_task_and_the_line() -> None:
    """DESIGN 6."""
    with watching("SendEmail 1", "SendEmail 2") as seen:
        await asyncio.create_task(blocking(), name="SendEmail 2")
        await asyncio.sleep(0)
    (blockage,) = seen
    assert blockage.tasks == ("SendEmail 2",)
    assert f"{__file__}:" in blockage.where
    assert blockage.where.endswith("in hog: told.wait(WAIT)  # the line that is to be named")
    assert blockage.seconds >= THRESHOLD.total_seconds()


async def test_every_blockage_is_reported_anew() -> None:
    with watching() as seen:
        for _ in range(2):
            told.clear()
            hog()
            await asyncio.sleep(0.05)
    assert len(seen) == 2


async def test_a_subtask_that_blocks_is_blamed_on_all_that_run() -> None:
    with watching("SendEmail 1", "SendEmail 2") as seen:
        await asyncio.create_task(blocking())
    assert seen[0].tasks == ("SendEmail 1", "SendEmail 2")


async def test_the_line_is_the_users_even_when_the_loop_is_stuck_inside_the_standard_library() -> None:
    with watching() as seen:
        told.wait(WAIT)
    assert "told.wait(WAIT)" in seen[0].where


async def test_a_busy_but_responsive_loop_is_no_blockage() -> None:
    with watching(threshold=timedelta(seconds=1)) as seen:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:  # noqa: ASYNC110 - busy on purpose
            await asyncio.sleep(0)
    assert seen == []


@on_both_loops
async def test_an_interpreter_held_by_c_code_is_reported_afterwards_without_a_line() -> None:
    """DESIGN 6: no thread of Python could look while it lasted."""
    seen: list[Blockage] = []
    watchdog = Watchdog(running=lambda _: ["Resize 7"], threshold=THRESHOLD, report=seen.append)
    watchdog.start()
    while not watchdog._asked_at or watchdog._answered.is_set():
        time.sleep(0.001)  # noqa: ASYNC251 - until it has asked, and waits for an answer
    ctypes.PyDLL(None).usleep(int(3 * THRESHOLD / timedelta(microseconds=1)))
    async with asyncio.timeout(WAIT):
        while not seen:  # noqa: ASYNC110 - the loop's own turns are waited for
            await asyncio.sleep(0.01)
    watchdog.stop()
    (blockage,) = seen
    assert blockage.where == ""
    assert "while running Resize 7" in str(blockage)


async def test_the_report_is_one_warning_with_a_remedy(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(running=lambda _: [f"T {number}" for number in range(7)], threshold=THRESHOLD)
    watchdog.start()
    while not caplog.records:
        time.sleep(0.01)  # noqa: ASYNC251 - to block the loop is its purpose
    await asyncio.sleep(0)
    watchdog.stop()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "by T 0, T 1, T 2, T 3, T 4 and 2 more at " in record.message
    assert "use `await`" in record.message


async def test_a_stopped_watchdog_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with watching():
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def test_a_watchdog_survives_its_loop() -> None:
    watchdog = Watchdog(running=lambda _: [], threshold=THRESHOLD)

    async def main() -> None:
        watchdog.start()

    asyncio.run(main())
    watchdog.stop()
