"""The dashboard and the alert rules name only metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from store import engines
from store.engines import EngineNews

GRAFANA = Path(__file__).parents[3] / "docs" / "grafana"


def _expressions() -> list[str]:
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module", autouse=True)
def built_engine(node: object) -> None:
    """An engine that was built: what is counted of builds has a line for each engine."""
    building = EngineNews("jcs-classify-1", "jcs-tiny", "classify", "f16", "tensorrt", "building")
    with node.database.write() as session:
        for news in (building, replace(building, state="ready", seconds=90.0)):
            engines.note(session, news, node.clock())


def test_panels_do_not_lie_upon_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads((GRAFANA / "dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        assert place["x"] + place["w"] <= 24


@pytest.mark.parametrize("expression", _expressions())
def test_every_metric_is_there(metrics_text: str, expression: str) -> None:
    for name in re.findall(r"\blungnode_\w+", expression):
        assert re.search(rf"^{name}(\{{| )", metrics_text, re.MULTILINE), name


def test_the_queue_is_told_by_state(open_page: Callable[..., object]) -> None:
    assert 'lungnode_studies{state="complete"} 1.0' in open_page().get("/metrics")
