"""Results of a department's own models: a Segmentation each, and groups of the report.

Their masks may overlap the lesions and each other, so each model has a Segmentation of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom.sr import (
    CodedConcept,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from engine.findings import ClassFinding, Code, Findings, OwnModelFindings
from engine.label_volume import LabelVolume
from reporting import codes as coded
from reporting.equipment import algorithm_content
from reporting.uids import ResultUids

FIRST_NUMBER = 2
"""Number of the Segmentation of the first own model; 1 is that of the lesions, whether there are any or not."""


@dataclass(frozen=True)
class OwnSegment:
    """One segment: Segment Number, from 1, and the class that it holds."""

    number: int
    finding: ClassFinding
    tracking_id: str
    tracking_uid: str


@dataclass(frozen=True, eq=False)
class OwnSegmentation:
    """The plan of the Segmentation of one own model, which SEG and SR share. number: of the object of its kind."""

    number: int
    own: OwnModelFindings
    segments: tuple[OwnSegment, ...]

    @property
    def kind(self) -> str:
        """What its series is derived from."""
        return f"seg-{self.own.package.name}"

    @property
    def label_map(self) -> LabelVolume[np.uint8]:
        """Segment Number of every voxel [Z, Y, X]."""
        assert self.own.labels is not None
        table = np.zeros(len(self.own.classes) + 1, dtype=np.uint8)
        numbers = {segment.finding.which.key: segment.number for segment in self.segments}
        for k, finding in enumerate(self.own.classes, 1):
            table[k] = numbers.get(finding.which.key, 0)
        return self.own.labels.relabelled(table)


def own_segmentations(findings: Findings, uids: ResultUids) -> tuple[OwnSegmentation, ...]:
    """The plans for all own models that segmented a class; models that found none have no Segmentation."""
    plans = (
        OwnSegmentation(number, own, _segments(own, uids))
        for number, own in enumerate(findings.own_models, FIRST_NUMBER)
        if own.labels is not None
    )
    return tuple(plan for plan in plans if plan.segments)


def _segments(own: OwnModelFindings, uids: ResultUids) -> tuple[OwnSegment, ...]:
    return tuple(
        OwnSegment(number, finding, identifier, str(uids.tracking("own", identifier)))
        for number, finding in enumerate(own.found, 1)
        for identifier in [_identifier(own, finding)]
    )


def concept(code: Code) -> CodedConcept:
    """A code of the findings as highdicom has it."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def own_model_groups(
    own: OwnModelFindings,
    segments: Iterable[OwnSegment],
    reference: Dataset | None,
    images: list[SourceImageForMeasurementGroup],
    source_series: str,
    uids: ResultUids,
) -> list[MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations]:
    """One measurement group for each class (TID 1411 where it has a segment, else TID 1501).

    segments, reference: of its Segmentation, none where there is none. images: those that show most.
    """
    by_key = {segment.finding.which.key: segment for segment in segments}
    groups: list[
        MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations
    ] = []
    for finding in own.classes:
        segment = by_key.get(finding.which.key)
        shared: dict[str, Any] = {
            "finding_type": concept(finding.which.code),
            "algorithm_id": algorithm_content(own.package, (f"rule: {own.rule}",)),
            "finding_sites": [FindingSite(concept(own.site))],
            "qualitative_evaluations": [
                QualitativeEvaluation(coded.RESULT, coded.PRESENT if finding.found else coded.ABSENT),
                QualitativeEvaluation(coded.VERIFICATION, coded.NOT_VERIFIED),
            ],
            "measurements": _measurements(finding),
        }
        if segment is None or reference is None:
            identifier = _identifier(own, finding)
            tracking = TrackingIdentifier(uid=uids.tracking("own", identifier), identifier=identifier)
            groups.append(MeasurementsAndQualitativeEvaluations(tracking, source_images=images, **shared))
            continue
        groups.append(
            VolumetricROIMeasurementsAndQualitativeEvaluations(
                TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
                referenced_segment=ReferencedSegment(
                    sop_class_uid=reference.SOPClassUID,
                    sop_instance_uid=reference.SOPInstanceUID,
                    segment_number=segment.number,
                    source_series=SourceSeriesForSegmentation(source_series),
                ),
                **shared,
            )
        )
    return groups


def _identifier(own: OwnModelFindings, finding: ClassFinding) -> str:
    return f"{own.package.name}/{finding.which.key}"


def _measurements(finding: ClassFinding) -> list[Measurement]:
    measurements = []
    if finding.score is not None:
        measurements.append(Measurement(coded.PROBABILITY, round(finding.score, 4), coded.NO_UNITS))
    if finding.positive_slices is not None:
        measurements.append(Measurement(coded.OWN_POSITIVE_SLICES, finding.positive_slices, coded.NO_UNITS))
    if finding.volume_ml is not None:
        measurements.append(Measurement(coded.VOLUME, round(finding.volume_ml, 3), coded.MILLILITER))
    if finding.lung_percent is not None:
        measurements.append(Measurement(coded.LUNG_SHARE, round(finding.lung_percent, 2), coded.PERCENT))
    if finding.mean_hu is not None:
        measurements.append(
            Measurement(coded.ATTENUATION, round(finding.mean_hu, 1), coded.HOUNSFIELD, derivation=coded.MEAN)
        )
    return measurements
