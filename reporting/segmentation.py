"""Segmentation objects: the lesion mask, and the lung mask as an object of its own (PS3.3 A.51).

Lesions and lungs overlap, and one SEG with overlapping segments is slow to build and shunned by viewers; so two.
"""

from __future__ import annotations

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from engine.findings import Findings, PackageReference
from engine.label_volume import LabelVolume
from reporting.codes import ABNORMAL_STRUCTURE, ANATOMICAL_STRUCTURE, LESION, LUNG
from reporting.context import ReportContext
from reporting.equipment import algorithm_sequence, common_arguments
from reporting.own_models import OwnSegmentation, concept
from reporting.segments import LesionSegment
from reporting.source_images import SourceImages
from reporting.uids import ResultUids

LESION_COLOR = (255, 200, 0)
LUNG_COLOR = (0, 160, 200)
OWN_SERIES_NUMBER = 9100
"""Series of own models are numbered from here, by the number of their object."""


_CONTENT_LABELS = {"seg": "AI_LESIONS", "lung_seg": "AI_LUNGS"}


def lesion_segmentation(
    findings: Findings,
    label_map: LabelVolume[np.uint8],
    sources: SourceImages,
    segments: tuple[LesionSegment, ...],
    uids: ResultUids,
    context: ReportContext,
) -> Dataset:
    """The lesion SEG, of `segment_map`, one segment per `LesionSegment`. Raises ValueError where there is no lesion."""
    if not segments:
        raise ValueError(
            "there is no lesion: no SEG is made, since an empty one would be mistaken for a result"
        )
    descriptions = [
        _description(s.number, s.label, (ABNORMAL_STRUCTURE, LESION), findings.jcs.package, LESION_COLOR,
                     tracking=(s.tracking_id, s.tracking_uid))
        for s in segments
    ]  # fmt: skip
    return _segmentation(
        "seg", "AI lesions - NOT VERIFIED", label_map, descriptions, findings, sources, uids, context
    )


def lung_segmentation(
    findings: Findings, sources: SourceImages, uids: ResultUids, context: ReportContext
) -> Dataset:
    """The lung SEG, one segment. Raises ValueError where no lung was found."""
    if not findings.lung_mask.any():
        raise ValueError("no lung was found: no lung SEG is made")
    tracking = ("LUNGS", str(uids.tracking("lung", "LUNGS")))
    # The lungs are found by thresholds in HU before a network sees them; the package named is the one that asked.
    description = _description(
        1, "Lungs", (ANATOMICAL_STRUCTURE, LUNG), findings.m3lung.package, LUNG_COLOR, tracking=tracking
    )
    label_map = lung_label_map(findings)
    return _segmentation(
        "lung_seg", "AI lungs - NOT VERIFIED", label_map, [description], findings, sources, uids, context
    )


def lung_label_map(findings: Findings) -> LabelVolume[np.uint8]:
    """The Segment Number of each voxel [Z, Y, X] of the lung SEG: 1 in the lungs."""
    return findings.lung_mask.relabelled(np.array([0, 1], dtype=np.uint8))


def own_segmentation(
    plan: OwnSegmentation,
    findings: Findings,
    sources: SourceImages,
    uids: ResultUids,
    context: ReportContext,
) -> Dataset:
    """The SEG of an own model, of `OwnSegmentation.label_map`, in a series of its own."""
    descriptions = [
        _description(
            s.number,
            s.finding.which.code.meaning,
            (concept(s.finding.which.category), concept(s.finding.which.code)),
            plan.own.package,
            s.finding.which.color,
            tracking=(s.tracking_id, s.tracking_uid),
            site=concept(plan.own.site),
        )
        for s in plan.segments
    ]
    name = f"AI {plan.own.title} - NOT VERIFIED"
    return _segmentation(
        plan.kind, name, plan.label_map, descriptions, findings, sources, uids, context, plan.number
    )


def _description(
    number: int,
    label: str,
    concepts: tuple[CodedConcept, CodedConcept],
    package: PackageReference,
    color: tuple[int, int, int],
    *,
    tracking: tuple[str, str],
    site: CodedConcept = LUNG,
) -> SegmentDescription:
    category, kind = concepts
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm_sequence(package),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
        anatomic_regions=[site],
        display_color=CIELabColor.from_rgb(*color),
    )


def _segmentation(
    kind: str,
    series_description: str,
    label_map: LabelVolume[np.uint8],
    descriptions: list[SegmentDescription],
    findings: Findings,
    sources: SourceImages,
    uids: ResultUids,
    context: ReportContext,
    own_number: int | None = None,
) -> Dataset:
    """A SEG of a label map [Z, Y, X] in the order of the volume. own_number: of the object of an own model."""
    options = context.options
    form = (
        SegmentationTypeValues.LABELMAP
        if options.segmentation == "labelmap"
        else SegmentationTypeValues.BINARY
    )
    dataset = Segmentation(
        source_images=sources.derived_from,
        pixel_array=sources.labels_as_stored(label_map),
        segmentation_type=form,
        segment_descriptions=descriptions,
        omit_empty_frames=options.omit_empty_frames,
        content_label=_CONTENT_LABELS.get(kind, "AI_FINDINGS"),
        content_description=series_description,
        **common_arguments(
            kind,
            series_description,
            findings,
            uids,
            context,
            own_number or 1,
            None if own_number is None else OWN_SERIES_NUMBER + own_number,
        ),
    )
    sources.name_true_sources(dataset)
    if options.deflated:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset
