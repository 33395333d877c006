"""Searches for the prior of a study: an earlier chest CT of its patient that the node fetches and screens.

A search begins when its study is complete and goes seeking -> fetching -> (revising ->) ended. Each step is in the
account of the study, with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from store import deleted_images, ledger
from store.models import Instance, PriorSearch, Revision, Screening, Study
from store.priorities import Priority
from store.states import PriorState, StudyState
from store.upsert import insert_if_absent

WHO = "priors"
SCREENED = (StudyState.DELIVERING, StudyState.DELIVERED)
AHEAD = (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.SCREENING)
"""States in which the screening of a study lies ahead."""


@dataclass(frozen=True)
class Seeking:
    """A search that is due. image: path of an image of the study, relative to the storage folder."""

    search_id: int
    study_id: int
    study_instance_uid: str
    image: str
    attempts: int


@dataclass(frozen=True)
class Awaited:
    """A search whose prior was chosen: where both studies stand.

    prior_state: None while nothing of the prior is here. prior_why: the reason of its state. prior_in_summary: what the
    newest screening of the study says of priors. can_be_revised: its images are all here.
    """

    search_id: int
    state: PriorState
    study_state: StudyState
    prior_study_instance_uid: str
    prior_state: StudyState | None
    prior_why: str
    changed_at: datetime
    attempts: int
    prior_in_summary: dict[str, Any]
    can_be_revised: bool


def begin_new(session: Session, since: datetime, now: datetime) -> int:
    """Begin a search for each study that has become complete and was first seen after `since`; returns how many.

    Studies that were fetched as priors themselves have none.
    """
    searched = exists().where(PriorSearch.study_id == Study.id)
    fetched = exists().where(
        PriorSearch.prior_study_instance_uid == Study.study_instance_uid, PriorSearch.fetched
    )
    found = session.scalars(
        select(Study.id).where(
            Study.state.in_((StudyState.COMPLETE, StudyState.SCREENING, *SCREENED)),
            Study.created_at >= since,
            ~searched,
            ~fetched,
        )
    ).all()
    for study_id in found:
        row = {
            "study_id": study_id,
            "state": PriorState.SEEKING,
            "fetched": False,
            "attempts": 0,
            "next_attempt_at": now,
            "changed_at": now,
            "why": "",
        }
        insert_if_absent(session, PriorSearch, row)
    return len(found)


def claim_due(session: Session, *, lease: timedelta, now: datetime) -> Seeking | None:
    """The search that is due first, for the time of `lease`; None where none is."""
    search = session.scalar(
        select(PriorSearch)
        .where(PriorSearch.state == PriorState.SEEKING, PriorSearch.next_attempt_at <= now)
        .order_by(PriorSearch.next_attempt_at, PriorSearch.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if search is None:
        return None
    search.next_attempt_at = now + lease
    study = session.get_one(Study, search.study_id)
    image = session.scalars(
        select(Instance.path)
        .where(Instance.study_id == study.id, deleted_images.is_image())
        .order_by(Instance.id)
        .limit(1)
    ).one()
    return Seeking(search.id, study.id, study.study_instance_uid, image, search.attempts)


def standing(session: Session, study_instance_uid: str) -> tuple[StudyState, str] | None:
    """State and reason of a study; None where nothing of it is here."""
    row = session.execute(
        select(Study.state, Study.reason).where(Study.study_instance_uid == study_instance_uid)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def choose(
    session: Session, search_id: int, prior_study_instance_uid: str, *, fetched: bool, why: str, now: datetime
) -> None:
    """The prior is known; fetched: whether this node fetches it, so that it is treated as a prior only."""
    search = session.get_one(PriorSearch, search_id)
    search.prior_study_instance_uid = prior_study_instance_uid
    search.fetched = fetched
    _go(session, search, PriorState.FETCHING, why, now)


def seek_later(session: Session, search_id: int, *, why: str, again_at: datetime, now: datetime) -> None:
    """The source could not be asked, or gave nothing."""
    search = session.get_one(PriorSearch, search_id)
    search.attempts += 1
    search.next_attempt_at = again_at
    _go(session, search, PriorState.SEEKING, why, now)


def end(session: Session, search_id: int, *, why: str, now: datetime) -> None:
    """The search is over, and why."""
    _go(session, session.get_one(PriorSearch, search_id), PriorState.ENDED, why, now)


def awaited(session: Session) -> list[Awaited]:
    """The searches whose prior was chosen and that have not ended."""
    prior = aliased(Study)
    rows = session.execute(
        select(PriorSearch, Study, prior)
        .join(Study, Study.id == PriorSearch.study_id)
        .outerjoin(prior, prior.study_instance_uid == PriorSearch.prior_study_instance_uid)
        .where(PriorSearch.state.in_((PriorState.FETCHING, PriorState.REVISING)))
        .order_by(PriorSearch.id)
    ).all()
    return [
        Awaited(
            search_id=search.id,
            state=search.state,
            study_state=study.state,
            prior_study_instance_uid=search.prior_study_instance_uid or "",
            prior_state=None if earlier is None else earlier.state,
            prior_why="" if earlier is None else earlier.reason,
            changed_at=search.changed_at,
            attempts=search.attempts,
            prior_in_summary=_newest_summary(session, study.id).get("prior") or {},
            can_be_revised=_has_its_images(session, study),
        )
        for search, study, earlier in rows
    ]


def revise(session: Session, search_id: int, *, now: datetime) -> None:
    """Screen the study of a search again, as a new revision of the same instances, since its prior is here now.

    It waits behind all that is current. Nothing is done where the study has gone on meanwhile (a late instance came,
    its images were deleted): the search is then followed as the study now stands.
    """
    search = session.get_one(PriorSearch, search_id)
    study = ledger.locked_study(session, search.study_id)
    if study.state not in SCREENED or not _has_its_images(session, study):
        return
    before = session.scalars(
        select(Revision).where(Revision.study_id == study.id, Revision.number == study.revision)
    ).one()
    prior = search.prior_study_instance_uid
    study.revision += 1
    digest = hashlib.sha256(f"{before.digest}\nprior {prior}\n".encode("ascii")).hexdigest()
    session.add(
        Revision(
            study_id=study.id,
            number=study.revision,
            digest=digest,
            instance_count=before.instance_count,
            created_at=now.replace(microsecond=0),
        )
    )
    why = f"the prior {prior} was screened meanwhile: new revision with the comparison"
    ledger.change_state(session, study, StudyState.COMPLETE, who=WHO, why=why, now=now)
    study.attempts = 0
    study.not_before = now
    study.priority = Priority.IDLE
    search.state, search.why, search.changed_at = PriorState.REVISING, why, now


def fetched_for(session: Session, study_instance_uid: str) -> str | None:
    """The study whose prior this one was fetched as; None for a study that came otherwise."""
    return session.scalar(
        select(Study.study_instance_uid)
        .join(PriorSearch, PriorSearch.study_id == Study.id)
        .where(PriorSearch.prior_study_instance_uid == study_instance_uid, PriorSearch.fetched)
        .limit(1)
    )


def is_busy(session: Session, besides: Sequence[str] = ()) -> bool:
    """Whether the screening of a current study lies ahead, other than of `besides` (Study Instance UIDs)."""
    query = select(Study.id).where(Study.state.in_(AHEAD), Study.priority < Priority.IDLE)
    if besides:
        query = query.where(Study.study_instance_uid.not_in(besides))
    return session.scalar(query.limit(1)) is not None


def _has_its_images(session: Session, study: Study) -> bool:
    return study.purged_at is None and not deleted_images.missing(session, study)


def _newest_summary(session: Session, study_id: int) -> dict[str, Any]:
    return (
        session.scalar(
            select(Screening.summary)
            .join(Revision, Revision.id == Screening.revision_id)
            .where(Revision.study_id == study_id)
            .order_by(Screening.id.desc())
            .limit(1)
        )
        or {}
    )


def _go(session: Session, search: PriorSearch, state: PriorState, why: str, now: datetime) -> None:
    study = ledger.locked_study(session, search.study_id)
    ledger.remark(session, study, who=WHO, why=why, now=now)
    search.state, search.why, search.changed_at = state, why, now
