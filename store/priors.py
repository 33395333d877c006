"""Earlier screenings of the patient of a study, in the node's own store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import Instance, Result, Revision, Screening, Study


@dataclass(frozen=True)
class EarlierScreening:
    """One screened study of the same patient id. summary: what its screening found.

    image: path of one image, relative to the storage folder; it may have been deleted. report: path of its SR in the
    outbox, None where it has none.
    """

    study_instance_uid: str
    revision: int
    summary: dict[str, Any]
    image: str
    report: str | None


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
        .where(Instance.study_id == study_id, Instance.kept_out.is_(None))
        .order_by(Instance.id)
        .limit(1)
    ).one()


def _report(session: Session, screening_id: int) -> str | None:
    return session.scalar(
        select(Result.path).where(Result.screening_id == screening_id, Result.kind == "sr").limit(1)
    )
