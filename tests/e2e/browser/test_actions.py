"""What people do on the pages: asked first, done once, said afterwards with its command, and noted in the audit."""

from __future__ import annotations

from uuid import UUID

from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.browser.conftest import Site, watched
from tests.processes import eventually


def dialog(page: Page) -> Locator:
    return page.locator("#dialog")


def press(page: Page, button: str, verb: str | None = None) -> None:
    """Press a page's button and, in the dialogue that asks, the one that does it."""
    page.locator("main").get_by_role("link", name=button, exact=True).click()
    expect(dialog(page)).to_be_visible()
    if verb is not None:
        dialog(page).get_by_role("button", name=verb, exact=True).click()
        page.wait_for_load_state()


def said(page: Page, text: str) -> None:
    """Check what the page says was done."""
    expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()


def acted(site: Site, action: str, target: object) -> str:
    """Return who is noted to have done it."""
    query = "SELECT actor FROM taskrunner.audit WHERE action = %s AND target = %s ORDER BY id DESC LIMIT 1"
    return str(eventually(lambda: site.value(query, action, str(target)), f"{action} of {target} in the audit"))


def later(site: Site, **fields: str) -> UUID:
    return site.queue.add(site.tasks.SendEmail(to="later@example.org", **fields), delay=86_400).id


# ── one task ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_task_is_cancelled_after_a_question(page: Page, site: Site) -> None:
    id_ = later(site)
    page.goto(f"/ui/tasks/{id_}")
    press(page, "Cancel")
    expect(dialog(page)).to_contain_text(f"taskrunner tasks cancel {id_}")
    dialog(page).get_by_role("link", name="Keep as it is").click()
    expect(dialog(page)).not_to_be_visible()
    assert site.queue.get(id_).state == "pending"
    press(page, "Cancel", "Cancel the task")
    said(page, "cancelled")
    expect(page.locator("main .badge.cancelled").first).to_be_visible()
    assert acted(site, "task.cancel", id_).startswith("ui:")


def test_a_task_is_rescheduled_and_a_wrong_instant_is_explained(page: Page, site: Site) -> None:
    id_ = later(site)
    before = site.queue.get(id_).maturity_at
    page.goto(f"/ui/tasks/{id_}")
    press(page, "Reschedule")
    dialog(page).get_by_role("textbox").fill("3h")
    dialog(page).get_by_role("button", name="Reschedule").click()
    said(page, "Rescheduled")
    assert site.queue.get(id_).maturity_at < before
    acted(site, "task.reschedule", id_)


def test_a_waiting_task_is_run_now(page: Page, site: Site) -> None:
    id_ = later(site)
    page.goto(f"/ui/tasks/{id_}")
    press(page, "Run now", "Run now")
    said(page, "due now")
    expect(page.locator("main .badge.succeeded").first).to_be_visible()
    acted(site, "task.retry", id_)


def test_a_dead_task_is_requeued_and_its_new_task_shown(page: Page, site: Site) -> None:
    assert site.filled is not None
    id_ = site.filled.dead[-1]
    page.goto(f"/ui/tasks/{id_}")
    expect(page.locator("main")).to_contain_text("SupplierDown: Rotterdam: connection timed out after 10 s")
    expect(page.locator("main")).to_contain_text("Traceback (most recent call last)")
    press(page, "Requeue", "Run now")
    said(page, "Requeued as")
    fresh = page.url.rpartition("/")[2]
    assert fresh != str(id_)
    assert site.value("SELECT requeued_as::text FROM taskrunner.dead_letter WHERE id = %s", id_) == fresh
    acted(site, "task.retry", id_)


def test_a_dead_letter_is_deleted_for_good(page: Page, site: Site) -> None:
    assert site.filled is not None
    id_ = site.filled.dead[-2]
    page.goto(f"/ui/tasks/{id_}")
    press(page, "Delete", "Delete for good")
    page.wait_for_url("**/ui/dead*")
    said(page, "deleted")
    assert site.value("SELECT count(*) FROM taskrunner.dead_letter WHERE id = %s", id_) == 0


def test_a_task_is_cancelled_by_the_keyboard_alone(page: Page, site: Site) -> None:
    """Tab, Enter, Tab, Enter: the focus goes into the dialogue and stays there."""
    id_ = later(site)
    page.goto(f"/ui/tasks/{id_}")
    page.locator("#main").focus()
    wanted = page.locator("main").get_by_role("link", name="Cancel", exact=True)
    for _ in range(12):
        page.keyboard.press("Tab")
        if wanted.evaluate("node => node === document.activeElement"):
            break
    expect(wanted).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog(page)).to_be_visible()
    verb = dialog(page).get_by_role("button", name="Cancel the task")
    for _ in range(6):
        assert page.evaluate("document.querySelector('#dialog').contains(document.activeElement)")
        if verb.evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(verb).to_be_focused()
    page.keyboard.press("Enter")
    said(page, "cancelled")


def test_an_action_works_without_scripts(browser: Browser, site: Site) -> None:
    id_ = later(site)
    with watched(browser, site.address, java_script_enabled=False) as (context, _):
        page = context.new_page()
        page.goto(f"/ui/tasks/{id_}")
        page.locator("main").get_by_role("link", name="Cancel", exact=True).click()
        page.get_by_role("button", name="Cancel the task").click()
        said(page, "cancelled")
        assert page.url.endswith(f"/ui/tasks/{id_}")
    assert site.queue.get(id_).state == "cancelled"


def test_a_form_of_another_origin_does_nothing(browser: Browser, site: Site) -> None:
    """FAULTS 4: the browser says whose page it is, and the server believes it."""
    id_ = later(site)
    with watched(browser, "http://localhost:1") as (context, watch):
        watch.allow("403|Failed to load resource")
        page = context.new_page()
        form = f'<form method=post action="{site.address}/ui/tasks/{id_}/cancel"><button>Win a prize</button></form>'
        page.route("**/prize", lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto("http://evil.example/prize")
        with page.expect_response("**/cancel") as answer:
            page.get_by_role("button").click()
        assert answer.value.status == 403
    assert site.queue.get(id_).state == "pending"


# ── queues, schedules, many tasks at once ────────────────────────────────────────────────────────────────────────────


def in_row(page: Page, name: str, button: str, verb: str) -> None:
    """Press a button in the row of this name, and the one of the dialogue."""
    row = page.locator("main tbody tr", has=page.get_by_role("link", name=name, exact=True))
    row.get_by_role("link", name=button, exact=True).click()
    dialog(page).get_by_role("button", name=verb, exact=True).click()


def test_a_queue_is_paused_and_resumed(page: Page, site: Site) -> None:
    page.goto("/ui/queues")
    in_row(page, "reports", "Pause", "Pause")
    said(page, "Queue reports is paused")
    assert site.value("SELECT paused FROM taskrunner.queue_settings WHERE queue = 'reports'")
    in_row(page, "reports", "Resume", "Resume")
    said(page, "Queue reports is open")
    assert acted(site, "queue.resume", "reports").startswith("ui:")


def test_a_schedule_is_paused_resumed_and_run_now(page: Page, site: Site) -> None:
    page.goto("/ui/schedules")
    in_row(page, "PurgeCarts", "Pause", "Pause")
    said(page, "Schedule PurgeCarts is paused")
    in_row(page, "PurgeCarts", "Resume", "Resume")
    said(page, "Schedule PurgeCarts goes on")
    in_row(page, "PurgeCarts", "Run now", "Run now")
    ended = "SELECT count(*) FROM taskrunner.task_history WHERE type = 'PurgeCarts'"
    eventually(lambda: site.value(ended) == 1, "the schedule's task")


def test_what_is_done_to_many_is_counted_first_and_then_done(page: Page, site: Site) -> None:
    ids = [later(site, subject="many") for _ in range(3)]
    page.goto("/ui/tasks?q=payload.subject:many")
    for id_ in ids[:2]:
        page.locator(f'input[name=id][value="{id_}"]').check()
    expect(page.locator("main")).to_contain_text("2 selected")
    page.locator("main").get_by_role("button", name="Cancel", exact=True).click()
    confirm = page.get_by_role("button", name="Cancel 2", exact=True)
    expect(confirm).to_be_visible()
    assert [site.queue.get(id_).state for id_ in ids] == ["pending"] * 3
    confirm.click()
    eventually(lambda: site.queue.get(ids[1]).state == "cancelled", "the second cancel")
    assert [site.queue.get(id_).state for id_ in ids] == ["cancelled", "cancelled", "pending"]
