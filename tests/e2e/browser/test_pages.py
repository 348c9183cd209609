"""Each page of the dashboard: what holds for all of them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser.conftest import Site, watched
from tests.e2e.browser.pages import LISTS, details, injected, policy, too_wide, violations

MODES = ("light", "dark")


def paths(site: Site) -> dict[str, str]:
    """Return every page with its path."""
    return {**LISTS, **details(site)}


@pytest.mark.parametrize("mode", MODES)
def test_every_page_passes_wcag_with_contents(browser: Browser, site: Site, mode: str) -> None:
    """Level AA, whatever the system's colours; a page that logs an error fails too."""
    found = {}
    with watched(browser, site.address, color_scheme=mode) as (context, _):
        page = context.new_page()
        for name, path in paths(site).items():
            page.goto(path)
            expect(page.locator("h1")).to_have_count(1)
            found[name] = violations(page)
    assert not any(found.values()), "\n".join(f"{name}: {one}" for name, some in found.items() for one in some)


def test_no_page_scrolls_sideways_on_a_telephone(browser: Browser, site: Site) -> None:
    """360 px; a wide table scrolls by itself."""
    found = {}
    with watched(browser, site.address, viewport={"width": 360, "height": 740}) as (context, _):
        page = context.new_page()
        for name, path in paths(site).items():
            page.goto(path)
            found[name] = too_wide(page)
    assert not any(found.values()), found


def test_every_page_can_be_read_without_scripts(browser: Browser, site: Site) -> None:
    with watched(browser, site.address, java_script_enabled=False) as (context, _):
        page = context.new_page()
        for path in paths(site).values():
            page.goto(path)
            expect(page.locator("h1")).to_be_visible()
            expect(page.locator("main")).not_to_be_empty()
        page.goto("/ui/tasks")
        expect(page.locator("tbody tr", has_text="SendEmail").first).to_be_visible()


def test_no_page_allows_scripts_of_its_text(browser: Browser, site: Site) -> None:
    """FAULTS 4: a policy with a nonce that is new each time, no `unsafe-…`, nothing from elsewhere."""
    nonces = set()
    with watched(browser, site.address) as (context, _):
        for path in paths(site).values():
            answer = context.request.get(path)
            rules = policy(answer.headers)
            allowed = [value for values in rules.values() for value in values]
            assert not [value for value in allowed if "unsafe" in value or value == "*" or "http" in value], rules
            assert rules["default-src"] == ["'none'"]
            assert {"base-uri", "form-action", "frame-ancestors"} <= set(rules)
            nonces |= {value for value in rules["script-src"] if value.startswith("'nonce-")}
    assert len(nonces) == len(paths(site))


def test_back_and_forward_walk_through_the_pages(page: Page) -> None:
    page.goto("/ui/")
    page.get_by_role("navigation").get_by_role("link", name="Tasks").click()
    page.wait_for_url("**/ui/tasks*")
    page.get_by_role("navigation").get_by_role("link", name="Dead letters").click()
    page.wait_for_url("**/ui/dead*")
    page.go_back()
    page.wait_for_url("**/ui/tasks*")
    expect(page.locator("h1")).to_have_text("Tasks")
    page.go_forward()
    page.wait_for_url("**/ui/dead*")
    expect(page.locator("h1")).to_have_text("Dead letters")


def test_a_text_that_became_markup_would_be_noticed(browser: Browser, site: Site) -> None:
    """What the other tests rely on: the policy refuses the script, and the watch and the search for markup see it."""
    refused = pytest.raises(AssertionError, match="Content Security Policy")
    with refused, watched(browser, site.address) as (context, _):
        page = context.new_page()
        page.goto("/ui/dead")
        assert not injected(page)
        with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
            page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data: onerror=pwned()>')")
        assert len(injected(page)) == 1
