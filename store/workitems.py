"""Workitems that the node has claimed from a worklist (PS3.4 CC), until they are completed or canceled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import Result, Revision, Screening, Study, Workitem
from store.states import StudyState, WorkitemState
from store.upsert import insert_if_absent


@dataclass(frozen=True)
class OpenWorkitem:
    """A workitem under way. told: what the worklist was told last. study_state: None while nothing of it is here."""

    workitem_uid: str
    transaction_uid: str
    study_instance_uid: str
    state: WorkitemState
    told: str
    since: datetime
    study_state: StudyState | None
    study_reason: str


@dataclass(frozen=True)
class Output:
    """A result of a study."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def is_known(session: Session, workitem_uid: str) -> bool:
    """Whether the node has to do with this workitem, or had."""
    return (
        session.scalar(select(Workitem.id).where(Workitem.workitem_uid == workitem_uid).limit(1)) is not None
    )


def begin(
    session: Session, *, workitem_uid: str, transaction_uid: str, study_instance_uid: str, now: datetime
) -> bool:
    """Before it is claimed: its transaction must outlive this process. False where another process was faster."""
    row = {
        "workitem_uid": workitem_uid,
        "transaction_uid": transaction_uid,
        "study_instance_uid": study_instance_uid,
        "state": WorkitemState.CLAIMING,
        "told": "",
        "since": now,
    }
    return insert_if_absent(session, Workitem, row)


def record(session: Session, workitem_uid: str, state: WorkitemState, told: str, now: datetime) -> None:
    """What became of it, or what the worklist was told."""
    row = session.scalars(select(Workitem).where(Workitem.workitem_uid == workitem_uid)).one()
    if row.state is not state:
        row.since = now
    row.state, row.told = state, told


def under_way(session: Session) -> list[OpenWorkitem]:
    """The workitems that have not ended, with where their studies stand."""
    rows = session.execute(
        select(Workitem, Study.state, Study.reason)
        .outerjoin(Study, Study.study_instance_uid == Workitem.study_instance_uid)
        .where(Workitem.state != WorkitemState.ENDED)
        .order_by(Workitem.id)
    )
    return [
        OpenWorkitem(
            w.workitem_uid,
            w.transaction_uid,
            w.study_instance_uid,
            w.state,
            w.told,
            w.since,
            state,
            reason or "",
        )
        for w, state, reason in rows
    ]


def outputs(session: Session, study_instance_uid: str) -> list[Output]:
    """The results of the newest screening of a study."""
    newest = (
        select(Screening.id)
        .join(Revision, Revision.id == Screening.revision_id)
        .join(Study, Study.id == Revision.study_id)
        .where(Study.study_instance_uid == study_instance_uid)
        .order_by(Screening.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Result.series_instance_uid, Result.sop_class_uid, Result.sop_instance_uid)
        .where(Result.screening_id == newest)
        .order_by(Result.id)
    )
    return [Output(*row) for row in rows]
