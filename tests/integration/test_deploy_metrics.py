"""What deploy/ has for Prometheus and Grafana asks for what `/metrics` tells, and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine import Engine
from tests.integration.test_metrics import end, scraping

pytestmark = pytest.mark.anyio

DEPLOY = Path(__file__).parents[2] / "deploy"
_SELECTOR = re.compile(r"(taskrunner_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_OPENING = {"(": ")", "{": "}", "[": "]"}


def alerts() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def board() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana/taskrunner.json").read_text())
    return read


def expressions() -> Iterator[tuple[str, str]]:
    """Return every query with its place."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


async def test_every_query_asks_for_series_and_labels_that_there_are(engine: Engine) -> None:
    end(engine, engine.join())
    async with scraping(engine.url) as scraper:
        await scraper.values()
        end(engine, engine.join())
        families = await scraper.families()
    there: dict[str, set[str]] = {}
    for family in families.values():
        there.setdefault(family.name, set())
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    used = set()
    for place, expression in expressions():
        for name, matchers in _SELECTOR.findall(expression):
            assert name in there, f"{place}: there is no series {name}"
            used.add(re.sub(r"_(total|bucket|sum|count)$", "", name))
            asked = {label for label, _, _ in _MATCHER.findall(matchers)}
            assert asked <= there[name], f"{place}: {name} has no label {asked - there[name]}"
        for grouped in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression):
            labels = {label.strip() for label in grouped.split(",")}
            assert labels <= set().union(*there.values()), f"{place}: nothing has the labels {labels}"
    shown = {re.sub(r"_total$", "", name) for name in families}
    only_for_people = {f"taskrunner_{name}" for name in ("queue_pending", "queue_runners", "type_oldest_due_seconds")}
    assert shown - used <= only_for_people


def test_every_query_is_well_formed() -> None:
    for place, expression in expressions():
        waiting: list[str] = []
        for sign in re.sub(r'"[^"]*"', '""', expression):
            if sign in _OPENING:
                waiting.append(_OPENING[sign])
            elif sign in _OPENING.values():
                assert waiting, f"{place}: {expression}"
                assert waiting.pop() == sign, f"{place}: {expression}"
        assert not waiting, f"{place}: {expression}"


def test_that_nobody_is_scraped_is_told_by_the_one_series_that_is_always_there() -> None:
    """Without any series every other rule is silent; with the database away `taskrunner_up` is there, and 0."""
    assert [absent for rule in alerts() for absent in re.findall(r"absent\((.*)\)", rule["expr"])] == ["taskrunner_up"]


def test_every_alert_says_how_bad_what_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) >= 10
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_the_board_has_panels_that_do_not_overlap_and_one_data_source_to_choose() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in board()["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_scrape_configuration_reads_the_rules_that_there_are() -> None:
    read = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert read["scrape_configs"][0]["static_configs"][0]["targets"] == ["localhost:8000"]
    for name in read["rule_files"]:
        assert (DEPLOY / "prometheus" / name).is_file()
