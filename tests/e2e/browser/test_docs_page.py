"""`/docs` in a browser: the description, from our own files only."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def test_the_description_is_a_page_without_foreign_files(page: Page) -> None:
    page.goto("/docs")
    expect(page.get_by_role("heading", name="taskrunner")).to_be_visible()
    expect(page.locator(".opblock")).not_to_have_count(0)
