"""What an administrator may do to a study; each is a transition in his name."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import deleted_images, deliveries, ledger
from store.finishing import finish_if_delivered
from store.models import Delivery, Instance, Study, Transition
from store.states import UNDERWAY, DeliveryState, StudyState


class NothingToDo(Exception):
    """The study is not in a state in which the request makes sense; the message says why."""


def retry(session: Session, study_instance_uid: str, *, who: str, now: datetime) -> StudyState:
    """Try a failed or skipped study again from where it failed; returns its new state.

    A study that ended while it was being delivered is delivered again, any other is screened again. Raises
    store.ledger.UnknownStudy, NothingToDo.
    """
    study = ledger.locked_study_by_uid(session, study_instance_uid)
    if study.state not in (StudyState.FAILED, StudyState.SKIPPED):
        raise NothingToDo(
            f"study {study_instance_uid} is {study.state}; only a failed or skipped one is retried"
        )
    was_delivered = _ended_from(session, study) is StudyState.DELIVERING
    if was_delivered and deliveries.reset(session, study.id, all_of_them=False, now=now):
        ledger.change_state(session, study, StudyState.DELIVERING, who=who, why="retry of delivery", now=now)
    else:
        _screen_again(session, study, who=who, why="retry", now=now)
    return study.state


def rescreen(session: Session, study_instance_uid: str, *, who: str, now: datetime) -> StudyState:
    """Screen a study again that has ended or is being delivered; returns its new state.

    Raises store.ledger.UnknownStudy, NothingToDo.
    """
    study = ledger.locked_study_by_uid(session, study_instance_uid)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.SCREENING):
        raise NothingToDo(f"study {study_instance_uid} is {study.state}: it will be screened anyway")
    _screen_again(session, study, who=who, why="screen again", now=now)
    return study.state


def resend(session: Session, study_instance_uid: str, *, who: str, now: datetime) -> StudyState:
    """Send all results of a study again to their destinations; returns its new state.

    Raises store.ledger.UnknownStudy, NothingToDo.
    """
    study = ledger.locked_study_by_uid(session, study_instance_uid)
    if study.state not in (StudyState.DELIVERED, StudyState.FAILED, StudyState.DELIVERING):
        raise NothingToDo(f"study {study_instance_uid} is {study.state}: it has no results to send")
    if not deliveries.reset(session, study.id, all_of_them=True, now=now):
        raise NothingToDo(f"study {study_instance_uid} has no results to send")
    if study.state is StudyState.DELIVERING:
        ledger.remark(session, study, who=who, why="send again", now=now)
    else:
        ledger.change_state(session, study, StudyState.DELIVERING, who=who, why="send again", now=now)
    return study.state


def skip(session: Session, study_instance_uid: str, *, who: str, why: str, now: datetime) -> StudyState:
    """Take a study out: it is not screened and what is not yet delivered will not be. Returns its new state.

    Raises store.ledger.UnknownStudy, NothingToDo.
    """
    study = ledger.locked_study_by_uid(session, study_instance_uid)
    if study.state in (StudyState.DELIVERED, StudyState.SKIPPED):
        raise NothingToDo(f"study {study_instance_uid} is {study.state}: there is nothing to skip")
    pending = session.scalars(
        select(Delivery).where(Delivery.study_id == study.id, Delivery.state.in_(UNDERWAY)).with_for_update()
    )
    for delivery in pending:
        delivery.state = DeliveryState.REFUSED
        delivery.last_error = f"skipped by {who}"
    ledger.change_state(session, study, StudyState.SKIPPED, who=who, why=why or "skipped by request", now=now)
    return study.state


def give_up_delivery(
    session: Session, study_instance_uid: str, destination: str, *, who: str, now: datetime
) -> int:
    """Stop trying to deliver a study to one destination; returns how many objects were pending.

    Raises store.ledger.UnknownStudy.
    """
    study = ledger.locked_study_by_uid(session, study_instance_uid)
    pending = session.scalars(
        select(Delivery)
        .where(
            Delivery.study_id == study.id,
            Delivery.destination == destination,
            Delivery.state.in_(UNDERWAY),
        )
        .with_for_update()
    ).all()
    for delivery in pending:
        delivery.state = DeliveryState.REFUSED
        delivery.last_error = f"given up by {who}"
    session.flush()
    finish_if_delivered(session, study, who=who, now=now)
    return len(pending)


def _ended_from(session: Session, study: Study) -> StudyState | None:
    """The state in which a failed or skipped study stood before it ended; a failed one may be skipped later."""
    ends = (StudyState.FAILED, StudyState.SKIPPED)
    return session.scalar(
        select(Transition.before)
        .where(Transition.study_id == study.id, Transition.after.in_(ends), Transition.before.not_in(ends))
        .order_by(Transition.id.desc())
        .limit(1)
    )


def _screen_again(session: Session, study: Study, *, who: str, why: str, now: datetime) -> None:
    uid = study.study_instance_uid
    if study.purged_at is not None:
        raise NothingToDo(f"study {uid}: its images were deleted; send it again")
    if _has_images_without_revision(session, study):  # it was taken out while it was being received
        ledger.change_state(session, study, StudyState.RECEIVING, who=who, why=why, now=now)
        study.receiving_since = now
        return
    if study.revision == 0:
        raise NothingToDo(f"study {uid} has no image that can be screened")
    if missing := deleted_images.missing(session, study):
        raise NothingToDo(f"study {uid}: {missing} of its images were deleted; send it again")
    ledger.change_state(session, study, StudyState.COMPLETE, who=who, why=why, now=now)
    study.attempts = 0
    study.not_before = now


def _has_images_without_revision(session: Session, study: Study) -> bool:
    query = select(Instance.id).where(
        Instance.study_id == study.id, Instance.first_revision.is_(None), Instance.kept_out.is_(None)
    )
    return session.scalar(query.limit(1)) is not None
