"""The event loop of the children is the one that the settings name."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import World
from tests.processes import eventually


@pytest.mark.parametrize(("setting", "loaded"), [("true", True), ("false", False)])
def test_a_runner_is_on_uvloop_unless_the_setting_says_no(world: World, setting: str, loaded: bool) -> None:
    """SPEC OPS 51."""
    group = world.fleet.start("runner", uvloop=setting)
    child = group.child()
    eventually(lambda: world.value("SELECT count(*) FROM taskrunner.runner") == 1, "a runner that has joined")
    assert any("uvloop" in mapped.path for mapped in child.memory_maps()) is loaded
