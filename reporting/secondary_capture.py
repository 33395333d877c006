"""Secondary Capture summary: colour pictures for archives that show nothing else (PS3.3 A.8.1).

One page with what was found, then at most twelve slices. No identity is burnt in; the header carries it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from highdicom.sc import SCImage
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.findings import Findings
from engine.volume import Volume
from reporting.context import ReportContext
from reporting.equipment import common_arguments
from reporting.rendering import orientation_letters, render_page, render_slice, summary_slices
from reporting.source_images import SourceImages
from reporting.uids import ResultUids

DESCRIPTION = "AI summary - NOT VERIFIED"


def secondary_captures(
    findings: Findings, volume: Volume, sources: SourceImages, uids: ResultUids, context: ReportContext
) -> tuple[Dataset, ...]:
    """The summary series: instance 1 is the page, the others are slices in their order."""
    shown = summary_slices(findings)
    _, right, _, bottom = orientation_letters(volume.geometry)
    page = _capture(
        render_page(findings, volume, context.prior), 1, shown, (), findings, sources, uids, context
    )
    slices = (
        _capture(
            render_slice(findings, volume, z), 2 + i, [z], (right, bottom), findings, sources, uids, context
        )
        for i, z in enumerate(shown)
    )
    return page, *slices


def _capture(
    picture: Image.Image,
    number: int,
    shown: Iterable[int],
    orientation: tuple[str, ...],
    findings: Findings,
    sources: SourceImages,
    uids: ResultUids,
    context: ReportContext,
) -> Dataset:
    """One picture. orientation: patient directions along rows and columns, empty for a page, which has none."""
    dataset = SCImage(
        pixel_array=np.asarray(picture, dtype=np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=sources.images[0].StudyInstanceUID,
        **common_arguments("sc", DESCRIPTION, findings, uids, context, number),
    )
    dataset.PatientOrientation = list(orientation)
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"
    dataset.BodyPartExamined = "CHEST"
    dataset.SourceImageSequence = Sequence(sources.reference_of(z) for z in shown)
    return dataset
