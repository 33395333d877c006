"""The report: TID 1500 as Comprehensive 3D SR, or as Enhanced SR for archives that do not take it (PS3.16).

Only TEXT, CODE, NUM, IMAGE and UIDREF content is used, which is legal in both. The report is complete but
UNVERIFIED, and every group names the algorithm that it came from (TID 4019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedSRStorage, SegmentationStorage

from engine.findings import Findings, OwnModelFindings, PneumoniaClass
from engine.volume import Volume
from reporting import codes as coded
from reporting.comparison import comparison_group, report_reference
from reporting.context import ReportContext
from reporting.equipment import SERIES_NUMBER, algorithm_content, common_arguments, device_observer
from reporting.identity import Identity
from reporting.key_objects import key_images
from reporting.location import Place, lung_extent, place_of
from reporting.own_models import OwnSegmentation, own_model_groups
from reporting.segments import LesionSegment
from reporting.source_images import SourceImages
from reporting.uids import ResultUids, report_uids
from reporting.wording import (
    NOT_VERIFIED,
    agreement,
    jcs_reason,
    jcs_verdict,
    lesion_summary,
    m3lung_reason,
    m3lung_verdict,
    own_model_lines,
)

Group = TypeVar(
    "Group", MeasurementsAndQualitativeEvaluations, VolumetricROIMeasurementsAndQualitativeEvaluations
)

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""Supplement 243; not yet in pydicom's dictionary."""


def structured_report(
    findings: Findings,
    volume: Volume,
    sources: SourceImages,
    segments: tuple[LesionSegment, ...],
    own_masks: tuple[OwnSegmentation, ...],
    identity: Identity,
    uids: ResultUids,
    context: ReportContext,
) -> Dataset:
    """The Comprehensive 3D SR of a study."""
    own = report_uids(uids, context)
    lesions = _segmentation_reference(volume, uids, context) if segments else None
    masks = {m.number: _segmentation_reference(volume, uids, context, m.kind, m.number) for m in own_masks}
    groups: list[Any] = [
        _jcs_group(findings, sources, uids),
        _m3lung_group(findings, sources, uids),
        *(_class_group(findings, c, uids) for c in PneumoniaClass),
        _lung_group(findings, volume, sources, uids, context),
        *(_lesion_groups(findings, segments, lesions, volume) if lesions is not None else ()),
        *_own_model_groups(findings, volume, sources, own_masks, masks, uids),
        *([comparison_group(context.prior, findings, uids)] if context.prior else []),
    ]
    prior = context.prior.report if context.prior else None
    content = MeasurementReport(
        title=coded.IMAGING_MEASUREMENT_REPORT,
        observation_context=ObservationContext(observer_device_context=device_observer(context)),
        procedure_reported=coded.CT_OF_CHEST,
        imaging_measurements=groups,
    )
    requests = identity.referenced_requests()
    dataset = Comprehensive3DSR(
        evidence=[
            *key_images(sources, findings, *findings.own_models),
            *([lesions] if lesions is not None else []),
            *masks.values(),
            *([report_reference(prior)] if prior else []),
        ],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=requests or None,
        previous_versions=[report_reference(context.predecessor)] if context.predecessor else None,
        **common_arguments("sr", "AI report - NOT VERIFIED", findings, own, context, context.revision),
    )
    _name_all_evidence(dataset, volume, sources)
    return dataset


def enhanced_report(report: Dataset, uids: ResultUids, context: ReportContext) -> Dataset:
    """The same document as Enhanced SR, in a series of its own; whatever the content uses is legal in both classes."""
    own = report_uids(uids, context)
    enhanced = Dataset(dict(report.items()))
    for keyword, vr, value in (
        ("SOPClassUID", "UI", EnhancedSRStorage),
        ("SOPInstanceUID", "UI", own.instance("sr_enhanced", context.revision)),
        ("SeriesInstanceUID", "UI", own.series("sr_enhanced")),
        ("SeriesNumber", "IS", SERIES_NUMBER["sr_enhanced"]),
    ):
        # Added as new elements: assigning would change those of the other report.
        enhanced.add_new(Tag(keyword), vr, value)
    enhanced.file_meta = FileMetaDataset()
    enhanced.file_meta.update(report.file_meta)
    enhanced.file_meta.add_new(Tag("MediaStorageSOPClassUID"), "UI", enhanced.SOPClassUID)
    enhanced.file_meta.add_new(Tag("MediaStorageSOPInstanceUID"), "UI", enhanced.SOPInstanceUID)
    return enhanced


def _name_all_evidence(dataset: Dataset, volume: Volume, sources: SourceImages) -> None:
    """The report rests on all images of the series, not only on those that its content refers to."""
    for study in dataset.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            if series.SeriesInstanceUID == volume.series_instance_uid:
                series.ReferencedSOPSequence = sources.references


def _jcs_group(
    findings: Findings, sources: SourceImages, uids: ResultUids
) -> MeasurementsAndQualitativeEvaluations:
    jcs = findings.jcs
    pattern = coded.CLASSES[PneumoniaClass.COVID19] if jcs.positive else coded.NOT_COVID19
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("JCS-VERDICT", uids),
        finding_type=coded.IMPRESSION,
        algorithm_id=algorithm_content(
            jcs.package, (f"patient rule {jcs.rule}, threshold {jcs.threshold:.4g}",)
        ),
        finding_sites=[FindingSite(coded.LUNG)],
        qualitative_evaluations=_verdict_codes(pattern, findings),
        measurements=[
            Measurement(coded.POSITIVE_SLICES, jcs.positive_count, coded.NO_UNITS),
            Measurement(coded.POSITIVE_SLICE_LIMIT, round(float(jcs.threshold), 3), coded.NO_UNITS),
        ],
        source_images=_key_images(findings, sources),
    )
    words = (f"{jcs_verdict(jcs)}. {jcs_reason(jcs)}.", agreement(findings), NOT_VERIFIED)
    return _with_comments(group, words)


def _m3lung_group(
    findings: Findings, sources: SourceImages, uids: ResultUids
) -> MeasurementsAndQualitativeEvaluations:
    m3lung = findings.m3lung
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("M3LUNG-VERDICT", uids),
        finding_type=coded.IMPRESSION,
        algorithm_id=algorithm_content(m3lung.package),
        finding_sites=[FindingSite(coded.LUNG)],
        qualitative_evaluations=_verdict_codes(coded.CLASSES[m3lung.label], findings),
        source_images=_key_images(findings, sources),
    )
    words = (f"{m3lung_verdict(m3lung)}. {m3lung_reason(m3lung)}.", agreement(findings), NOT_VERIFIED)
    return _with_comments(group, words)


def _verdict_codes(pattern: CodedConcept, findings: Findings) -> list[QualitativeEvaluation]:
    agree = coded.DISCORDANT if findings.discordant else coded.CONCORDANT
    return [
        QualitativeEvaluation(coded.COMPATIBLE_PATTERN, pattern),
        QualitativeEvaluation(coded.AGREEMENT, agree),
        QualitativeEvaluation(coded.VERIFICATION, coded.NOT_VERIFIED),
    ]


def _class_group(
    findings: Findings, which: PneumoniaClass, uids: ResultUids
) -> MeasurementsAndQualitativeEvaluations:
    """The probability of one class of M3Lung-Sys."""
    probability = round(float(findings.m3lung.probabilities[which]), 4)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"M3LUNG-{which.name}", uids),
        finding_type=coded.CLASSES[which],
        algorithm_id=algorithm_content(findings.m3lung.package),
        finding_sites=[FindingSite(coded.LUNG)],
        measurements=[Measurement(coded.PROBABILITY, probability, coded.NO_UNITS)],
    )


def _lung_group(
    findings: Findings, volume: Volume, sources: SourceImages, uids: ResultUids, context: ReportContext
) -> MeasurementsAndQualitativeEvaluations:
    """Volumes, involvement and lesion count over the whole lungs."""
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("LUNGS", uids),
        finding_type=coded.LUNG,
        algorithm_id=algorithm_content(findings.jcs.package),
        finding_sites=[FindingSite(coded.LUNG)],
        measurements=[
            Measurement(coded.VOLUME, round(findings.lung_volume_ml, 2), coded.MILLILITER),
            Measurement(coded.LUNG_INVOLVEMENT, round(findings.lung_involvement_percent, 2), coded.PERCENT),
            Measurement(coded.LESION_COUNT, len(findings.lesions), coded.NO_UNITS),
            Measurement(coded.LESION_VOLUME, round(findings.lesion_volume_ml, 2), coded.MILLILITER),
        ],
        source_images=_key_images(findings, sources),
    )
    comments = [lesion_summary(findings), *own_model_lines(findings)]
    if volume.series_choice:
        comments.append(f"Series screened: {volume.series_choice}")
    if context.revision > 1:
        comments.append(f"Revision {context.revision} of the result of this study")
    return _with_comments(group, comments)


def _lesion_groups(
    findings: Findings, segments: tuple[LesionSegment, ...], lesions: Dataset, volume: Volume
) -> Iterator[VolumetricROIMeasurementsAndQualitativeEvaluations]:
    """Each segment of the SEG with its measurements (TID 1411)."""
    lungs = lung_extent(findings, volume)
    algorithm = algorithm_content(findings.jcs.package)
    for segment in segments:
        place = place_of(segment.lesions, lungs)
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
            referenced_segment=ReferencedSegment(
                sop_class_uid=lesions.SOPClassUID,
                sop_instance_uid=lesions.SOPInstanceUID,
                segment_number=segment.number,
                source_series=SourceSeriesForSegmentation(volume.series_instance_uid),
            ),
            finding_type=coded.LESION,
            algorithm_id=algorithm,
            finding_sites=[_site(place)],
            measurements=_lesion_measurements(segment, findings),
        )
        yield group if place is None else _with_comments(group, (f"Place: {place.words}",))


def _site(place: Place | None) -> FindingSite:
    """The lung, with side and height as far as they are known; the middle third has no code of its own."""
    if place is None:
        return FindingSite(coded.LUNG)
    side = {"right": coded.RIGHT, "left": coded.LEFT, None: None}[place.side]
    height = {"upper": coded.SUPERIOR, "middle": None, "lower": coded.INFERIOR}[place.third]
    return FindingSite(coded.LUNG, laterality=side, topographical_modifier=height)


def _lesion_measurements(segment: LesionSegment, findings: Findings) -> list[Measurement]:
    volume, lungs = segment.volume_ml, findings.lung_volume_ml
    share = [Measurement(coded.LUNG_SHARE, round(volume / lungs * 100, 3), coded.PERCENT)] if lungs else []
    return [
        Measurement(coded.VOLUME, round(volume, 3), coded.MILLILITER),
        *share,
        Measurement(coded.ATTENUATION, round(segment.mean_hu, 1), coded.HOUNSFIELD, derivation=coded.MEAN),
        Measurement(coded.LESION_COUNT, len(segment.lesions), coded.NO_UNITS),
    ]


def _own_model_groups(
    findings: Findings,
    volume: Volume,
    sources: SourceImages,
    own_masks: tuple[OwnSegmentation, ...],
    references: Mapping[int, Dataset],
    uids: ResultUids,
) -> Iterator[Any]:
    """The groups of all own models."""
    planned = {mask.own.package.name: mask for mask in own_masks}
    for own in findings.own_models:
        mask = planned.get(own.package.name)
        images = _key_images(own, sources)
        yield from own_model_groups(
            own,
            () if mask is None else mask.segments,
            None if mask is None else references[mask.number],
            images,
            volume.series_instance_uid,
            uids,
        )


def _with_comments(group: Group, comments: Sequence[str]) -> Group:
    for comment in comments:
        group[0].ContentSequence.append(
            TextContentItem(coded.COMMENT, comment, RelationshipTypeValues.CONTAINS)
        )
    return group


def _tracking(identifier: str, uids: ResultUids) -> TrackingIdentifier:
    return TrackingIdentifier(uid=uids.tracking("group", identifier), identifier=identifier)


def _key_images(
    findings: Findings | OwnModelFindings, sources: SourceImages
) -> list[SourceImageForMeasurementGroup]:
    return [
        SourceImageForMeasurementGroup(
            sources.slices[z].sop_class_uid, sources.slices[z].sop_instance_uid, sources.frames_of(z)
        )
        for z in findings.key_slices
    ]


def _segmentation_reference(
    volume: Volume, uids: ResultUids, context: ReportContext, kind: str = "seg", number: int = 1
) -> Dataset:
    """What the report needs to refer to a SEG, which has derived UIDs and need not exist yet."""
    labelmap = context.options.segmentation == "labelmap"
    reference = Dataset()
    reference.SOPClassUID = LABEL_MAP_SEGMENTATION_STORAGE if labelmap else SegmentationStorage
    reference.SOPInstanceUID = uids.instance(kind, number)
    reference.SeriesInstanceUID = uids.series(kind)
    reference.StudyInstanceUID = volume.study_instance_uid
    return reference
