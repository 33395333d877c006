"""Which studies' images may be deleted, and that they were. Only what every destination has taken is ever named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import ledger
from store.models import Instance, Result, Revision, Screening, Study
from store.states import StudyState

WHO = "retention"


@dataclass(frozen=True)
class ExpiredStudy:
    """A study whose images may go. paths: of its instances, results: of its result objects, which stay so that they
    can be sent again and compared with; all relative to the storage folder.
    """

    study_id: int
    study_instance_uid: str
    paths: tuple[str, ...]
    results: tuple[str, ...] = ()


def expired_studies(session: Session, delivered_before: datetime, *, limit: int = 100) -> list[int]:
    """Numbers of studies that were delivered before that time and still have their images, the oldest first."""
    return list(
        session.scalars(
            select(Study.id)
            .where(
                Study.state == StudyState.DELIVERED,
                Study.purged_at.is_(None),
                Study.changed_at < delivered_before,
            )
            .order_by(Study.changed_at, Study.id)
            .limit(limit)
        )
    )


def begin_purge(
    session: Session, study_id: int, delivered_before: datetime, now: datetime
) -> ExpiredStudy | None:
    """Record that the images of a study are deleted, and say which files those are.

    None where it is not expired any more.

    The files are deleted after the commit: killed in between, they are left over, never missed.
    """
    study = ledger.locked_study(session, study_id)
    if (
        study.state is not StudyState.DELIVERED
        or study.purged_at is not None
        or study.changed_at >= delivered_before
    ):
        return None
    study.purged_at = now
    ledger.remark(session, study, who=WHO, why="images deleted after delivery", now=now)
    paths = session.scalars(select(Instance.path).where(Instance.study_id == study_id))
    results = session.scalars(
        select(Result.path)
        .join(Screening, Screening.id == Result.screening_id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study_id)
    )
    return ExpiredStudy(study.id, study.study_instance_uid, tuple(paths), tuple(results))


def purged_among(session: Session, paths: list[str]) -> set[str]:
    """Those of `paths` that belong to a study whose images are deleted: files that a purge left over."""
    return set(
        session.scalars(
            select(Instance.path)
            .join(Study, Study.id == Instance.study_id)
            .where(Instance.path.in_(paths), Study.purged_at.is_not(None))
        )
    )
