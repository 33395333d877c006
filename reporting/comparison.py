"""The comparison with an earlier screening, as a group of the report (TID 1501) and the evidence that it rests on."""

from __future__ import annotations

from typing import Any

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    DateContentItem,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset

from engine.findings import Findings, PneumoniaClass
from reporting import codes as coded
from reporting.equipment import algorithm_content
from reporting.priors import PriorComparison, ReportReference
from reporting.uids import ResultUids
from reporting.wording import prior_lines

TRACKING_ID = "COMPARISON"


def comparison_group(
    prior: PriorComparison, findings: Findings, uids: ResultUids
) -> MeasurementsAndQualitativeEvaluations:
    """What was measured then and how it has changed, what both systems said then, and which study that was."""
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uids.tracking("group", TRACKING_ID), identifier=TRACKING_ID
        ),
        finding_type=coded.COMPARISON,
        algorithm_id=algorithm_content(findings.jcs.package),
        finding_sites=[FindingSite(coded.LUNG)],
        measurements=_measurements(prior, findings),
    )
    contains = RelationshipTypeValues.CONTAINS
    items: list[Any] = [
        CodeContentItem(coded.PRIOR_PATTERN_JCS, _jcs_pattern(prior), contains),
        CodeContentItem(coded.PRIOR_PATTERN_M3LUNG, coded.CLASSES[prior.m3lung_label], contains),
        DateContentItem(coded.STUDY_DATE, prior.study_date, contains),
        UIDRefContentItem(coded.STUDY_INSTANCE_UID, prior.study_instance_uid, contains),
    ]
    if prior.report is not None:
        report = prior.report
        items.append(
            CompositeContentItem(
                coded.PRIOR_REPORT, report.sop_class_uid, report.sop_instance_uid, relationship_type=contains
            )
        )
    items += [TextContentItem(coded.COMMENT, line, contains) for line in prior_lines(prior, findings)]
    group[0].ContentSequence.extend(items)
    return group


def report_reference(report: ReportReference) -> Dataset:
    """A report as highdicom wants it where it is named as evidence or as a predecessor."""
    reference = Dataset()
    reference.SOPClassUID = report.sop_class_uid
    reference.SOPInstanceUID = report.sop_instance_uid
    reference.SeriesInstanceUID = report.series_instance_uid
    reference.StudyInstanceUID = report.study_instance_uid
    return reference


def _jcs_pattern(prior: PriorComparison) -> CodedConcept:
    return coded.CLASSES[PneumoniaClass.COVID19] if prior.jcs_positive else coded.NOT_COVID19


def _measurements(prior: PriorComparison, findings: Findings) -> list[Measurement]:
    lesions, involvement = prior.lesion_volume_change_ml(findings), prior.involvement_change_points(findings)
    return [
        Measurement(coded.DAYS_SINCE_PRIOR, prior.days_between, coded.DAY),
        Measurement(coded.PRIOR_LESION_VOLUME, round(prior.lesion_volume_ml, 2), coded.MILLILITER),
        Measurement(coded.LESION_VOLUME_CHANGE, round(lesions, 2), coded.MILLILITER),
        Measurement(coded.PRIOR_INVOLVEMENT, round(prior.lung_involvement_percent, 2), coded.PERCENT),
        Measurement(coded.INVOLVEMENT_CHANGE, round(involvement, 2), coded.PERCENT),
        Measurement(coded.PRIOR_LUNG_VOLUME, round(prior.lung_volume_ml, 2), coded.MILLILITER),
        Measurement(coded.PRIOR_LESION_COUNT, prior.lesion_count, coded.NO_UNITS),
    ]
