"""Earlier screenings of the patient of a study, in the node's own store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from store import deleted_images
from store.models import Delivery, Instance, Result, Revision, Screening, Study


@dataclass(frozen=True)
class EarlierReport:
    """The SR of an earlier screening. for_destination: whether it was or is to be sent anywhere.

    path: relative to the storage folder.
    """

    path: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    for_destination: bool


@dataclass(frozen=True)
class EarlierScreening:
    """One screened study of the same patient id. summary: what its screening found.

    image: path of one image, relative to the storage folder; it may have been deleted. report: None where it has none.
    """

    study_instance_uid: str
    revision: int
    summary: dict[str, Any]
    image: str
    report: EarlierReport | None

    @property
    def report_path(self) -> str | None:
        """Path of the report in the outbox."""
        return None if self.report is None else self.report.path


def earlier_screenings(session: Session, study_id: int, patient_digest: str) -> list[EarlierScreening]:
    """The newest screening of each other study with this patient digest, the newest screened first."""
    rows = session.execute(
        select(Study.id, Study.study_instance_uid, Revision.number, Screening.id, Screening.summary)
        .join(Revision, Revision.study_id == Study.id)
        .join(Screening, Screening.revision_id == Revision.id)
        .where(Study.patient_digest == patient_digest, Study.id != study_id)
        .order_by(Screening.id.desc())
    ).all()
    found: dict[int, EarlierScreening] = {}
    for number, uid, revision, screening, summary in rows:
        if number in found:
            continue
        found[number] = EarlierScreening(
            uid, revision, summary, _image(session, number), _report(session, screening)
        )
    return list(found.values())


def _image(session: Session, study_id: int) -> str:
    """Every screened study has an image."""
    return session.scalars(
        select(Instance.path)
        .where(Instance.study_id == study_id, deleted_images.is_image())
        .order_by(Instance.id)
        .limit(1)
    ).one()


def _report(session: Session, screening_id: int) -> EarlierReport | None:
    sent = exists().where(Delivery.result_id == Result.id)
    row = session.execute(
        select(Result.path, Result.series_instance_uid, Result.sop_instance_uid, Result.sop_class_uid, sent)
        .where(Result.screening_id == screening_id, Result.kind == "sr")
        .limit(1)
    ).one_or_none()
    return None if row is None else EarlierReport(*row)
