"""Pictures and documents for archives that show nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.findings import PneumoniaClass
from reporting import ReportContext, build
from reporting.pdf_report import render_pdf
from reporting.phantom_case import PhantomCase, make_case
from reporting.rendering import render_page, render_slice, summary_slices
from reporting.wording import COUNT_RULE


def test_page_first_then_at_most_twelve_slices(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(slices=60, lesion_slices=50, lesions=20, matrix=128))
    captures = [reread(r) for r in build(findings, volume, context, ("sc",))]
    assert [c.InstanceNumber for c in captures] == list(range(1, len(captures) + 1))
    assert 2 <= len(captures) <= 13
    assert len({c.SeriesInstanceUID for c in captures}) == 1
    for capture in captures:
        assert (capture.PhotometricInterpretation, capture.BitsAllocated) == ("RGB", 8)
        assert capture.ConversionType == "WSD"
        assert "NOT VERIFIED" in capture.SeriesDescription
    assert np.array_equal(captures[0].pixel_array, np.asarray(render_page(findings, volume)))


def test_each_slice_names_its_source(case, context: ReportContext, reread) -> None:
    findings, volume = case
    _, *slices = [reread(r) for r in build(findings, volume, context, ("sc",))]
    for capture, z in zip(slices, summary_slices(findings), strict=True):
        (reference,) = capture.SourceImageSequence
        source = volume.sources[z]
        assert reference.ReferencedSOPInstanceUID == source.sop_instance_uid
        assert reference.get("ReferencedFrameNumber") == source.frame_number
        assert np.array_equal(capture.pixel_array, np.asarray(render_slice(findings, volume, z)))


def test_orientation_of_the_pictures(context: ReportContext, reread) -> None:
    feet_first = PhantomCase(orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    for case, expected in ((PhantomCase(), ["L", "P"]), (feet_first, ["R", "P"])):
        _, first, *_ = build(*make_case(case), context, ("sc",))
        assert list(reread(first).PatientOrientation) == expected


def test_pdf_is_wrapped_whole(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (result,) = build(findings, volume, context, ("pdf",))
    dataset = reread(result)
    document = dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]
    assert document == render_pdf(findings, volume, context)
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert len(dataset.SourceInstanceSequence) == len(volume.sources)


def test_pdf_says_what_the_report_says(context: ReportContext, run_tool, tmp_path: Path) -> None:
    findings, volume = make_case(PhantomCase(m3lung_label=PneumoniaClass.CAP, matrix=256, lesions=12))
    path = tmp_path / "report.pdf"
    path.write_bytes(render_pdf(findings, volume, context))
    text = " ".join(run_tool("pdftotext", "-layout", path, "-").split())
    assert "JCS: CT pattern compatible with COVID-19 pneumonia" in text
    assert "M3Lung-Sys: CT pattern most compatible with community-acquired pneumonia" in text
    assert "The two systems disagree" in text
    assert "NOT VERIFIED" in text
    assert f"Study {volume.study_instance_uid}" in text
    assert "2 more" in text


@pytest.mark.parametrize("counted", [False, True])
def test_pdf_says_why_a_class_is_named_that_is_not_the_most_probable(
    counted: bool, context: ReportContext, run_tool, tmp_path: Path
) -> None:
    findings, volume = make_case(PhantomCase())
    probabilities = (0.5, 0.3, 0.1, 0.1) if counted else (0.3, 0.5, 0.1, 0.1)
    m3lung = replace(findings.m3lung, label=PneumoniaClass.COVID19, probabilities=probabilities)
    path = tmp_path / "report.pdf"
    path.write_bytes(render_pdf(replace(findings, m3lung=m3lung), volume, context))
    text = " ".join(run_tool("pdftotext", "-layout", path, "-").split())
    assert (COUNT_RULE in text) is counted
