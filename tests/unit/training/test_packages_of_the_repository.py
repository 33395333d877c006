"""The packages that are in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.loading import load_series
from engine.packages import read_package
from engine.screening import open_systems, screen

MODELS = Path(__file__).parents[3] / "models"
NAMES = ("jcs-compact", "m3lung-compact")


@pytest.mark.parametrize("name", NAMES)
def test_package_is_whole_small_and_has_a_plain_card(name: str) -> None:
    package = read_package(MODELS / name)
    assert package.metadata.name == name
    assert sum(path.stat().st_size for path in package.path.iterdir()) <= 8_000_000
    card = (package.path / "MODEL_CARD.md").read_text()
    for needed in ("demonstration", "Not a medical device", "## Limits", "CT100", "simulated", "AUC"):
        assert needed in card
    assert "@@" not in card
    assert "{" not in card


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("case", "covid", "label"),
    [("covid-1", True, "covid19"), ("cap-1", False, "cap"), ("normal-1", False, "healthy")],
)
def test_verdicts_on_real_series(real_data: Path, case: str, covid: bool, label: str) -> None:
    volume = load_series(sorted((real_data / "ct" / case).glob("*.dcm")))
    with open_systems([MODELS / name for name in NAMES]) as systems:
        findings = screen(volume, systems)
    assert findings.m3lung.label.key == label
    assert findings.jcs.positive is covid
    assert bool(findings.lesions) is covid
