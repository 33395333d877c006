"""Results of a department's own models: a mask of their own, and groups in the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset

from engine.findings import (
    ClassFinding,
    Code,
    Findings,
    ModelClass,
    OwnModelFailure,
    OwnModelFindings,
    PackageReference,
)
from reporting import ReportContext, ReportOptions, ResultObject, build
from reporting.phantom_case import PhantomCase, make_case
from reporting.wording import few_own_model_lines

SITE = Code("39607008", "SCT", "Lung")
CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
DENSE = ModelClass("dense", Code("95436008", "SCT", "Pulmonary consolidation"), CATEGORY, (230, 90, 60))
FLUID = ModelClass("fluid", Code("60046008", "SCT", "Pleural effusion"), CATEGORY, (90, 140, 230))
OLD = ModelClass("old", Code("OLD", "99WARD", "Scar"), CATEGORY, (10, 20, 30))


def segmenter(findings: Findings) -> OwnModelFindings:
    """Three classes: the first not found, the second over the left lesions, the third beside it."""
    labels = np.zeros(findings.lung_mask.shape, dtype=np.uint8)
    labels[1:3, 10:20, 10:30] = 2
    labels[2:4, 30:35, 10:30] = 3
    return OwnModelFindings(
        package=PackageReference("three-classes", "0.1.0", "onnx", "c" * 64),
        title="Three classes",
        site=SITE,
        rule="segmented volume above 0 ml",
        classes=(
            ClassFinding(OLD, False, volume_ml=0.0, lung_percent=0.0),
            ClassFinding(DENSE, True, volume_ml=12.34, lung_percent=5.5, mean_hu=-120.0),
            ClassFinding(FLUID, True, volume_ml=6.17, lung_percent=0.0, mean_hu=10.0),
        ),
        slice_scores=None,
        labels=labels,
        key_slices=(1, 2),
    )


def classifier() -> OwnModelFindings:
    return OwnModelFindings(
        package=PackageReference("two-classes", "2.0.0", "onnx", "d" * 64),
        title="Two classes",
        site=SITE,
        rule="largest slice score above 0.5, 0.5",
        classes=(
            ClassFinding(DENSE, True, score=0.87654),
            ClassFinding(FLUID, False, positive_slices=2, slice_limit=3),
        ),
        slice_scores=np.zeros((6, 2), dtype=np.float32),
        labels=None,
        key_slices=(3,),
    )


@pytest.fixture
def with_own() -> Callable[..., tuple]:
    def make(case: PhantomCase = PhantomCase()) -> tuple:  # noqa: B008 (frozen)
        findings, volume = make_case(case)
        own = (classifier(), segmenter(findings))
        return replace(
            findings, own_models=own, own_model_failures=(OwnModelFailure("absent", "why"),)
        ), volume

    return make


def named(results: tuple[ResultObject, ...]) -> dict[str, ResultObject]:
    return {result.name: result for result in results}


def groups_of(report: Dataset) -> list[Dataset]:
    measurements = next(i for i in report.ContentSequence if _name(i) == "Imaging Measurements")
    return list(measurements.ContentSequence)


def group_called(report: Dataset, identifier: str) -> dict[str, Dataset]:
    """The items of a group by the meaning of their concept name."""
    for group in groups_of(report):
        items = {_name(item): item for item in group.ContentSequence}
        if items["Tracking Identifier"].TextValue == identifier:
            return items
    raise AssertionError(f"no group {identifier}")


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def number(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def test_each_own_segmenter_has_a_segmentation_of_its_own(with_own, context: ReportContext, reread) -> None:
    findings, volume = with_own()
    results = named(build(findings, volume, context, ("seg", "sr")))
    assert list(results) == ["seg", "seg-03", "sr"], "the classifier is number 2 and has no mask"
    lesions, own = reread(results["seg"]), reread(results["seg-03"])
    assert own.SeriesInstanceUID != lesions.SeriesInstanceUID
    assert own.SeriesNumber == 9103
    assert own.SeriesDescription == "AI Three classes - NOT VERIFIED"
    assert [s.SegmentLabel for s in own.SegmentSequence] == ["Pulmonary consolidation", "Pleural effusion"]
    algorithm = own.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "Own model (three-classes)"
    assert algorithm.AlgorithmVersion == "0.1.0+cccccccccccc"
    assert "AlgorithmSource" not in algorithm, "it is not of this project's making"
    stored = hd.seg.Segmentation.from_dataset(own).get_pixels_by_source_instance(
        [s.sop_instance_uid for s in volume.sources],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    expected = np.array([0, 0, 1, 2], dtype=np.uint8)[findings.own_models[1].labels]
    assert np.array_equal(stored, expected)


def test_the_mask_of_an_own_model_never_takes_the_place_of_the_lesions(
    with_own, context: ReportContext
) -> None:
    findings, volume = with_own(PhantomCase(lesion_slices=0))
    assert list(named(build(findings, volume, context, ("seg",)))) == ["seg-03"]


def test_the_report_says_what_each_class_is(with_own, context: ReportContext, reread) -> None:
    findings, volume = with_own()
    results = named(build(findings, volume, context, ("seg", "sr", "sr_enhanced")))
    for kind in ("sr", "sr_enhanced"):
        report = reread(results[kind])
        dense = group_called(report, "three-classes/dense")
        assert dense["Result of the algorithm"].ConceptCodeSequence[0].CodeMeaning == "Present"
        assert number(dense["Volume"]) == 12.34
        assert number(dense["Share of the lungs' volume"]) == 5.5
        assert number(dense["Attenuation Coefficient"]) == -120
        segment = dense["Referenced Segment"].ReferencedSOPSequence[0]
        assert segment.ReferencedSOPInstanceUID == results["seg-03"].dataset.SOPInstanceUID
        assert segment.ReferencedSegmentNumber == 1
        assert dense["Algorithm Name"].TextValue == "Own model (three-classes)"
        assert dense["Finding"].ConceptCodeSequence[0].CodeValue == "95436008"
        old = group_called(report, "three-classes/old")
        assert old["Result of the algorithm"].ConceptCodeSequence[0].CodeMeaning == "Absent"
        assert old["Finding"].ConceptCodeSequence[0].CodingSchemeDesignator == "99WARD"
        assert number(group_called(report, "two-classes/dense")["Probability"]) == 0.8765
        fluid = group_called(report, "two-classes/fluid")
        assert number(fluid["Slices in which the algorithm finds it"]) == 2


def test_the_report_says_which_model_gave_no_result_but_not_the_nodes_paths(
    with_own, context: ReportContext
) -> None:
    findings, volume = with_own()
    findings = replace(findings, own_model_failures=(OwnModelFailure("absent", "/opt/models/absent: gone"),))
    (report,) = build(findings, volume, context, ("sr",))
    assert b"absent gave no result for this study" in report.encoded
    assert b"/opt/models" not in report.encoded


def test_own_models_are_part_of_every_uid_and_of_nothing_where_there_are_none(
    with_own, context: ReportContext
) -> None:
    findings, volume = with_own()
    bare = replace(findings, own_models=(), own_model_failures=())

    def uid(given: Findings) -> str:
        return str(build(given, volume, context, ("sr",))[0].dataset.SOPInstanceUID)

    variants = [bare, replace(findings, own_models=()), replace(findings, own_model_failures=()), findings]
    assert len({uid(v) for v in variants}) == 4
    assert uid(findings) == uid(findings)


def test_label_maps_are_written_and_read_back(with_own, context: ReportContext) -> None:
    """Validators do not know them yet; `build` reads every mask back and compares."""
    context = replace(context, options=ReportOptions(segmentation="labelmap"))
    assert list(named(build(*with_own(), context, ("seg", "sr")))) == ["seg", "seg-03", "sr"]


@pytest.mark.dicom3tools
def test_validators_find_nothing_wrong(with_own, context: ReportContext, run_tool, tmp_path: Path) -> None:
    for result in build(*with_own(), context, ("seg", "sr", "sr_enhanced", "kos", "pdf")):
        path = tmp_path / f"{result.name}.dcm"
        path.write_bytes(result.encoded)
        errors = [line for line in run_tool("dciodvfy", path).splitlines() if line.startswith("Error")]
        assert not errors, f"{result.name}: {errors}"


def test_many_models_leave_room_on_the_page(with_own, context: ReportContext) -> None:
    findings, volume = with_own()
    many = tuple(replace(classifier(), title=f"Model {k} {'x' * 30}") for k in range(9))
    lines = few_own_model_lines(replace(findings, own_models=many))
    assert len(lines) == 3
    assert lines[-1] == "and 8 more of your own models: see the report"
    assert all(len(line) <= 200 for line in lines)
    build(replace(findings, own_models=many[:1]), volume, context, ("gsps", "sc"))
