"""Changing a study's state: the one place that writes `Study.state`, and always a transition row with it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import Study, Transition
from store.states import LEGAL, IllegalTransition, StudyState
from store.wakeups import Topic, announce

_WAITED_FOR = {
    StudyState.RECEIVING: Topic.RECEIVING,
    StudyState.COMPLETE: Topic.COMPLETE,
    StudyState.DELIVERING: Topic.OUTBOX,
}
"""What a study that comes to a state is news of."""


class UnknownStudy(Exception):
    """The store has no such study."""

    def __init__(self, study_instance_uid: str) -> None:
        super().__init__(f"no study {study_instance_uid} in the store: see `lungnode studies list`")


def change_state(
    session: Session, study: Study, after: StudyState, *, who: str, why: str, now: datetime
) -> None:
    """Move `study` to `after` and record who, when and why.

    Any running claim becomes void: its fence is passed. Raises IllegalTransition.
    """
    if after not in LEGAL[study.state]:
        raise IllegalTransition(study.study_instance_uid, study.state, after)
    _record(session, study, study.state, after, who=who, why=why, now=now)
    study.state = after
    study.reason = why
    study.changed_at = now
    study.fence += 1
    study.claimed_by = None
    study.lease_expires_at = None
    if after in _WAITED_FOR:
        announce(session, _WAITED_FOR[after])


def remark(session: Session, study: Study, *, who: str, why: str, now: datetime) -> None:
    """Record something that happened to a study without changing its state."""
    _record(session, study, study.state, study.state, who=who, why=why, now=now)


def begin(session: Session, study: Study, *, who: str, why: str, now: datetime) -> None:
    """Record the first transition of a study that was just inserted as receiving."""
    _record(session, study, None, StudyState.RECEIVING, who=who, why=why, now=now)
    announce(session, Topic.RECEIVING)


def locked_study(session: Session, study_id: int) -> Study:
    """The study, locked until the transaction ends. Raises UnknownStudy."""
    study = session.scalar(
        select(Study).where(Study.id == study_id).with_for_update().execution_options(populate_existing=True)
    )
    if study is None:
        raise UnknownStudy(f"number {study_id}")
    return study


def locked_study_by_uid(session: Session, study_instance_uid: str) -> Study:
    """The study, locked until the transaction ends. Raises UnknownStudy."""
    study = session.scalar(
        select(Study)
        .where(Study.study_instance_uid == study_instance_uid)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if study is None:
        raise UnknownStudy(study_instance_uid)
    return study


def _record(
    session: Session,
    study: Study,
    before: StudyState | None,
    after: StudyState,
    *,
    who: str,
    why: str,
    now: datetime,
) -> None:
    session.add(
        Transition(
            study_id=study.id, at=now, who=who, before=before, after=after, revision=study.revision, why=why
        )
    )
