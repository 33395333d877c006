"""Findings and Volume in, DICOM result objects out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.volume import Volume
from reporting.context import ObjectKind, ReportContext, ResultObject
from reporting.equipment import freeze
from reporting.identity import Identity, identity_of
from reporting.parametric_map import activation_heatmap, location_heatmap, parametric_map
from reporting.presentation_state import presentation_state
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


def build(
    findings: Findings, volume: Volume, context: ReportContext, kinds: Iterable[ObjectKind] = DEFAULT_KINDS
) -> tuple[ResultObject, ...]:
    """The result objects of a study, in the order of `kinds`.

    A pure function: the same arguments give the same bytes, whatever the time or the machine. Objects that have
    nothing to hold are left out: no `seg` where there is no lesion, no `lung_seg` where there is no lung.
    Raises VerificationError where a Segmentation does not read back as the mask that it was made of.
    """
    identity = identity_of(volume.headers[volume.sources[0].header], context.options.charset)
    uids = result_uids(findings, volume, identity, context)
    segments = lesion_segments(findings, uids, context.options.individual_lesions)
    material = _Material(findings, volume, context, identity, source_images(volume), segments, uids)
    return tuple(_finished(kind, material) for kind in kinds if _has_content(kind, findings))


def _has_content(kind: ObjectKind, findings: Findings) -> bool:
    if kind == "seg":
        return len(findings.lesions) > 0
    if kind == "lung_seg":
        return bool(findings.lung_mask.any())
    return True


def _finished(kind: ObjectKind, material: _Material) -> ResultObject:
    dataset = _BUILDERS[kind](material)
    freeze(dataset, kind, material.uids, material.context.result_time)
    material.identity.stamp(dataset)
    if material.identity.requests and dataset.Modality not in ("SR", "KO"):
        dataset.RequestAttributesSequence = list(material.identity.requests)
    return ResultObject(kind, dataset)


def _seg(m: _Material) -> Dataset:
    dataset = lesion_segmentation(m.findings, m.volume, m.sources, m.segments, m.uids, m.context)
    verify_segmentation(dataset, segment_map(m.findings, m.segments), m.volume)
    return dataset


def _lung_seg(m: _Material) -> Dataset:
    dataset = lung_segmentation(m.findings, m.volume, m.sources, m.uids, m.context)
    verify_segmentation(dataset, m.findings.lung_mask.astype("uint8"), m.volume)
    return dataset


def _sr(m: _Material) -> Dataset:
    return structured_report("sr", m.findings, m.volume, m.sources, m.segments, m.identity, m.uids, m.context)


def _sr_enhanced(m: _Material) -> Dataset:
    return structured_report(
        "sr_enhanced", m.findings, m.volume, m.sources, m.segments, m.identity, m.uids, m.context
    )


_BUILDERS: Mapping[ObjectKind, Callable[[_Material], Dataset]] = {
    "seg": _seg,
    "lung_seg": _lung_seg,
    "gsps": lambda m: presentation_state(m.findings, m.volume, m.sources, m.uids, m.context),
    "pm": lambda m: parametric_map(
        activation_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "pm_m3": lambda m: parametric_map(
        location_heatmap(m.findings), m.findings, m.volume, m.sources, m.uids, m.context
    ),
    "sr": _sr,
    "sr_enhanced": _sr_enhanced,
}
