"""Each page of the dashboard: what holds for all of them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from taskrunner.testing.database import Server
from tests.e2e.browser.conftest import Site, served, watched
from tests.e2e.browser.pages import LISTS, details, injected, policy, too_wide, violations


def looked_at(page: Page, path: str) -> list[str]:
    """Open a page, and return what axe finds wrong with it."""
    page.goto(path)
    expect(page.locator("h1")).to_have_count(1)
    return violations(page)


def lines(found: list[list[str]]) -> str:
    return "\n".join(one for some in found for one in some)


def paths(site: Site) -> dict[str, str]:
    """Return every page with its path."""
    return {**LISTS, **details(site)}


def test_every_page_passes_wcag_with_contents(browser: Browser, site: Site) -> None:
    """Level AA, whatever the system's colours; a page that logs an error fails too."""
    with watched(browser, site.address) as (context, _):
        page = context.new_page()
        found = [looked_at(page, path) for path in paths(site).values()]
    assert not any(found), lines(found)


def test_every_page_passes_wcag_without_contents(
    browser: Browser, taskrunner_template: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As on the first day: no task, no schedule, no runner."""
    folder = tmp_path_factory.mktemp("empty")
    with (
        served(taskrunner_template, folder, filled=False, kind="api") as empty,
        watched(browser, empty.address) as (context, _),
    ):
        page = context.new_page()
        found = [looked_at(page, path) for path in LISTS.values()]
    assert not any(found), lines(found)


DIALOGUES = {
    "a deed": ("/ui/tasks/{0.later}", "Cancel"),
    "a deed with a field": ("/ui/tasks/{0.later}", "Reschedule"),
    "all that a search finds": ("/ui/tasks?q=type:ResizeImage+state:pending", "Cancel"),
    "a group of dead letters": ("/ui/dead", "Delete"),
    "a queue": ("/ui/queues", "Make fair"),
    "a schedule": ("/ui/schedules", "Run now"),
}
"""The page that opens it, and the link that is pressed there."""


def test_every_dialogue_passes_wcag(browser: Browser, site: Site) -> None:
    found = []
    with watched(browser, site.address) as (context, _):
        page = context.new_page()
        for path, link in DIALOGUES.values():
            page.goto(path.format(site.filled))
            page.locator("main").get_by_role("link", name=link, exact=True).first.click()
            expect(page.locator("#dialog").get_by_role("heading")).to_be_visible()
            found.append(violations(page))
        page.keyboard.press("Escape")
        page.locator("#help").click()
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        found.append(violations(page))
    assert not any(found), lines(found)


def test_every_form_passes_wcag_also_when_it_is_refused(browser: Browser, site: Site) -> None:
    found = []
    with watched(browser, site.address) as (context, watch):
        watch.allow("422")
        page = context.new_page()
        found.append(looked_at(page, "/ui/tasks/new?type=SendEmail"))
        page.locator("#field-payload").fill("{")
        page.get_by_role("button", name="Add the task").click()
        expect(page.locator("#error-payload")).to_be_visible()
        found.append(violations(page))
        found.append(looked_at(page, "/ui/schedules/new"))
        for frequency, button in (("5m", "Show the coming ticks"), ("soon", "Add")):
            page.locator("#field-name").fill("nightly")
            page.locator("#field-task").fill("DailyReport")
            page.locator("#field-frequency").fill(frequency)
            page.locator("summary").click()
            page.get_by_role("button", name=button, exact=True).click()
            expect(page.locator(".ticks" if button != "Add" else "[role=alert]")).to_be_visible()
            found.append(violations(page))
        found.append(looked_at(page, "/ui/schedules/change?name=newsletter"))
        found.append(looked_at(page, "/ui/queues/weight?queue=mail"))
        page.locator("#field-tenant").fill("acme")
        page.locator("#field-weight").fill("0")
        page.get_by_role("button", name="Set").click()
        expect(page.locator("#error-weight")).to_be_visible()
        found.append(violations(page))
        page.goto("/ui/tasks?q=state:pending")
        page.locator("tbody input[name=id]").first.check()
        page.locator("main").get_by_role("button", name="Reschedule").click()
        page.locator("#field-when").fill("soon")
        page.get_by_role("button", name="Reschedule 1").click()
        expect(page.locator("#error-when")).to_be_visible()
        found.append(violations(page))
    assert not any(found), lines(found)


def test_every_page_that_tells_of_an_error_passes_wcag(browser: Browser, site: Site) -> None:
    """What is not there, what cannot be read, and a search that finds nothing or cannot be understood."""
    with watched(browser, site.address) as (context, watch):
        watch.allow("404|422")
        page = context.new_page()
        wrong = ("/ui/nowhere", "/ui/audit?after=x", "/ui/tasks?q=type:Nobody", "/ui/tasks?q=state:nowhere")
        found = [looked_at(page, path) for path in wrong]
    assert not any(found), lines(found)


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
