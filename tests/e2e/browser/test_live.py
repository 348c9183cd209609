"""What changes is seen without a reload, unless the reader asks for rest; and the keyboard does it all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from taskrunner import schema
from taskrunner.embedded import Cluster
from tests.e2e.browser.conftest import DEMO, Site, watched
from tests.e2e.browser.pages import violations
from tests.processes import eventually, fleet

LIVE = re.compile("live")


def opened(page: Page, path: str) -> Page:
    """Open a page, wait until it is live, and mark it: a reload would lose the mark."""
    page.goto(path)
    expect(page.locator(".live")).to_have_attribute("data-state", "live")
    page.evaluate("window.mark = 1")
    return page


def kept(page: Page) -> bool:
    """Whether the page is the one that was opened."""
    return bool(page.evaluate("window.mark === 1"))


def row(page: Page, text: str) -> object:
    return page.locator("tbody tr", has_text=text)


def test_a_task_that_comes_and_ends_is_seen_without_a_reload(page: Page, site: Site) -> None:
    opened(page, "/ui/tasks")
    added = site.queue.add(site.tasks.SendEmail(to="fresh@example.org", subject="Fresh"))
    fresh = page.locator(f'tbody tr:has(a[href$="{added.id}"])')
    expect(fresh.locator(".badge.succeeded")).to_be_visible()
    assert kept(page)


def test_a_live_page_keeps_its_place(page: Page, site: Site) -> None:
    """Opened details, focus and scroll stay through an update."""
    opened(page, "/ui/tasks")
    link = page.locator("tbody a").nth(3)
    link.focus()
    name = link.get_attribute("href")
    added = site.queue.add(site.tasks.SendEmail(to="fresh@example.org"))
    expect(page.locator(f'tbody a[href$="{added.id}"]').first).to_be_visible()
    assert page.evaluate("document.activeElement.getAttribute('href')") == name


def test_a_paused_page_rests_until_it_is_resumed(context: BrowserContext, site: Site) -> None:
    resting, looking = opened(context.new_page(), "/ui/tasks"), opened(context.new_page(), "/ui/tasks")
    resting.bring_to_front()
    resting.keyboard.press("p")
    expect(resting.locator(".live")).to_have_attribute("data-state", "paused")
    looking.bring_to_front()
    added = site.queue.add(site.tasks.SendEmail(to="fresh@example.org"))
    here = f'tbody a[href$="{added.id}"]'
    expect(looking.locator(here).first).to_be_visible()
    resting.bring_to_front()
    expect(resting.locator(here)).to_have_count(0)
    resting.get_by_role("button", name="Resume").click()
    expect(resting.locator(here).first).to_be_visible()
    assert kept(resting)


def test_progress_moves_while_one_looks(page: Page, site: Site) -> None:
    assert site.filled is not None
    running = site.queue.add(site.tasks.ImportCatalog(supplier="Live", rows=30, hold="live"))
    eventually(lambda: site.queue.get(running.id).progress, "progress")
    opened(page, f"/ui/tasks/{running.id}")
    expect(page.get_by_text("20 of 30 articles")).to_be_visible()
    (site.gates / "live").touch()
    expect(page.locator("main .badge.succeeded").first).to_be_visible()
    assert kept(page)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pressed(page: Page, keys: list[str], url: str | re.Pattern[str]) -> None:
    """Press keys, and wait until they have led there."""
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_url(url)


def test_keys_lead_to_pages_rows_and_the_search(page: Page) -> None:
    page.clock.set_fixed_time(datetime.now(UTC))  # two keys belong together if they are close: here they always are
    opened(page, "/ui/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).not_to_be_visible()
    pressed(page, ["g", "t"], "**/ui/tasks")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("type:ChargeCard state:dead")
    pressed(page, ["Enter"], "**/ui/tasks?q=*")
    expect(page.locator("tbody tr")).not_to_have_count(0)
    page.locator("main").focus()
    pressed(page, ["j", "Enter"], re.compile(r"/ui/tasks/[0-9a-f-]{36}"))
    expect(page.locator("main")).to_contain_text("CardDeclined")


def test_the_first_tab_skips_to_the_content(page: Page) -> None:
    opened(page, "/ui/tasks")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


# ── light and dark ───────────────────────────────────────────────────────────────────────────────────────────────────


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_light_and_dark_follow_the_system_or_the_reader(browser: Browser, site: Site) -> None:
    """What the reader chose is kept, and is there before the first paint."""
    seen = {}
    for mode in ("light", "dark"):
        with watched(browser, site.address, color_scheme=mode) as (context, _):
            page = opened(context.new_page(), "/ui/")
            seen[mode] = background(page)
            page.locator("#theme").click()
            seen[f"other than {mode}"] = background(page)
            page.reload()
            assert background(page) == seen[f"other than {mode}"]
    assert seen["light"] != seen["dark"]
    assert seen["other than light"] == seen["dark"]
    assert seen["other than dark"] == seen["light"]


# ── the database away ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.create(tmp_path / "cluster", settings={"fsync": "off"}) as cluster:
        schema.migrate(cluster.url())
        yield cluster


def test_a_stopped_database_is_said_and_recovered_from(browser: Browser, cluster: Cluster, tmp_path: Path) -> None:
    """The page that is open says that it is not live, a new one why; both are back with the database, by themselves."""
    with fleet(cluster.url(), tmp_path / "fleet", TASKRUNNER_PROJECT=str(DEMO)) as lent:
        group = lent.start("api", tasks="shop", api_port="0")
        address = eventually(lambda: re.search(r"the API listens on (\S+)", group.log), "an API")[1]
        with watched(browser, address) as (context, watch):
            watch.allow("503|Failed to load resource")
            page = opened(context.new_page(), "/ui/tasks")
            cluster.kill()
            expect(page.locator(".live")).to_have_attribute("data-state", "lost")
            other = context.new_page()
            answer = other.goto("/ui/dead")
            assert answer is not None
            assert answer.status == 503
            expect(other.get_by_role("alert")).to_contain_text("database")
            assert not violations(other)
            cluster.start()
            page.bring_to_front()
            expect(page.locator(".live")).to_have_attribute("data-state", "live", timeout=60_000)
            assert kept(page)
            other.bring_to_front()
            expect(other.locator("h1")).to_have_text("Dead letters", timeout=60_000)


def test_charts_stay_while_their_values_change_and_are_looked_at_closer_by_dragging(page: Page, site: Site) -> None:
    opened(page, "/ui/?range=15m")
    chart, said = page.locator("#chart-throughput"), page.locator("#panel-throughput header p")
    expect(page.locator(".uplot")).to_have_count(4)
    page.evaluate("for (const plot of document.querySelectorAll('.uplot')) plot.dataset.mark = '1'")
    page.locator("#table-throughput summary").click()
    before = said.inner_text()
    for _ in range(3):
        site.queue.add(site.tasks.SendEmail(to="fresh@example.org"))
    expect(said).not_to_have_text(before)
    expect(page.locator(".uplot[data-mark]")).to_have_count(4)
    assert page.evaluate("document.querySelector('#table-throughput').open")
    assert kept(page)
    box = chart.locator(".u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 50, steps=4)
    page.mouse.up()
    page.wait_for_url("**/ui/?since=*&until=*")
    expect(page.locator("#since")).to_be_visible()
