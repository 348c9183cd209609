"""`make screenshots`: the dashboard of a shop on a busy day, in light and dark, as docs/screenshots/*.png."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from taskrunner.testing.database import prepare_template, server
from tests.demo.png import small
from tests.e2e.browser.conftest import Site, launch, served
from tests.e2e.browser.pages import LISTS, details
from tests.processes import ROOT

FOLDER = ROOT / "docs" / "screenshots"
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MODES = ("light", "dark")


@contextmanager
def shop() -> Iterator[Site]:
    """Serve the shop from a database that is thrown away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the server runs as another user
        with server(folder / "postgresql") as throwaway:
            prepare_template(throwaway)
            with served(throwaway, folder / "shop") as site:
                yield site


def take(browser: Browser, site: Site, folder: Path) -> None:
    """Write every page wide, in both modes, and three of them as a telephone shows them."""
    task = details(site)
    pages = {name: path for name, path in LISTS.items() if name not in ("system", "audit")}  # of a server for tests
    wide = {**pages, "task": task["a dead task"], "running": task["a running task"], "flow": task["a task of a flow"]}
    narrow = {name: wide[name] for name in ("overview", "tasks", "task")}
    blank = browser.new_page()
    for mode in MODES:
        for suffix, size, paths in (("", WIDE, wide), ("-narrow", NARROW, narrow if mode == "light" else {})):
            context = browser.new_context(
                base_url=site.address, viewport=size, color_scheme=mode, reduced_motion="reduce"
            )
            page = context.new_page()
            for name, path in paths.items():
                page.goto(path)
                page.wait_for_timeout(400)  # charts are drawn after the page is there
                picture = small(blank, page.screenshot(animations="disabled", caret="hide"))
                target = folder / f"{name.replace(' ', '-')}{suffix}-{mode}.png"
                target.write_bytes(picture)
                print(f"{target.name} {len(picture) // 1024} kB")
            context.close()


def main() -> int:
    """Take all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, shop() as site:
        browser = launch(playwright)
        take(browser, site, FOLDER)
        browser.close()
    total = sum(file.stat().st_size for file in FOLDER.glob("*.png"))
    print(f"{total / 1024:,.0f} kB in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
