"""What people may want to be told of: screenings and failures since those that they know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.models import Revision, Screening, Study, Transition
from store.priorities import Priority
from store.states import StudyState


@dataclass(frozen=True)
class Known:
    """The newest screening and transition that somebody has been told of."""

    screening: int = 0
    transition: int = 0


@dataclass(frozen=True)
class ScreenedNotice:
    """A study was screened."""

    study_instance_uid: str
    at: datetime
    summary: dict[str, Any]


@dataclass(frozen=True)
class FailedNotice:
    """A study came to failed."""

    study_instance_uid: str
    at: datetime
    why: str


def newest(session: Session) -> Known:
    """All that there is."""
    return Known(
        session.scalar(select(func.max(Screening.id))) or 0,
        session.scalar(select(func.max(Transition.id))) or 0,
    )


def since(session: Session, known: Known) -> tuple[Known, list[ScreenedNotice], list[FailedNotice]]:
    """What came after `known`, oldest first, and what is known with it.

    Of what is screened for idle times, priors and the revisions that compare with them, nobody is told.
    """
    screened = session.execute(
        select(Screening.id, Study.study_instance_uid, Screening.finished_at, Screening.summary)
        .join(Revision, Revision.id == Screening.revision_id)
        .join(Study, Study.id == Revision.study_id)
        .where(Screening.id > known.screening, Study.priority < Priority.IDLE)
        .order_by(Screening.id)
    ).all()
    failed = session.execute(
        select(Transition.id, Study.study_instance_uid, Transition.at, Transition.why)
        .join(Study, Study.id == Transition.study_id)
        .where(
            Transition.id > known.transition,
            Transition.after == StudyState.FAILED,
            Transition.before != StudyState.FAILED,
        )
        .order_by(Transition.id)
    ).all()
    now_known = Known(
        screened[-1][0] if screened else known.screening,
        failed[-1][0] if failed else known.transition,
    )
    return (
        now_known,
        [ScreenedNotice(uid, at, summary) for _, uid, at, summary in screened],
        [FailedNotice(uid, at, why) for _, uid, at, why in failed],
    )
