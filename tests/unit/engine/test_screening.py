"""Both systems on a phantom, with packages whose networks are plain rules on HU."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import NotScreenable, PackageInvalid, RunnerFailed
from engine.findings import PneumoniaClass
from engine.lungs import volume_box
from engine.runners.interface import Results, Runner, RunnerOptions, Tensors
from engine.screening import open_systems, screen
from engine.series_choice import SeriesRules
from engine.summary import findings_summary

EXACT = RunnerOptions(precision="f32", threads=1, batch=5)


class _Shapes:
    """A runner that notes the shapes of what it is given."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seen: dict[str, list[tuple[int, ...]]] = defaultdict(list)

    @property
    def description(self) -> str:
        return self._runner.description

    def run(self, graph: str, inputs: Tensors) -> Results:
        return next(self.run_each(graph, [inputs]))

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        for given in inputs:
            self.seen[graph] += [values.shape for values in given.values()]
            yield self._runner.run(graph, given)

    def close(self) -> None:
        self._runner.close()


def test_healthy_chest_is_negative_in_both_systems(chest_of, volume_of, package_paths: list[Path]) -> None:
    with open_systems(package_paths, EXACT) as systems:
        findings = screen(volume_of(chest_of()), systems)
    assert not findings.jcs.positive
    assert findings.m3lung.label is PneumoniaClass.HEALTHY
    assert not findings.discordant
    assert not findings.lesion_labels.any()
    assert findings.lesions == ()
    assert len(findings.key_slices) >= 1
    assert findings.jcs.outside_paper_protocol
    assert findings.jcs.rule == "proportional"


def test_lesion_is_found_measured_and_shown(chest_of, volume_of, package_paths: list[Path]) -> None:
    volume = volume_of(chest_of(lesion=True))
    truth = volume.hu - chest_of(lesion=False) > 200
    with open_systems(package_paths, EXACT) as systems:
        findings = screen(volume, systems)
    assert findings.jcs.positive
    assert findings.m3lung.label is PneumoniaClass.COVID19
    found = findings.lesion_labels > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
    largest = findings.lesions[0]
    expected = truth.sum() * 1.5 * 1.5 * 5 / 1000
    assert largest.volume_ml == pytest.approx(expected, rel=0.1)
    assert largest.mean_hu == pytest.approx(-450, abs=10)
    assert largest.centroid == pytest.approx((-100 + 0.3 * 192 * 1.5, -100 + 96 * 1.5, 100), abs=3)
    assert largest.slices[0] <= largest.largest_slice <= largest.slices[1]
    assert not (found & ~findings.lung_mask).any()
    assert findings.lesion_volume_ml == pytest.approx(sum(lesion.volume_ml for lesion in findings.lesions))
    assert 0 < findings.lung_involvement_percent < 20
    for maps in (findings.jcs.activation_maps, findings.m3lung.location_maps):
        assert np.argwhere(maps[20] > 0.5).mean(axis=0) == pytest.approx((31.5, 0.3 * 64 - 0.5), abs=1.5)
    assert set(findings.key_slices) <= set(range(largest.slices[0], largest.slices[1] + 1))


def test_result_does_not_depend_on_how_it_is_computed(chest_of, volume_of, package_paths: list[Path]) -> None:
    volume = volume_of(chest_of(lesion=True))
    results = []
    for batch, threads, at_once in ((1, 1, 1), (7, 2, 2), (3, 2, 1)):
        options = replace(EXACT, batch=batch, threads=threads, at_once=at_once)
        with open_systems(package_paths, options) as systems:
            results.append(screen(volume, systems, clock=itertools.count().__next__))
    first, *others = results
    for other in others:
        assert other.jcs.positive == first.jcs.positive
        assert other.m3lung.label is first.m3lung.label
        np.testing.assert_allclose(first.jcs.slice_probabilities, other.jcs.slice_probabilities, atol=1e-5)
        np.testing.assert_allclose(first.m3lung.probabilities, other.m3lung.probabilities, atol=1e-5)
        np.testing.assert_array_equal(first.lesion_labels, other.lesion_labels)
        np.testing.assert_allclose(first.m3lung.location_maps, other.m3lung.location_maps, atol=1e-5)
        assert findings_summary(first)["timings_s"] == findings_summary(other)["timings_s"]


def test_negative_case_is_segmented_only_on_demand(chest_of, volume_of, tmp_path: Path, make_package) -> None:
    thresholds = {"slice": 0.5, "patient_count": 300, "patient_mode": "absolute", "lesion": 0.5}
    paths = [
        make_package(tmp_path / "j", "jcs", thresholds=thresholds),
        make_package(tmp_path / "m", "m3lung"),
    ]
    volume = volume_of(chest_of(lesion=True))
    with open_systems(paths, EXACT) as systems:
        assert screen(volume, systems).lesions == ()
        assert screen(volume, systems, always_segment=True).lesions


def test_segmentation_on_the_lungs_box_is_put_back_where_it_was(
    chest_of, volume_of, tmp_path: Path, make_package
) -> None:
    crop = {"crop": "centre", "crop_fraction": 0.875, "segment_crop": "lungs", "segment_margin": 7}
    volume = volume_of(chest_of(lesion=True))
    m3 = make_package(tmp_path / "m", "m3lung")
    found = {}
    for name, changes in (("slice", {}), ("lungs", {"preprocessing": crop})):
        with open_systems([make_package(tmp_path / name, "jcs", **changes), m3], EXACT) as systems:
            runner = _Shapes(systems.jcs.runner)
            findings = screen(volume, replace(systems, jcs=replace(systems.jcs, runner=runner)))
            found[name] = findings.lesion_labels
    top, left, bottom, right = volume_box(findings.lung_mask, 7) or (0, 0, 0, 0)
    assert {shape[1:] for shape in runner.seen["segment"]} == {(bottom - top, right - left)}
    assert sum(shape[0] for shape in runner.seen["segment"]) < len(volume.hu)
    assert found["lungs"].any()
    # A network that looks at single pixels marks the same ones, whatever it is given around them.
    np.testing.assert_array_equal(found["lungs"], found["slice"])


def test_nonparametric_rule_and_crop_per_slice(chest_of, volume_of, tmp_path: Path, make_package) -> None:
    m3 = make_package(
        tmp_path / "m",
        "m3lung",
        thresholds={"patient_rule": "nonparametric", "nonparametric": 0.99},
        preprocessing={"crop": "lungs", "crop_scope": "slice", "crop_margin": 10},
    )
    with open_systems([make_package(tmp_path / "j", "jcs"), m3], EXACT) as systems:
        ill = screen(volume_of(chest_of(lesion=True)), systems).m3lung
        well = screen(volume_of(chest_of()), systems).m3lung
    assert ill.label is PneumoniaClass.COVID19
    assert well.label is PneumoniaClass.HEALTHY
    assert sum(ill.probabilities) == pytest.approx(1)
    np.testing.assert_array_equal(well.slice_probabilities[0], [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda chest: np.full((40, 64, 64), -1000), "no lungs found"),
        (lambda chest: np.full((40, 64, 64), 40), "no lungs found"),
        (lambda chest: chest[:10], "10 slices, at least 20"),
    ],
)
def test_what_is_no_chest_is_refused(make: Callable, reason: str, chest_of, volume_of, package_paths) -> None:
    with open_systems(package_paths, EXACT) as systems, pytest.raises(NotScreenable, match=reason):
        screen(volume_of(make(chest_of())), systems)


def test_short_cover_is_refused_unless_configured(chest_of, volume_of, package_paths: list[Path]) -> None:
    volume = volume_of(chest_of(), spacing=2.0)
    with open_systems(package_paths, EXACT) as systems:
        with pytest.raises(NotScreenable, match="cover 80 mm, at least 120 mm"):
            screen(volume, systems)
        assert screen(volume, systems, SeriesRules(min_cover_mm=50)).key_slices


def test_one_package_of_each_system_is_needed(package_paths: list[Path]) -> None:
    with pytest.raises(PackageInvalid, match="no model package for m3lung"):
        open_systems(package_paths[:1])
    with pytest.raises(PackageInvalid, match="second package for jcs"):
        open_systems([package_paths[0], package_paths[0]])


def test_graph_that_is_no_onnx_is_reported(tmp_path: Path, make_package, chest_of, volume_of) -> None:
    package = make_package(tmp_path / "j", "jcs")
    (package / "classify.onnx").write_bytes(b"not onnx")
    metadata = json.loads((package / "metadata.json").read_text())
    metadata["files"]["classify.onnx"] = hashlib.sha256(b"not onnx").hexdigest()
    (package / "metadata.json").write_text(json.dumps(metadata))
    with (
        open_systems([package, make_package(tmp_path / "m", "m3lung")], EXACT) as systems,
        pytest.raises(RunnerFailed, match="classify of jcs-tiny"),
    ):
        screen(volume_of(chest_of()), systems)


def test_summary_is_json_with_the_agreed_keys(chest_of, volume_of, package_paths: list[Path]) -> None:
    with open_systems(package_paths, EXACT) as systems:
        findings = screen(volume_of(chest_of(lesion=True)), systems)
    summary = json.loads(json.dumps(findings_summary(findings, {"loading": 1.5})))
    assert summary["jcs"]["positive"] is True
    assert summary["jcs"]["positive_slices"] == sum(p > 0.5 for p in summary["jcs"]["slice_probabilities"])
    assert summary["m3lung"]["label"] == "covid19"
    assert list(summary["m3lung"]["probabilities"]) == ["healthy", "covid19", "h1n1", "cap"]
    assert summary["lesion_count"] == len(summary["lesions"]) == len(findings.lesions)
    assert summary["timings_s"]["loading"] == 1.5
    assert summary["discordant"] is False
    assert [p["name"] for p in summary["packages"]] == ["jcs-tiny", "m3lung-tiny"]
    assert all(len(p["sha256"]) == 64 for p in summary["packages"])
