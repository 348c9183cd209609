"""The dashboard's frame: what every page has, without a database."""

from __future__ import annotations

import gzip
import re

import pytest

from taskrunner.api.ui.assets import FOLDER, asset_url, assets
from taskrunner.api.ui.frame import environment, local


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/ui/tasks?q=a+b", "/ui/tasks?q=a+b"),
        ("http://localhost:8000/ui/dead?x=1", "/ui/dead?x=1"),
        ("https://evil.example/", "/ui/"),
        ("https://evil.example/ui/tasks", "/ui/tasks"),
        ("//evil.example", "/ui/"),
        ("/ui//evil.example", "/ui/"),
        ("/ui/\\evil", "/ui/"),
        ("javascript:alert(1)", "/ui/"),
        ("/tasks", "/ui/"),
        ("", "/ui/"),
        (None, "/ui/"),
    ],
)
def test_one_is_sent_back_to_pages_of_ours_alone(url: str | None, place: str) -> None:
    """FAULTS 4."""
    assert local(url) == place


def test_all_files_of_a_page_are_small_together_and_named_by_their_content() -> None:
    packed = sum(len(asset.packed) for asset in assets().values())
    assert packed < 200_000
    for name, asset in assets().items():
        assert re.fullmatch(r"[\w.-]+\.[0-9a-f]{12}\.(js|css|svg)", name)
        assert gzip.decompress(asset.packed) == asset.plain
    for path in FOLDER.rglob("*.js"):
        assert asset_url(path.name) in {asset.url for asset in assets().values()}
    with pytest.raises(KeyError):
        asset_url("none.js")


def test_no_template_switches_escaping_off_or_has_code_of_its_own() -> None:
    """FAULTS 4: the policy would refuse it, and somebody's payload might reach it."""
    names = environment().list_templates()
    assert "base.html" in names
    for name in names:
        source, _, _ = environment().loader.get_source(environment(), name)  # type: ignore[union-attr]
        assert not re.search(
            r"\|\s*safe|autoescape|Markup|<style|\sstyle=|\son\w+=|javascript:|hx-on|hx-vals=.js", source
        ), name
        for script in re.findall(r"<script[^>]*>", source):
            assert 'nonce="{{ nonce }}"' in script, name
