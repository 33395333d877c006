"""An earlier screening beside the new one."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from engine.findings import PneumoniaClass
from engine.summary import findings_summary
from reporting import PriorComparison, ReportContext, ReportReference, build, prior_comparison
from reporting.phantom_case import PhantomCase, make_case
from reporting.wording import prior_lines

REPORT = ReportReference("2.25.11", "2.25.12", "2.25.13")
THEN = date(2025, 11, 3)


def test_the_summary_of_a_screening_is_all_a_comparison_needs() -> None:
    findings, _ = make_case(PhantomCase())
    prior = prior_comparison(findings_summary(findings), "2.25.11", THEN, 60, REPORT)
    assert (prior.study_instance_uid, prior.study_date, prior.days_between) == ("2.25.11", THEN, 60)
    assert prior.report == REPORT
    assert prior.jcs_positive == findings.jcs.positive
    assert prior.m3lung_label is findings.m3lung.label
    assert prior.packages == (findings.jcs.package, findings.m3lung.package)
    assert prior.lesion_count == len(findings.lesions)
    assert prior.same_packages(findings)
    assert prior.lesion_volume_change_ml(findings) == 0
    assert prior.involvement_change_points(findings) == 0


def test_changes_are_now_less_then() -> None:
    findings, _ = make_case(PhantomCase())
    prior = PriorComparison(
        "2.25.11", THEN, 60, findings.lesion_volume_ml + 3, 4000.0, findings.lung_involvement_percent - 2, 1, False,
        PneumoniaClass.CAP,
    )  # fmt: skip
    assert prior.lesion_volume_change_ml(findings) == pytest.approx(-3)
    assert prior.involvement_change_points(findings) == pytest.approx(2)
    assert not prior.same_packages(findings)


def test_a_later_study_is_no_prior() -> None:
    findings, _ = make_case(PhantomCase())
    with pytest.raises(ValueError, match="5 days later"):
        prior_comparison(findings_summary(findings), "2.25.11", THEN, -5)


def test_a_summary_without_a_verdict_is_refused() -> None:
    findings, _ = make_case(PhantomCase())
    summary = findings_summary(findings)
    del summary["jcs"]
    with pytest.raises(KeyError, match="jcs"):
        prior_comparison(summary, "2.25.11", THEN, 60)


def earlier() -> PriorComparison:
    return PriorComparison(
        study_instance_uid=REPORT.study_instance_uid,
        study_date=THEN,
        days_between=60,
        lesion_volume_ml=12.5,
        lung_volume_ml=4000.0,
        lung_involvement_percent=0.5,
        lesion_count=3,
        jcs_positive=False,
        m3lung_label=PneumoniaClass.CAP,
        report=REPORT,
    )


def items_of(dataset: Dataset) -> dict[str, Dataset]:
    """The content of the comparison, by the meaning of its concept."""
    root = {c.ConceptNameCodeSequence[0].CodeMeaning: c for c in dataset.ContentSequence}
    for group in root["Imaging Measurements"].ContentSequence:
        items = {c.ConceptNameCodeSequence[0].CodeMeaning: c for c in group.ContentSequence}
        if items["Tracking Identifier"].TextValue == "COMPARISON":
            return items
    raise AssertionError("the report has no comparison")


@pytest.mark.parametrize("kind", ["sr", "sr_enhanced"])
def test_the_report_says_what_has_changed_and_since_when(kind: str, context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, dataclasses.replace(context, prior=earlier()), (kind,))
    dataset = reread(sr)
    items = items_of(dataset)
    numbers = {
        meaning: float(item.MeasuredValueSequence[0].NumericValue)
        for meaning, item in items.items()
        if item.ValueType == "NUM"
    }
    assert numbers["Days since the prior study"] == 60
    assert numbers["Volume of all lesions in the prior study"] == 12.5
    change = numbers["Change of the volume of all lesions"]
    assert change == pytest.approx(findings.lesion_volume_ml - 12.5, abs=0.01)
    points = numbers["Change of lung involvement, in percentage points"]
    assert points == pytest.approx(findings.lung_involvement_percent - 0.5, abs=0.01)
    assert items["Study Date"].Date == "20251103"
    named = str(items["Study Instance UID"].UID)
    assert named == REPORT.study_instance_uid
    said = {m: i.ConceptCodeSequence[0].CodeMeaning for m, i in items.items() if i.ValueType == "CODE"}
    assert said["CT pattern most compatible with, prior study, JCS"] == "Not COVID-19"
    assert said["CT pattern most compatible with, prior study, M3Lung-Sys"] == "Community acquired pneumonia"
    reference = items["Prior report for current patient"].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == REPORT.sop_instance_uid
    (evidence,) = dataset.PertinentOtherEvidenceSequence
    assert evidence.StudyInstanceUID == REPORT.study_instance_uid
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == REPORT.series_instance_uid


def test_a_prior_without_a_report_is_named_by_its_study(context: ReportContext, reread) -> None:
    without = dataclasses.replace(earlier(), report=None)
    (sr,) = build(*make_case(PhantomCase()), dataclasses.replace(context, prior=without), ("sr",))
    items = items_of(reread(sr))
    named = str(items["Study Instance UID"].UID)
    assert named == REPORT.study_instance_uid
    assert "Prior report for current patient" not in items


def test_a_prior_gives_new_uids_to_what_shows_it_and_to_nothing_else(context: ReportContext) -> None:
    kinds = ("seg", "sr", "gsps", "pm", "sc", "pdf")
    alone = build(*make_case(PhantomCase()), context, kinds)
    compared = build(*make_case(PhantomCase()), dataclasses.replace(context, prior=earlier()), kinds)
    changed = {a.kind for a, b in zip(alone, compared, strict=True) if a.encoded != b.encoded}
    other_uid = {
        a.kind
        for a, b in zip(alone, compared, strict=True)
        if a.dataset.SOPInstanceUID != b.dataset.SOPInstanceUID
    }
    assert changed == other_uid == {"sr", "sc", "pdf"}


@pytest.mark.dicom3tools
def test_validators_find_nothing_wrong_with_a_comparison(
    context: ReportContext, run_tool, tmp_path: Path
) -> None:
    compared = dataclasses.replace(context, prior=earlier())
    for result in build(*make_case(PhantomCase()), compared, ("sr", "sr_enhanced", "sc", "pdf")):
        path = tmp_path / f"{result.name}.dcm"
        path.write_bytes(result.encoded)
        errors = [line for line in run_tool("dciodvfy", path).splitlines() if line.startswith("Error")]
        assert not errors, f"{result.name}: {errors}"


def test_the_words_name_both_measurements_and_what_limits_them() -> None:
    findings, _ = make_case(PhantomCase())
    first, second, third = prior_lines(earlier(), findings)
    assert "2025-11-03 (60 days before)" in first and "12.5 ml then" in first
    assert second.startswith("JCS: no COVID-19 pattern then")
    assert "Other model packages" in third
    same = dataclasses.replace(
        earlier(), packages=(findings.jcs.package, findings.m3lung.package), days_between=1
    )
    lines = prior_lines(same, findings)
    assert len(lines) == 2 and "(1 day before)" in lines[0]
