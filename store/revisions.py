"""Revisions: a study's instance set, frozen when the study is complete.

An unchanged set never makes a second revision; late instances make revision n+1, whose SR names its predecessors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from store import ledger
from store.finishing import finish_if_delivered
from store.models import (
    AssociationRecord,
    Carriage,
    Instance,
    Result,
    Revision,
    Screening,
    Study,
)
from store.priorities import Priority
from store.routing import Routing
from store.states import StudyState


@dataclass(frozen=True)
class ReceivingStudy:
    """What the completeness rule looks at. open_associations: those that have brought an instance of the study."""

    study_id: int
    study_instance_uid: str
    receiving_since: datetime
    last_received_at: datetime
    open_associations: int
    instance_count: int


def receiving_studies(session: Session) -> list[ReceivingStudy]:
    """Every study that is being received, the one that waits longest first."""
    rows = session.execute(_receiving().order_by(Study.last_received_at, Study.id))
    return [ReceivingStudy(*row) for row in rows]


def receiving_study(session: Session, study_id: int) -> ReceivingStudy | None:
    """One study that is being received, locked until the transaction ends; None where it is not."""
    row = session.execute(_receiving().where(Study.id == study_id).with_for_update(of=Study)).one_or_none()
    return None if row is None else ReceivingStudy(*row)


def complete_study(
    session: Session,
    study_id: int,
    *,
    who: str,
    why: str,
    now: datetime,
    routing: Routing | None = None,
) -> StudyState:
    """End the reception of a study; returns the state that it went to.

    complete: a new revision waits for screening. skipped: nothing in it can be screened, or `routing` keeps it out.
    Where the set is the one of the newest revision, that revision goes on from where it was. Returns the present
    state, unchanged, for a study that is no longer receiving.
    """
    study = ledger.locked_study(session, study_id)
    if study.state is not StudyState.RECEIVING:
        return study.state
    content = _screenable(session, study.id)
    if not content:
        _change(session, study, StudyState.SKIPPED, who, _nothing_to_screen(session, study), now)
        return study.state
    digest = instance_set_digest(content)
    known = session.scalar(select(Revision).where(Revision.study_id == study.id, Revision.digest == digest))
    if known is not None:
        _resume(session, study, known, who=who, now=now)
        return study.state
    _freeze(session, study, digest, len(content), now)
    study.routing = None if routing is None else routing.as_json()
    study.priority = Priority.NORMAL if routing is None else routing.priority
    if routing is not None and not routing.series:
        _change(session, study, StudyState.SKIPPED, who, f"{why}; {routing.why}", now)
        return study.state
    said = why if routing is None else f"{why}; {routing.why}"
    _change(session, study, StudyState.COMPLETE, who, said, now)
    return study.state


def instance_set_digest(content: list[tuple[str, str]]) -> str:
    """SHA-256 hex over the sorted lines `SOP Instance UID, space, SHA-256 of the file`."""
    lines = "".join(f"{uid} {sha256}\n" for uid, sha256 in sorted(content))
    return hashlib.sha256(lines.encode("ascii")).hexdigest()


def predecessor_documents(
    session: Session, study_id: int, before_revision: int
) -> list[tuple[str, str, str]]:
    """The SR documents of the newest earlier revision that has any.

    Returns (SOP Class UID, SOP Instance UID, Series Instance UID), for Predecessor Documents Sequence (PS3.3
    C.17.2). Empty for a first revision.
    """
    rows = session.execute(
        select(Revision.number, Result.sop_class_uid, Result.sop_instance_uid, Result.series_instance_uid)
        .join(Screening, Screening.id == Result.screening_id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study_id, Revision.number < before_revision, Result.kind == "sr")
        .order_by(Revision.number.desc(), Result.id)
    ).all()
    return [(row[1], row[2], row[3]) for row in rows if row[0] == rows[0][0]]


def _receiving() -> Select[int, str, datetime, datetime, int, int]:
    still_open = (
        select(func.count())
        .select_from(Carriage)
        .join(AssociationRecord, AssociationRecord.id == Carriage.association_id)
        .where(Carriage.study_id == Study.id, AssociationRecord.closed_at.is_(None))
        .scalar_subquery()
    )
    return select(
        Study.id,
        Study.study_instance_uid,
        Study.receiving_since,
        Study.last_received_at,
        still_open,
        Study.instance_count,
    ).where(Study.state == StudyState.RECEIVING)


def _screenable(session: Session, study_id: int) -> list[tuple[str, str]]:
    rows = session.execute(
        select(Instance.sop_instance_uid, Instance.sha256).where(
            Instance.study_id == study_id, Instance.kept_out.is_(None)
        )
    )
    return [(uid, sha256) for uid, sha256 in rows]


def _nothing_to_screen(session: Session, study: Study) -> str:
    reasons = session.scalars(
        select(Instance.kept_out).where(Instance.study_id == study.id).distinct().order_by(Instance.kept_out)
    )
    return "nothing to screen: " + "; ".join(r for r in reasons if r)


def _freeze(session: Session, study: Study, digest: str, count: int, now: datetime) -> None:
    study.revision += 1
    study.attempts = 0
    study.not_before = now
    session.add(
        Revision(
            study_id=study.id,
            number=study.revision,
            digest=digest,
            instance_count=count,
            # DICOM times in results derive from this one; whole seconds are what DT and TM show
            created_at=now.replace(microsecond=0),
        )
    )
    session.execute(
        update(Instance)
        .where(Instance.study_id == study.id, Instance.first_revision.is_(None), Instance.kept_out.is_(None))
        .values(first_revision=study.revision)
    )


def _resume(session: Session, study: Study, revision: Revision, *, who: str, now: datetime) -> None:
    """The set is known: go to where its screening stands."""
    screened = session.scalar(select(Screening.id).where(Screening.revision_id == revision.id).limit(1))
    why = f"the instances are those of revision {revision.number}"
    if screened is None:
        _change(session, study, StudyState.COMPLETE, who, why, now)
        return
    _change(session, study, StudyState.DELIVERING, who, why, now)
    session.flush()
    finish_if_delivered(session, study, who=who, now=now)


def _change(session: Session, study: Study, after: StudyState, who: str, why: str, now: datetime) -> None:
    ledger.change_state(session, study, after, who=who, why=why, now=now)
