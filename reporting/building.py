"""Findings and Volume in, DICOM result objects out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.volume import Volume
from reporting.context import ObjectKind, ReportContext, ResultObject
from reporting.equipment import freeze
from reporting.identity import Identity, identity_of
from reporting.key_objects import key_object_selection
from reporting.parametric_map import activation_heatmap, location_heatmap, parametric_map
from reporting.pdf_report import encapsulated_pdf
from reporting.presentation_state import presentation_state
from reporting.secondary_capture import secondary_captures
from reporting.segmentation import lesion_segmentation, lung_segmentation
from reporting.segments import LesionSegment, lesion_segments, segment_map
from reporting.source_images import SourceImages, source_images
from reporting.structured_report import structured_report
from reporting.uids import ResultUids, result_uids
from reporting.verification import verify_segmentation

DEFAULT_KINDS: tuple[ObjectKind, ...] = ("seg", "gsps", "pm", "sr")


@dataclass(frozen=True, eq=False)
class _Material:
    """Everything that a builder may use, prepared once for all of them."""

    findings: Findings
    volume: Volume
    context: ReportContext
    identity: Identity
    sources: SourceImages
    segments: tuple[LesionSegment, ...]
    uids: ResultUids

    @cached_property
    def label_map(self) -> npt.NDArray[np.uint8]:
        """Segment Number of every voxel, uint8 [Z, Y, X]."""
        return segment_map(self.findings, self.segments)


def build(
    findings: Findings, volume: Volume, context: ReportContext, kinds: Iterable[ObjectKind] = DEFAULT_KINDS
) -> tuple[ResultObject, ...]:
    """The result objects of a study, in the order of `kinds`; of kind `sc` there are several.

    A pure function: the same arguments give the same bytes, whatever the time or the machine. Objects that have
    nothing to hold are left out: no `seg` where there is no lesion, no `lung_seg` where there is no lung.
    Raises VerificationError where a Segmentation does not read back as the mask that it was made of.
    """
    identity = identity_of(volume.headers[volume.sources[0].header], context.options.charset)
    uids = result_uids(findings, volume, identity, context)
    segments = lesion_segments(findings, uids, context.options.individual_lesions)
    material = _Material(findings, volume, context, identity, source_images(volume), segments, uids)
    return tuple(
        _finished(kind, number, dataset, material)
        for kind in kinds
        if _has_content(kind, findings)
        for number, dataset in enumerate(_datasets(kind, material), 1)
    )


def _has_content(kind: ObjectKind, findings: Findings) -> bool:
    if kind == "seg":
        return len(findings.lesions) > 0
    if kind == "lung_seg":
        return bool(findings.lung_mask.any())
    return True


def _datasets(kind: ObjectKind, material: _Material) -> tuple[Dataset, ...]:
    made = _BUILDERS[kind](material)
    return (made,) if isinstance(made, Dataset) else made


def _finished(kind: ObjectKind, number: int, dataset: Dataset, material: _Material) -> ResultObject:
    freeze(dataset, kind, material.uids, material.context.result_time)
    material.identity.stamp(dataset)
    if material.identity.requests and dataset.Modality not in ("SR", "KO"):
        dataset.RequestAttributesSequence = list(material.identity.requests)
    result = ResultObject(kind, dataset, number)
    if kind == "seg":
        verify_segmentation(result.encoded, material.label_map, material.volume)
    elif kind == "lung_seg":
        verify_segmentation(result.encoded, material.findings.lung_mask.astype(np.uint8), material.volume)
    return result


def _seg(m: _Material) -> Dataset:
    return lesion_segmentation(m.findings, m.label_map, m.sources, m.segments, m.uids, m.context)


def _sr(m: _Material) -> Dataset:
    return structured_report("sr", m.findings, m.volume, m.sources, m.segments, m.identity, m.uids, m.context)


def _sr_enhanced(m: _Material) -> Dataset:
    return structured_report(
        "sr_enhanced", m.findings, m.volume, m.sources, m.segments, m.identity, m.uids, m.context
    )


_BUILDERS: Mapping[ObjectKind, Callable[[_Material], Dataset | tuple[Dataset, ...]]] = {
    "seg": _seg,
    "lung_seg": lambda m: lung_segmentation(m.findings, m.sources, m.uids, m.context),
    "gsps": lambda m: presentation_state(m.findings, m.volume, m.sources, m.uids, m.context),
    "pm": lambda m: parametric_map(
        activation_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "pm_m3": lambda m: parametric_map(
        location_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "sr": _sr,
    "sr_enhanced": _sr_enhanced,
    "kos": lambda m: key_object_selection(m.findings, m.sources, m.identity, m.uids, m.context),
    "sc": lambda m: secondary_captures(m.findings, m.volume, m.sources, m.uids, m.context),
    "pdf": lambda m: encapsulated_pdf(m.findings, m.volume, m.sources, m.uids, m.context),
}
