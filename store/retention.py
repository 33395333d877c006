"""Which studies' images may be deleted, and that they were: only of ended studies with nothing on its way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from store import ledger, uploads
from store.models import Delivery, Instance, Result, Revision, Screening, Study, Transition
from store.states import UNDERWAY, StudyState

WHO = "retention"
DONE_WITH = (StudyState.DELIVERED, StudyState.SKIPPED)
"""States in which nothing more is to be done with the images of a study."""


@dataclass(frozen=True)
class Expiry:
    """Whose images may go: those of studies in `states` since before `before`.

    promised: also of studies that a sender has asked commitment for. why: said in their accounts, beside the state.
    """

    before: datetime
    states: tuple[StudyState, ...] = DONE_WITH
    promised: bool = True
    why: str = ""


@dataclass(frozen=True)
class ExpiredStudy:
    """A study whose images may go. paths: of its instances, results: of its result objects, which stay so that they
    can be sent again and compared with; all relative to the storage folder.
    """

    study_id: int
    study_instance_uid: str
    paths: tuple[str, ...]
    results: tuple[str, ...] = ()


def expired_studies(session: Session, expiry: Expiry, limit: int = 100) -> list[int]:
    """Numbers of studies that still have images and may lose them, the oldest first."""
    return list(
        session.scalars(
            select(Study.id).where(*_expired(expiry)).order_by(Study.changed_at, Study.id).limit(limit)
        )
    )


def begin_purge(session: Session, study_id: int, expiry: Expiry, now: datetime) -> ExpiredStudy | None:
    """Record that the images of a study are deleted, and say which files those are.

    None where it is not expired any more. The files are deleted after the commit: killed in between, they are left
    over, never missed.
    """
    study = ledger.locked_study(session, study_id)
    if session.scalar(select(Study.id).where(Study.id == study_id, *_expired(expiry))) is None:
        return None
    study.purged_at = now
    said = f"images deleted, {study.state.value} since {study.changed_at:%Y-%m-%d}"
    ledger.remark(session, study, who=WHO, why=f"{said}: {expiry.why}" if expiry.why else said, now=now)
    paths = session.scalars(select(Instance.path).where(Instance.study_id == study_id))
    results = session.scalars(
        select(Result.path)
        .join(Screening, Screening.id == Result.screening_id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study_id)
    )
    return ExpiredStudy(study.id, study.study_instance_uid, tuple(paths), tuple(results))


def is_still_purged(session: Session, study_id: int, purged_at: datetime) -> bool:
    """Whether nothing of a study has come again since its images were deleted; locks it until the transaction ends."""
    return ledger.locked_study(session, study_id).purged_at == purged_at


def purged_among(session: Session, paths: list[str]) -> set[str]:
    """Those of `paths` that belong to a study whose images are deleted: files that a purge left over."""
    return set(
        session.scalars(
            select(Instance.path)
            .join(Study, Study.id == Instance.study_id)
            .where(Instance.path.in_(paths), Study.purged_at.is_not(None))
        )
    )


def purges_since(session: Session, since: datetime) -> int:
    """How many studies have lost their images since then."""
    query = select(func.count(Transition.study_id.distinct())).where(
        Transition.at >= since, Transition.who == WHO
    )
    return session.scalar(query) or 0


def _expired(expiry: Expiry) -> tuple[ColumnElement[bool], ...]:
    """What holds of a study whose images may go: images that came after its end are as good as new, too."""
    underway = select(Delivery.id).where(Delivery.study_id == Study.id, Delivery.state.in_(UNDERWAY))
    return (
        Study.state.in_(expiry.states),
        Study.purged_at.is_(None),
        Study.changed_at < expiry.before,
        Study.last_received_at < expiry.before,
        ~underway.exists(),
        ~uploads.is_held(),
        *(() if expiry.promised else (Study.commitment_asked_at.is_(None),)),
    )
