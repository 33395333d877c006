"""The change since an earlier screening of the same patient, for the report and the summary.

The comparison is refused where it might be of two people, or of two different stretches of lung.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from reporting import PriorComparison, ReportReference, prior_comparison
from scp.pacs_query.prior_choice import day_of
from scp.patients import Person, different_person, person_in
from store import priors
from store.claims import Claim
from store.database import Database
from store.priors import EarlierScreening
from store.shared_storage import Storage

LUNG_RATIO = 0.7
"""Lung volumes that differ by more than this ratio are of different stretches of lung, or of one lung."""


@dataclass(frozen=True)
class Occasion:
    """A screened study: who, when, and its findings' summary. time: as in its headers (TM), empty for unknown.

    report: its SR, where it was made for a destination.
    """

    study_instance_uid: str
    person: Person
    day: date | None
    summary: Mapping[str, Any]
    time: str = ""
    report: ReportReference | None = None


@dataclass(frozen=True)
class Refusal:
    """An earlier screening that is not compared with."""

    study_instance_uid: str
    why: str


@dataclass(frozen=True)
class Priors:
    """The earlier screenings of a study's patient. comparison: with the newest that can be compared."""

    comparison: PriorComparison | None = None
    refused: tuple[Refusal, ...] = ()

    def as_summary(self, summary: Mapping[str, Any]) -> dict[str, Any] | None:
        """For the key `prior` of the `summary` of the study; None where there is nothing to say."""
        if self.comparison is None and not self.refused:
            return None
        refused = [{"study_instance_uid": r.study_instance_uid, "why": r.why} for r in self.refused]
        if self.comparison is None:
            return {"refused": refused}
        before = self.comparison
        return {
            "study_instance_uid": before.study_instance_uid,
            "study_date": before.study_date.isoformat(),
            "days_between": before.days_between,
            "lesion_volume_ml": before.lesion_volume_ml,
            "lesion_volume_change_ml": float(summary["lesion_volume_ml"]) - before.lesion_volume_ml,
            "lung_involvement_percent": before.lung_involvement_percent,
            "lung_involvement_change_points": float(summary["lung_involvement_percent"])
            - before.lung_involvement_percent,
            "refused": refused,
        }

    @property
    def account(self) -> str:
        """One line for the account of the study; empty where there is nothing to say."""
        compared = [] if self.comparison is None else [f"compared with {self.comparison.study_instance_uid}"]
        refused = [f"not compared with {r.study_instance_uid}: {r.why}" for r in self.refused]
        return "; ".join(compared + refused)


NO_PRIORS = Priors()


class NotComparable(Exception):
    """Two studies must not be compared; one line with the reason."""


def compare(now: Occasion, before: Occasion) -> PriorComparison:
    """The earlier screening, to be set against the present one. Raises NotComparable."""
    if (why := different_person(now.person, before.person)) is not None:
        raise NotComparable(why)
    if now.day is None or before.day is None:
        raise NotComparable("a study date is missing")
    days = (now.day - before.day).days
    if days < 0 or (days == 0 and now.time and before.time > now.time):
        raise NotComparable("the other study is the later one")
    try:
        found = prior_comparison(before.summary, before.study_instance_uid, before.day, days, before.report)
        lungs = sorted((float(now.summary["lung_volume_ml"]), found.lung_volume_ml))
    except (KeyError, TypeError, ValueError):
        raise NotComparable("a screening without volumes or verdicts") from None
    if lungs[0] < LUNG_RATIO * lungs[1]:
        raise NotComparable(f"the lungs covered differ: {lungs[0]:.0f} ml and {lungs[1]:.0f} ml")
    return found


def newest_comparable(now: Occasion, earlier: Iterable[Occasion]) -> Priors:
    """The newest earlier study that can be compared, and why newer ones were not."""
    refused: list[Refusal] = []
    newest_first = sorted(earlier, key=lambda o: (o.day or date.min, o.time), reverse=True)
    for before in newest_first:
        try:
            return Priors(compare(now, before), tuple(refused))
        except NotComparable as error:
            refused.append(Refusal(before.study_instance_uid, str(error)))
    return Priors(None, tuple(refused))


def priors_of(database: Database, storage: Storage, claim: Claim, summary: Mapping[str, Any]) -> Priors:
    """The priors of a claimed study in this node's store. summary: what its screening found.

    Who a patient is, is read from an image or, when that was deleted, from the report in the outbox.
    """
    with database.read() as session:
        found = priors.earlier_screenings(session, claim.study_id, claim.patient_digest)
    if not found:
        return NO_PRIORS
    now = _occasion(claim.study_instance_uid, [storage / path for path in claim.paths[:1]], summary, None)
    return newest_comparable(
        now,
        [
            _occasion(
                f.study_instance_uid,
                [storage / path for path in (f.image, f.report_path) if path is not None],
                f.summary,
                _reference(f),
            )
            for f in found
        ],
    )


def _occasion(
    study: str, files: Iterable[Path], summary: Mapping[str, Any], report: ReportReference | None
) -> Occasion:
    header = next((h for h in map(_header, files) if h is not None), Dataset())
    day = day_of(str(header.get("StudyDate") or ""))
    return Occasion(study, person_in(header), day, summary, str(header.get("StudyTime") or ""), report)


def _reference(found: EarlierScreening) -> ReportReference | None:
    sent = found.report
    if sent is None or not sent.for_destination:
        return None
    return ReportReference(
        found.study_instance_uid, sent.series_instance_uid, sent.sop_instance_uid, sent.sop_class_uid
    )


def _header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except MALFORMED:
        return None
