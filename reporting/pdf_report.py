"""The report as an Encapsulated PDF, for archives that show documents (PS3.3 A.45.1)."""

from __future__ import annotations

import io
from xml.sax.saxutils import escape

from highdicom.base import SOPClass
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle
from reportlab.platypus import Image as PdfImage

from engine.findings import Findings, PneumoniaClass
from engine.volume import Volume
from reporting.context import ReportContext
from reporting.equipment import common_arguments, software_versions
from reporting.rendering import render_slice, summary_slices
from reporting.slice_names import SliceNames, slice_names
from reporting.source_images import SourceImages
from reporting.uids import ResultUids
from reporting.wording import (
    CLASS_NAMES,
    COUNT_RULE,
    NOT_VERIFIED,
    agreement,
    decided_by_count,
    jcs_reason,
    jcs_verdict,
    lesion_summary,
    m3lung_verdict,
    own_model_lines,
    prior_lines,
)

TITLE = "Chest CT screening for pneumonia"
DESCRIPTION = "AI report (PDF) - NOT VERIFIED"
LESION_ROWS = 10
SLICES_SHOWN = 6
PICTURE_SIDE = 56 * mm


def encapsulated_pdf(
    findings: Findings, volume: Volume, sources: SourceImages, uids: ResultUids, context: ReportContext
) -> Dataset:
    """The PDF report wrapped as a DICOM document of the study."""
    document = render_pdf(findings, volume, context)
    arguments = common_arguments("pdf", DESCRIPTION, findings, uids, context)
    algorithms = arguments.pop("contributing_equipment")  # which the base class of highdicom does not know
    dataset = SOPClass(
        study_instance_uid=sources.images[0].StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **arguments,
    )
    dataset.ContributingEquipmentSequence = algorithms
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"
    dataset.AcquisitionDateTime = ""
    dataset.DocumentTitle = TITLE
    dataset.ConceptNameCodeSequence = Sequence()
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(document)
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.SourceInstanceSequence = Sequence(sources.references)
    return dataset


def render_pdf(findings: Findings, volume: Volume, context: ReportContext) -> bytes:
    """The report as PDF on A4, the same bytes for the same arguments.

    It names the study by its UID and no patient: Burned In Annotation is NO, and archives show whose it is beside it.
    """
    styles = getSampleStyleSheet()
    alarm = ParagraphStyle(
        "alarm", styles["Normal"], textColor=colors.HexColor("#b00020"), fontName="Helvetica-Bold"
    )
    story: list[Flowable] = [
        Paragraph(TITLE, styles["Title"]),
        Paragraph(NOT_VERIFIED, alarm),
        Spacer(0, 4 * mm),
        Paragraph(jcs_verdict(findings.jcs), styles["Heading3"]),
        Paragraph(jcs_reason(findings.jcs), styles["Normal"]),
        Paragraph(m3lung_verdict(findings.m3lung), styles["Heading3"]),
        _probabilities(findings),
        *([Paragraph(COUNT_RULE, styles["Normal"])] if decided_by_count(findings.m3lung) else []),
        Spacer(0, 3 * mm),
        Paragraph(agreement(findings), alarm if findings.discordant else styles["Normal"]),
        Paragraph(lesion_summary(findings), styles["Normal"]),
        *(Paragraph(line, styles["Normal"]) for line in _compared(findings, context)),
        *(Paragraph(escape(line), styles["Normal"]) for line in own_model_lines(findings)),
        Spacer(0, 3 * mm),
    ]
    if findings.lesions:
        story += [_lesions(findings, slice_names(volume)), Spacer(0, 3 * mm)]
    story.append(_pictures(findings, volume))
    for line in (f"Study {volume.study_instance_uid}", "; ".join(software_versions(findings, context))):
        story.append(Paragraph(line, styles["Normal"]))
    buffer = io.BytesIO()
    margins = {"leftMargin": 18 * mm, "rightMargin": 18 * mm, "topMargin": 14 * mm, "bottomMargin": 14 * mm}
    SimpleDocTemplate(buffer, pagesize=A4, invariant=1, title=TITLE, author="lungnode", **margins).build(
        story
    )
    return buffer.getvalue()


def _compared(findings: Findings, context: ReportContext) -> list[str]:
    return prior_lines(context.prior, findings) if context.prior is not None else []


def _probabilities(findings: Findings) -> Table:
    header = [CLASS_NAMES[c] for c in PneumoniaClass]
    values = [f"{findings.m3lung.probabilities[c] * 100:.1f} %" for c in PneumoniaClass]
    return _table([header, values])


def _lesions(findings: Findings, names: SliceNames) -> Table:
    rows = [["lesion", "volume ml", "mean HU", f"{names.word}s"]]
    rows += [
        [
            str(i + 1),
            f"{one.volume_ml:.1f}",
            f"{one.mean_hu:.0f}",
            names.span(*one.slices),
        ]
        for i, one in enumerate(findings.lesions[:LESION_ROWS])
    ]
    more = len(findings.lesions) - LESION_ROWS
    if more > 0:
        volume = sum(one.volume_ml for one in findings.lesions[LESION_ROWS:])
        rows.append([f"{more} more", f"{volume:.1f}", "", ""])
    return _table(rows)


def _table(rows: list[list[str]]) -> Table:
    style = [
        ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.grey),
        ("FONTSIZE", (0, 0), (-1, -1), 9),
    ]
    return Table(rows, style=TableStyle(style), hAlign="LEFT")


def _pictures(findings: Findings, volume: Volume) -> Table:
    """Key slices, three in a row."""
    shown = summary_slices(findings, SLICES_SHOWN)
    cells: list[Flowable] = [_picture(render_slice(findings, volume, z)) for z in shown]
    rows = [cells[i : i + 3] for i in range(0, len(cells), 3)]
    rows = [row + [Spacer(0, 0)] * (3 - len(row)) for row in rows]
    tight = TableStyle(
        [(f"{side}PADDING", (0, 0), (-1, -1), 1) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")]
    )
    return Table(rows, colWidths=[PICTURE_SIDE + 2] * 3, style=tight, hAlign="LEFT")


def _picture(picture: Image.Image) -> PdfImage:
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=90)
    jpeg.seek(0)
    return PdfImage(jpeg, PICTURE_SIDE, PICTURE_SIDE)
