"""The dashboard and the alert rules name only metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).parents[3] / "docs" / "grafana"


def _expressions() -> list[str]:
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", _expressions())
def test_every_metric_is_there(metrics_text: str, expression: str) -> None:
    for name in re.findall(r"\blungnode_\w+", expression):
        assert re.search(rf"^{name}(\{{| )", metrics_text, re.MULTILINE), name


def test_the_queue_is_told_by_state(open_page: Callable[..., object]) -> None:
    assert 'lungnode_studies{state="complete"} 1.0' in open_page().get("/metrics")
