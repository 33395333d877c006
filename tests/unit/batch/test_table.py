"""The columns of the table of findings."""

from __future__ import annotations

from typing import Any

import pytest

from node.batch.table import COLUMNS, finding_of

SUMMARY: dict[str, Any] = {
    "jcs": {"slices": 80, "positive": False, "positive_slices": 1, "threshold": 6.7, "rule": "share"},
    "m3lung": {"label": "cap", "probabilities": {"healthy": 0.1, "covid19": 0.1, "h1n1": 0.1, "cap": 0.7}},
    "discordant": False,
    "lesion_count": 2,
    "lesion_volume_ml": 1.5,
    "lung_volume_ml": 4000.0,
    "lung_involvement_percent": 0.04,
    "packages": [
        {"system": "jcs", "name": "jcs-a", "version": "1.0.0", "sha256": "a" * 64},
        {"system": "m3lung", "name": "m3-b", "version": "2.0.0", "sha256": "b" * 64},
    ],
}
OWN = {"name": "lobes", "version": "0.1.0", "said": "consolidation found"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, None),
        ({"own_models": [], "own_model_failures": []}, None),
        ({"own_models": [OWN]}, "lobes 0.1.0: consolidation found"),
        (
            {"own_models": [OWN], "own_model_failures": [{"name": "nodules", "why": "too few slices"}]},
            "lobes 0.1.0: consolidation found; nodules: no result, too few slices",
        ),
    ],
)
def test_own_models_speak_in_a_column_of_their_own(more: dict[str, Any], said: str | None) -> None:
    finding = finding_of(SUMMARY | more, "1.2", "1/2")
    assert finding["own_models"] == said
    assert set(finding) <= set(COLUMNS)
    assert finding["jcs_package"] == f"jcs-a 1.0.0 {'a' * 12}"
