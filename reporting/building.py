"""Findings and Volume in, DICOM result objects out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.label_volume import LabelVolume
from engine.volume import Volume
from reporting.collection import collection_paused
from reporting.context import ObjectKind, ReportContext, ResultObject
from reporting.equipment import freeze
from reporting.identity import Identity, identity_of
from reporting.key_objects import key_object_selection
from reporting.own_models import OwnSegmentation, own_segmentations
from reporting.parametric_map import activation_heatmap, location_heatmap, parametric_map
from reporting.pdf_report import encapsulated_pdf
from reporting.presentation_state import presentation_state
from reporting.secondary_capture import secondary_captures
from reporting.segmentation import (
    lesion_segmentation,
    lung_label_map,
    lung_segmentation,
    own_segmentation,
)
from reporting.segments import LesionSegment, lesion_segments, segment_map
from reporting.source_images import SourceImages, source_images
from reporting.structured_report import enhanced_report, structured_report
from reporting.uids import ResultUids, compared_uids, result_uids
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
    own_masks: tuple[OwnSegmentation, ...]
    uids: ResultUids

    @cached_property
    def label_map(self) -> LabelVolume[np.uint8]:
        """Segment Number of every voxel [Z, Y, X]."""
        return segment_map(self.findings, self.segments)

    @cached_property
    def report(self) -> Dataset:
        """The SR, which the Enhanced SR repeats."""
        return structured_report(
            self.findings,
            self.volume,
            self.sources,
            self.segments,
            self.own_masks,
            self.identity,
            self.uids,
            self.context,
        )

    @property
    def compared_uids(self) -> ResultUids:
        """The UIDs of objects that show the comparison with an earlier study."""
        return compared_uids(self.uids, self.context)

    def mask(self, kind: ObjectKind, number: int) -> LabelVolume[np.uint8] | None:
        """What the `number`th object of a kind has to say of every voxel, where it is a Segmentation."""
        if kind == "lung_seg":
            return lung_label_map(self.findings)
        if kind != "seg":
            return None
        return next((own.label_map for own in self.own_masks if own.number == number), self.label_map)


def build(
    findings: Findings, volume: Volume, context: ReportContext, kinds: Iterable[ObjectKind] = DEFAULT_KINDS
) -> tuple[ResultObject, ...]:
    """The result objects of a study, in the order of `kinds`; of kind `sc` there are several, and of kind `seg`
    one more for each own model that segmented something.

    A pure function: the same arguments give the same bytes, whatever the time or the machine. Objects that have
    nothing to hold are left out: no `seg` where there is no lesion (nor anything of an own model), no `lung_seg`
    where there is no lung.
    Raises VerificationError where a Segmentation does not read back as the mask that it was made of.
    """
    identity = identity_of(volume.headers[volume.sources[0].header], context.options.charset)
    uids = result_uids(findings, volume, identity, context)
    segments = lesion_segments(findings, uids, context.options.individual_lesions)
    with collection_paused():
        material = _Material(
            findings,
            volume,
            context,
            identity,
            source_images(volume),
            segments,
            own_segmentations(findings, uids),
            uids,
        )
        return tuple(
            _finished(kind, number, dataset, material)
            for kind in kinds
            if kind != "lung_seg" or findings.lung_mask.any()
            for number, dataset in _datasets(kind, material).items()
        )


def _datasets(kind: ObjectKind, material: _Material) -> Mapping[int, Dataset]:
    """The objects of a kind by their numbers."""
    made = _BUILDERS[kind](material)
    return {1: made} if isinstance(made, Dataset) else made


def _finished(kind: ObjectKind, number: int, dataset: Dataset, material: _Material) -> ResultObject:
    result = ResultObject(kind, dataset, number)
    freeze(dataset, result.name, material.uids, material.context.result_time)
    material.identity.stamp(dataset)
    if material.identity.requests and dataset.Modality not in ("SR", "KO"):
        dataset.RequestAttributesSequence = list(material.identity.requests)
    mask = material.mask(kind, number)
    if mask is not None:
        verify_segmentation(result.encoded, mask, material.volume)
    return result


def _seg(m: _Material) -> dict[int, Dataset]:
    """The lesions, where there are any, as number 1; own models after it, each with a number that is always its own."""
    made = {}
    if m.segments:
        made[1] = lesion_segmentation(m.findings, m.label_map, m.sources, m.segments, m.uids, m.context)
    for plan in m.own_masks:
        made[plan.number] = own_segmentation(plan, m.findings, m.sources, m.uids, m.context)
    return made


_BUILDERS: Mapping[ObjectKind, Callable[[_Material], Dataset | Mapping[int, Dataset]]] = {
    "seg": _seg,
    "lung_seg": lambda m: lung_segmentation(m.findings, m.sources, m.uids, m.context),
    "gsps": lambda m: presentation_state(m.findings, m.volume, m.sources, m.uids, m.context),
    "pm": lambda m: parametric_map(
        activation_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "pm_m3": lambda m: parametric_map(
        location_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "sr": lambda m: m.report,
    "sr_enhanced": lambda m: enhanced_report(m.report, m.uids, m.context),
    "kos": lambda m: key_object_selection(m.findings, m.sources, m.identity, m.uids, m.context),
    "sc": lambda m: dict(
        enumerate(secondary_captures(m.findings, m.volume, m.sources, m.compared_uids, m.context), 1)
    ),
    "pdf": lambda m: encapsulated_pdf(m.findings, m.volume, m.sources, m.compared_uids, m.context),
}
