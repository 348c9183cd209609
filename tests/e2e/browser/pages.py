"""Which pages there are, and what holds for each of them."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

from taskrunner.api.ui.frame import PAGES
from tests.e2e.browser.conftest import Site

LISTS = {name.lower(): address for name, address, _ in PAGES}
"""Each page of the navigation by its name."""

_WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_OF_COLOURS = ["color-contrast", "link-in-text-block"]

_AXE = """rules => axe.run({ runOnly: rules, resultTypes: ["violations"] }).then(found => found.violations.map(one =>
    `${one.id}: ${one.help}: ` + one.nodes.slice(0, 4).map(
        node => `${node.html.slice(0, 160)} ${node.failureSummary}`).join(" | ")
))"""

# Elements that only a text which became markup can bring.
_INJECTED = """() => [...document.querySelectorAll("*")].filter(one =>
    [...one.attributes].some(a => a.name.startsWith("on") || a.name.startsWith("hx-on")
        || /^(java|vb)script:/i.test(a.value.trim()) && /^(href|src|action|formaction|data|xlink:href)$/.test(a.name))
    || /^(iframe|object|embed|base|marquee|frameset|xmp|math|animate|set|image|video|audio)$/i.test(one.localName)
    || one.localName === "script" && !one.nonce && !one.src
    || one.src && new URL(one.src, location).origin !== location.origin && !one.src.startsWith("data:image/")
    || one.localName === "meta" && one.httpEquiv && !/^(x-ua-compatible)$/i.test(one.httpEquiv)
).map(one => one.outerHTML.slice(0, 200))"""

_TOO_WIDE = """() => document.scrollingElement.scrollWidth > document.documentElement.clientWidth
    ? [...document.querySelectorAll("body *")].filter(one =>
        one.getBoundingClientRect().right > document.documentElement.clientWidth + 1
        && !one.parentElement.closest("[data-scroll], .scroll, .table-wrap, pre")).slice(0, 5).map(one =>
        one.outerHTML.slice(0, 120)) .concat(`${document.scrollingElement.scrollWidth} px`)
    : []"""


def details(site: Site) -> dict[str, str]:
    """Return the paths of a task of each kind."""
    assert site.filled is not None
    filled = site.filled
    return {
        "a running task": f"/ui/tasks/{filled.running}",
        "a dead task": f"/ui/tasks/{filled.dead[0]}",
        "a retrying task": f"/ui/tasks/{filled.retrying[0]}",
        "a task of a flow": f"/ui/tasks/{filled.flow[2]}",
        "an ended task": f"/ui/tasks/{filled.ended[0]}",
    }


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong by WCAG 2.0, 2.1 and 2.2, A and AA: in light, and of the colours in dark too."""
    page.evaluate(AXE_SCRIPT)
    page.emulate_media(color_scheme="light")
    found = [f"{page.url}: {one}" for one in page.evaluate(_AXE, _WCAG)]
    page.emulate_media(color_scheme="dark")
    return found + [f"{page.url}, dark: {one}" for one in page.evaluate(_AXE, _OF_COLOURS)]


def injected(page: Page) -> list[str]:
    """Return elements and attributes that no template of ours writes."""
    found: list[str] = page.evaluate(_INJECTED)
    return found


def too_wide(page: Page) -> list[str]:
    """Return what makes the page scroll sideways, nothing if it does not."""
    found: list[str] = page.evaluate(_TOO_WIDE)
    return found


def policy(headers: dict[str, Any]) -> dict[str, list[str]]:
    """Return the content security policy's directives."""
    directives = (part.split() for part in headers["content-security-policy"].split(";"))
    return {name: values for name, *values in directives}
