"""What the terminal says of a screened study."""

from __future__ import annotations

from typing import Any

import pytest

from node.verdicts import NOTICE, verdict_lines
from reporting.wording import COUNT_RULE


def _summary(label: str, healthy: float, covid19: float, *, lesions: int = 0) -> dict[str, Any]:
    return {
        "jcs": {"positive": label == "covid19", "positive_slices": 34, "slices": 74, "threshold": 74 / 12},
        "m3lung": {
            "label": label,
            "probabilities": {"healthy": healthy, "covid19": covid19, "h1n1": 0.0, "cap": 0.0},
        },
        "lesion_count": lesions,
        "lesion_volume_ml": 12.34,
        "lung_involvement_percent": 1.25,
        "discordant": False,
    }


def test_a_study_with_lesions_in_four_lines() -> None:
    assert verdict_lines(_summary("covid19", 0.2, 0.8, lesions=3)) == [
        "JCS         COVID-19 (34 of 74 slices positive, threshold 6.167)",
        "M3Lung-Sys  COVID-19 (healthy 0.20, COVID-19 0.80, H1N1 0.00, CAP 0.00)",
        "Lesions     3, 12.3 ml, 1.2 % of the lungs",
        NOTICE,
    ]


@pytest.mark.parametrize(("label", "said"), [("covid19", True), ("healthy", False)])
def test_a_class_that_is_not_the_most_probable_one_is_explained(label: str, said: bool) -> None:
    lines = verdict_lines(_summary(label, 0.6, 0.4))
    assert any(COUNT_RULE in line for line in lines) is said


def test_disagreement_is_said() -> None:
    assert "The two systems disagree." in verdict_lines(_summary("healthy", 1.0, 0.0) | {"discordant": True})
