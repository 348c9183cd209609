"""What goes wrong in a browser without anybody seeing it: errors, refused scripts, requests that fail, dialogs."""

from __future__ import annotations

import re

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, Response


class Watch:
    """Notes every trouble of a context's pages; a test that means one says so beforehand by `allow`."""

    def __init__(self, context: BrowserContext) -> None:
        self.troubles: list[str] = []
        self._allowed: list[re.Pattern[str]] = []
        context.on("page", self._follow)

    def allow(self, pattern: str) -> None:
        """From now on, and before, a trouble that matches is none."""
        self._allowed.append(re.compile(pattern))

    def check(self) -> None:
        """Raise AssertionError that lists what went wrong."""
        left = [trouble for trouble in self.troubles if not any(one.search(trouble) for one in self._allowed)]
        assert not left, "\n".join(left)

    def _follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"script error: {error}"))
        page.on("dialog", self._dialog)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _console(self, message: ConsoleMessage) -> None:
        # Chromium says of a CSP violation that it refused something, as an error.
        if message.type in ("error", "warning"):
            self.troubles.append(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog {dialog.type}: {dialog.message}")
        dialog.dismiss()

    def _failed(self, request: Request) -> None:
        # A page that is left drops its event stream and what it has asked for.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"request failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"answer {response.status}: {response.request.method} {response.url}")
