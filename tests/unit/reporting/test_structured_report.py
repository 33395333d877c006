"""The report says what was found, by whom, and how sure; nobody has verified it."""

from __future__ import annotations

import dataclasses

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset

from engine.findings import PneumoniaClass
from reporting import OBJECT_KINDS, PredecessorReport, ReportContext, build
from reporting.phantom_case import PhantomCase, make_case
from reporting.wording import NOT_VERIFIED


def groups_of(dataset: Dataset) -> list[Dataset]:
    root = {c.ConceptNameCodeSequence[0].CodeMeaning: c for c in dataset.ContentSequence}
    return list(root["Imaging Measurements"].ContentSequence)


def content(group: Dataset, meaning: str) -> list[Dataset]:
    return [c for c in group.ContentSequence if c.ConceptNameCodeSequence[0].CodeMeaning == meaning]


def number(group: Dataset, meaning: str) -> float:
    (item,) = content(group, meaning)
    return float(item.MeasuredValueSequence[0].NumericValue)


def code(group: Dataset, meaning: str) -> str:
    (item,) = content(group, meaning)
    return item.ConceptCodeSequence[0].CodeMeaning


def group_of(dataset: Dataset, tracking: str) -> Dataset:
    (group,) = (g for g in groups_of(dataset) if content(g, "Tracking Identifier")[0].TextValue == tracking)
    return group


def words_of(item: Dataset) -> str:
    """Every text and code meaning of a content tree."""
    words = [item.get("TextValue", "")]
    words += [c.CodeMeaning for c in item.get("ConceptCodeSequence", ())]
    words += [words_of(child) for child in item.get("ContentSequence", ())]
    return " ".join(words)


@pytest.mark.parametrize(
    ("kind", "sop_class"),
    [("sr", "1.2.840.10008.5.1.4.1.1.88.34"), ("sr_enhanced", "1.2.840.10008.5.1.4.1.1.88.22")],
)
def test_flags_of_an_unverified_result(kind: str, sop_class: str, context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, context, (kind,))
    dataset = reread(sr)
    assert dataset.SOPClassUID == sop_class
    assert (dataset.VerificationFlag, dataset.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert dataset.PreliminaryFlag == "PRELIMINARY"
    assert dataset.SeriesDescription.endswith("NOT VERIFIED")
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_both_verdicts_name_their_algorithm(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, context, ("sr",))
    dataset = reread(sr)
    for tracking, package in (
        ("JCS-VERDICT", findings.jcs.package),
        ("M3LUNG-VERDICT", findings.m3lung.package),
    ):
        group = group_of(dataset, tracking)
        assert package.name in content(group, "Algorithm Name")[0].TextValue
        assert package.sha256[:12] in content(group, "Algorithm Version")[0].TextValue
        assert any(package.sha256 in c.TextValue for c in content(group, "Algorithm Parameters"))
        assert code(group, "Algorithm Family") == "Artificial Intelligence"
        assert code(group, "CT pattern most compatible with") == "COVID-19"
        assert code(group, "Verification status") == "AI generated, not verified by a physician"
        assert code(group, "Agreement of the two systems") == "The two systems agree"
        assert [NOT_VERIFIED in c.TextValue for c in content(group, "Comment")].count(True) == 1
        key_images = {s.sop_instance_uid for i, s in enumerate(volume.sources) if i in findings.key_slices}
        images = [c for c in group.ContentSequence if c.ValueType == "IMAGE"]
        assert {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images} == key_images


def test_probability_of_each_class(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, context, ("sr",))
    stored = [number(group_of(reread(sr), f"M3LUNG-{c.name}"), "Probability") for c in PneumoniaClass]
    assert np.allclose(stored, findings.m3lung.probabilities, atol=1e-4)


def test_numbers_of_the_lungs(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, context, ("sr",))
    group = group_of(reread(sr), "LUNGS")
    assert number(group, "Volume") == pytest.approx(findings.lung_volume_ml, abs=0.01)
    assert number(group, "Lung involvement") == pytest.approx(findings.lung_involvement_percent, abs=0.01)
    assert number(group, "Number of lesions") == 2
    assert any(volume.series_choice in c.TextValue for c in content(group, "Comment"))


def test_one_volumetric_group_per_segment_with_its_tracking_uid(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase(lesions=3))
    seg, sr = build(findings, volume, context, ("seg", "sr"))
    report = hd.sr.MeasurementReport.from_sequence([sr.dataset])
    groups = report.get_volumetric_roi_measurement_groups()
    segments = seg.dataset.SegmentSequence
    assert [g.tracking_uid for g in groups] == [s.TrackingUID for s in segments]
    assert [g.tracking_identifier for g in groups] == [s.TrackingID for s in segments]
    for group, segment, lesion in zip(groups, segments, findings.lesions, strict=True):
        reference = group.referenced_segment.referenced_sop_instance_uid
        assert reference == seg.dataset.SOPInstanceUID
        volumes = group.get_measurements(hd.sr.CodedConcept("118565006", "SCT", "Volume"))
        assert volumes[0].value == pytest.approx(lesion.volume_ml, abs=0.001)
        assert segment.SegmentNumber == lesion.label


def test_lesions_beyond_twenty_share_a_group(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase(matrix=256, lesions=24))
    (sr,) = build(findings, volume, context, ("sr",))
    groups = hd.sr.MeasurementReport.from_sequence([sr.dataset]).get_volumetric_roi_measurement_groups()
    assert len(groups) == 21
    assert groups[-1].tracking_identifier == "LESIONS-21-TO-24"


def test_no_lesion_is_said_with_a_zero(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    (sr,) = build(findings, volume, context, ("sr",))
    dataset = reread(sr)
    group = group_of(dataset, "LUNGS")
    assert number(group, "Number of lesions") == 0
    assert code(group_of(dataset, "JCS-VERDICT"), "CT pattern most compatible with") == "Not COVID-19"
    assert code(group_of(dataset, "M3LUNG-VERDICT"), "CT pattern most compatible with") == "No pneumonia"
    assert "66.4" not in str(dataset.CurrentRequestedProcedureEvidenceSequence)


def test_disagreement_in_words_and_as_a_code(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(m3lung_label=PneumoniaClass.H1N1))
    (sr,) = build(findings, volume, context, ("sr",))
    dataset = reread(sr)
    for tracking in ("JCS-VERDICT", "M3LUNG-VERDICT"):
        group = group_of(dataset, tracking)
        assert code(group, "Agreement of the two systems") == "The two systems disagree"
        assert any("The two systems disagree" in c.TextValue for c in content(group, "Comment"))


@pytest.mark.parametrize("label", list(PneumoniaClass))
@pytest.mark.parametrize("lesion_slices", [0, 4])
def test_nothing_is_worded_as_a_diagnosis(
    label: PneumoniaClass, lesion_slices: int, context: ReportContext, reread
) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=lesion_slices, m3lung_label=label))
    (sr,) = build(findings, volume, context, ("sr",))
    words = words_of(reread(sr)).lower()
    assert "pattern" in words
    for claim in ("diagnos", "patient has", "suffers", "infected", "confirmed", "disease caused"):
        assert claim not in words


def test_later_revision_names_its_predecessor(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    seg, first = build(findings, volume, context, ("seg", "sr"))
    predecessor = PredecessorReport(
        str(first.dataset.StudyInstanceUID),
        str(first.dataset.SeriesInstanceUID),
        str(first.dataset.SOPInstanceUID),
    )
    later = dataclasses.replace(context, revision=2, predecessor=predecessor)
    seg_2, second = build(findings, volume, later, ("seg", "sr"))
    dataset = reread(second)
    reference = dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.dataset.SOPInstanceUID
    assert reference.SeriesInstanceUID == first.dataset.SeriesInstanceUID
    assert dataset.SOPInstanceUID != first.dataset.SOPInstanceUID
    assert seg.encoded == seg_2.encoded
    assert "Revision 2" in words_of(dataset)


def test_evidence_lists_every_source_instance(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (sr,) = build(findings, volume, context, ("sr",))
    evidence = reread(sr).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    own = next(s for s in evidence if s.SeriesInstanceUID == volume.series_instance_uid)
    listed = {r.ReferencedSOPInstanceUID for r in own.ReferencedSOPSequence}
    assert listed == {s.sop_instance_uid for s in volume.sources}


def test_each_lesion_has_its_share_of_the_lungs_and_its_place(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(lesions=2))
    (sr,) = build(findings, volume, context, ("sr",))
    dataset = reread(sr)
    for index, lesion in enumerate(findings.lesions, 1):
        group = group_of(dataset, f"LESION-{index}")
        share = lesion.volume_ml / findings.lung_volume_ml * 100
        assert number(group, "Share of the lungs' volume") == pytest.approx(share, abs=1e-3)
        (site,) = content(group, "Finding Site")
        side = site.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning
        assert side == ("Left" if lesion.centroid[0] > 0 else "Right")
        assert side.lower() in content(group, "Comment")[0].TextValue


def test_every_object_names_both_algorithms_as_equipment(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    for result in build(findings, volume, context, OBJECT_KINDS):
        algorithms = [
            item
            for item in reread(result).ContributingEquipmentSequence
            if item.get("ContributionDescription") == "Processing Algorithm"
        ]
        assert len({item.DeviceUID for item in algorithms}) == 2, result.name
        for item, package in zip(algorithms, (findings.jcs.package, findings.m3lung.package), strict=True):
            assert package.name in item.ManufacturerModelName
            assert package.sha256[:12] in item.SoftwareVersions
            assert item.ContributionDateTime.startswith("20260102113015")
