"""An earlier screening of the same patient, to set a new one against.

Who finds it, and who refuses one that is of another person or another stretch of lung, is the node; here is what the
report and the summary need to know of it. Nothing is said of a course of disease: two measurements stand side by
side, with the days between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from engine.findings import Findings, PackageReference, PneumoniaClass

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True)
class ReportReference:
    """An SR in the PACS: of an earlier revision of the same study, or of an earlier study."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str = COMPREHENSIVE_3D_SR


@dataclass(frozen=True)
class PriorComparison:
    """What the earlier screening measured and said.

    study_date: of the earlier study; days_between: from then to this study, 0 or more.
    report: the SR of the earlier study, None where none was made or sent.
    packages: the model packages that spoke then, as far as they are known.
    """

    study_instance_uid: str
    study_date: date
    days_between: int
    lesion_volume_ml: float
    lung_volume_ml: float
    lung_involvement_percent: float
    lesion_count: int
    jcs_positive: bool
    m3lung_label: PneumoniaClass
    packages: tuple[PackageReference, ...] = ()
    report: ReportReference | None = None

    def __post_init__(self) -> None:
        if self.days_between < 0:
            raise ValueError(f"a prior study cannot be {-self.days_between} days later than this one")

    def lesion_volume_change_ml(self, now: Findings) -> float:
        """Lesion volume now less lesion volume then, ml."""
        return now.lesion_volume_ml - self.lesion_volume_ml

    def involvement_change_points(self, now: Findings) -> float:
        """Lung involvement now less lung involvement then, percentage points."""
        return now.lung_involvement_percent - self.lung_involvement_percent

    def same_packages(self, now: Findings) -> bool:
        """Whether the same model packages spoke then; else part of a change may be theirs."""
        then = {package.sha256 for package in self.packages}
        return {now.jcs.package.sha256, now.m3lung.package.sha256} <= then


def prior_comparison(
    summary: Mapping[str, Any],
    study_instance_uid: str,
    study_date: date,
    days_between: int,
    report: ReportReference | None = None,
) -> PriorComparison:
    """The comparison with an earlier study, of the summary that its screening left (`engine.summary`).

    Raises KeyError where the summary lacks a measure or a verdict, ValueError for a study that is later.
    """
    return PriorComparison(
        study_instance_uid=study_instance_uid,
        study_date=study_date,
        days_between=days_between,
        lesion_volume_ml=float(summary["lesion_volume_ml"]),
        lung_volume_ml=float(summary["lung_volume_ml"]),
        lung_involvement_percent=float(summary["lung_involvement_percent"]),
        lesion_count=int(summary["lesion_count"]),
        jcs_positive=bool(summary["jcs"]["positive"]),
        m3lung_label=PneumoniaClass[str(summary["m3lung"]["label"]).upper()],
        packages=tuple(PackageReference(**package) for package in summary.get("packages", ())),
        report=report,
    )
