"""A browser for the process, a served shop for each module, a context of its own for each test."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, expect, sync_playwright

from taskrunner.queue import TaskQueue
from taskrunner.registry import Registry, discover
from taskrunner.registry.types import isolated
from taskrunner.testing.database import Database, Server, database
from tests.demo.seed import Filled, fill
from tests.e2e.browser.watch import Watch
from tests.processes import ROOT, Group, eventually, fleet

DEMO = ROOT / "tests" / "demo"
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WIDE = {"width": 1280, "height": 800}
TIMEOUT = 30_000.0
"""Milliseconds until something that should be on a page is missing; nothing is measured by it."""


class NoBrowser(Exception):
    """Why there is none."""


def launch(playwright: Playwright) -> Browser:
    """Start Debian's chromium, headless. Raises: `NoBrowser`."""
    program = os.environ.get("TASKRUNNER_TEST_CHROMIUM") or shutil.which("chromium")
    if program is None:
        raise NoBrowser("no chromium: install Debian's package chromium, or name one by TASKRUNNER_TEST_CHROMIUM")
    try:
        return playwright.chromium.launch(executable_path=program, args=list(SWITCHES))
    except Error as error:
        raise NoBrowser(f"{program} does not start: {error.message.splitlines()[0]}") from error


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A browser; the tests are skipped where there is none."""
    with sync_playwright() as playwright:
        try:
            started = launch(playwright)
        except NoBrowser as error:
            pytest.skip(str(error))
        yield started
        started.close()


@dataclass
class Site:
    """A served installation: its address, its processes, its door and its tables."""

    address: str
    group: Group
    db: Database
    queue: TaskQueue
    tables: psycopg.Connection[Any]
    tasks: Any
    gates: Path
    filled: Filled | None = None
    ids: list[UUID] = field(default_factory=list)

    def value(self, query: str, *values: Any) -> Any:
        """Return the first column of the first row."""
        row = self.tables.execute(query, values).fetchone()  # type: ignore[arg-type]  # a test's own literal
        return None if row is None else row[0]


def types_of(name: str) -> tuple[ModuleType, Registry]:
    """Import a module of tests/demo as a project's tasks, into a registry of its own."""
    with isolated() as registry:
        discover(DEMO, name)
        return sys.modules[name], registry.copy()


@contextmanager
def served(
    server: Server, folder: Path, tasks: str = "shop", *, filled: bool = True, kind: str = "all"
) -> Iterator[Site]:
    """Serve a database of its own on a free port, with a runner that runs what is due."""
    module, registry = types_of(tasks)
    with (
        database(server) as fresh,
        fleet(fresh.url, folder, TASKRUNNER_PROJECT=str(DEMO), SHOP_GATES=str(folder)) as lent,
        TaskQueue.connect(fresh.url, registry=registry) as queue,
        fresh.connect() as tables,
    ):
        contents = fill(fresh.url, module, registry) if filled else None
        group = lent.start(kind, tasks=tasks, api_port="0")
        found = eventually(lambda: re.search(r"the API listens on (\S+)", group.log), "an API")
        site = Site(found[1], group, fresh, queue, tables, module, folder, contents)
        if contents is not None and kind == "all":
            begun = "SELECT progress IS NOT NULL FROM taskrunner.task WHERE id = %s"
            eventually(lambda: site.value(begun, contents.running), "an import under way")
        yield site
        assert "Exception in ASGI application" not in group.log


@pytest.fixture(scope="module")
def site(taskrunner_template: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The shop, for all tests of a module."""
    with served(taskrunner_template, tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A context of this test's own; whatever goes wrong in its pages fails the test."""
    with watched(browser, site.address) as (context, _):
        yield context


@contextmanager
def watched(browser: Browser, address: str, **options: Any) -> Iterator[tuple[BrowserContext, Watch]]:
    """Open a context, and check at its end that nothing went wrong."""
    context = browser.new_context(**{"base_url": address, "viewport": WIDE, "reduced_motion": "reduce", **options})
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    watch = Watch(context)
    try:
        yield context, watch
        watch.check()
    finally:
        context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A new page."""
    return context.new_page()
