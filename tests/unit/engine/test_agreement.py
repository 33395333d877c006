"""The committed packages on real studies: the verdicts, and OpenVINO against the torch reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.builder import list_engines
from engine.findings import Findings, PneumoniaClass
from engine.loading import load_series
from engine.runners.interface import EngineOptions, RunnerOptions
from engine.screening import open_systems, screen
from engine.volume import Volume

MODELS = Path(__file__).parents[3] / "models"
PACKAGES = [MODELS / "jcs-compact", MODELS / "m3lung-compact"]
VERDICTS = {
    "covid-1": (True, PneumoniaClass.COVID19),
    "cap-1": (False, PneumoniaClass.CAP),
    "normal-1": (False, PneumoniaClass.HEALTHY),
}

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def screened(volume: Volume, options: RunnerOptions) -> Findings:
    with open_systems(PACKAGES, options) as systems:
        return screen(volume, systems)


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts_and_agreement_on_real_studies(real_data: Path, case: str) -> None:
    pytest.importorskip("engine.runners.torch_runner")
    volume = load_series((real_data / "ct" / case).iterdir())
    reference = screened(volume, RunnerOptions(device="torch", precision="f32"))
    assert (reference.jcs.positive, reference.m3lung.label) == VERDICTS[case]
    for precision, probability, least_dice in (("f32", 1e-4, 0.9999), ("bf16", 0.05, 0.98)):
        found = screened(volume, RunnerOptions(device="openvino", precision=precision))  # type: ignore[arg-type]
        assert (found.jcs.positive, found.m3lung.label) == VERDICTS[case]
        np.testing.assert_allclose(
            found.jcs.slice_probabilities, reference.jcs.slice_probabilities, atol=probability
        )
        np.testing.assert_allclose(
            found.m3lung.probabilities, reference.m3lung.probabilities, atol=probability
        )
        a, b = found.lesion_labels > 0, reference.lesion_labels > 0
        assert 2 * (a & b).sum() >= least_dice * (a.sum() + b.sum())


def test_verdicts_in_int8_on_real_studies(real_data: Path, tmp_path: Path) -> None:
    """With built engines, JCS in INT8 and M3Lung-Sys in what stands in for it, against float32."""
    pytest.importorskip("nncf", reason="int8 needs nncf: pip install 'lungnode[int8]'")
    volumes = {case: load_series((real_data / "ct" / case).iterdir()) for case in VERDICTS}
    engines = EngineOptions(tmp_path, MODELS.parent / "trt_engines")
    with open_systems(PACKAGES, RunnerOptions(precision="f32", device="openvino")) as systems:
        expected = {case: screen(volume, systems) for case, volume in volumes.items()}
    with open_systems(
        PACKAGES, RunnerOptions(precision="int8", device="openvino", engines=engines)
    ) as systems:
        found = {case: screen(volume, systems) for case, volume in volumes.items()}
        assert "classify int8, segment int8" in systems.descriptions["jcs"], list_engines(tmp_path)
    for case, reference in expected.items():
        jcs, m3lung = found[case].jcs, found[case].m3lung
        assert (jcs.positive, m3lung.label) == VERDICTS[case]
        np.testing.assert_allclose(jcs.slice_probabilities, reference.jcs.slice_probabilities, atol=0.03)
        np.testing.assert_allclose(
            m3lung.lesion_probabilities, reference.m3lung.lesion_probabilities, atol=0.03
        )
        np.testing.assert_allclose(m3lung.probabilities, reference.m3lung.probabilities, atol=0.03)
        a, b = np.asarray(found[case].lesion_labels) > 0, np.asarray(reference.lesion_labels) > 0
        assert 2 * (a & b).sum() >= 0.96 * (a.sum() + b.sum())
