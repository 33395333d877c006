"""What an overview shows: how fast studies come in, how long they wait, what each destination has; pages of studies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from store.ledger import UnknownStudy
from store.models import Delivery, Instance, Result, Revision, Screening, Study
from store.states import DeliveryState, StudyState
from store.verdicts import VerdictChoice, texts_of


@dataclass(frozen=True)
class Intake:
    """What has been received since a moment: instances, bytes, and the studies that they belong to."""

    instances: int
    bytes: int
    studies: int


@dataclass(frozen=True)
class DestinationStanding:
    """How deliveries to one destination stand.

    waiting_since: when the oldest study that waits for it was received. retrying: pending objects that have failed
    at least once. last_error: of the newest failed attempt that still waits, empty where none does.
    """

    name: str
    pending: int = 0
    retrying: int = 0
    stored: int = 0
    delivered: int = 0
    refused: int = 0
    not_accepted: int = 0
    attempts: int = 0
    last_delivered_at: datetime | None = None
    waiting_since: datetime | None = None
    next_attempt_at: datetime | None = None
    last_error: str = ""


@dataclass(frozen=True)
class StudyFilter:
    """Which studies a list shows; empty fields do not choose.

    verdict: by what the newest screening found. uid: how the Study Instance UID begins. patient_digest: studies of
    one patient. since, until: by last change.
    """

    states: tuple[StudyState, ...] = ()
    verdict: VerdictChoice | None = None
    uid: str = ""
    patient_digest: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class StudyRow:
    """One study of a page. summary: of its newest screening, None where it has none. path: of one of its images."""

    study_id: int
    study_instance_uid: str
    patient_digest: str
    state: StudyState
    reason: str
    revision: int
    instance_count: int
    byte_count: int
    created_at: datetime
    changed_at: datetime
    summary: dict[str, Any] | None = field(default=None, repr=False)
    path: str | None = None


def intake_since(session: Session, since: datetime) -> Intake:
    """Instances received at or after `since`, of studies that received any since then."""
    row = session.execute(
        select(
            func.count(), func.coalesce(func.sum(Instance.size), 0), func.count(Instance.study_id.distinct())
        )
        .join(Study, Study.id == Instance.study_id)
        .where(Study.last_received_at >= since, Instance.received_at >= since)
    ).one()
    return Intake(int(row[0]), int(row[1]), int(row[2]))


def oldest_change(session: Session, state: StudyState) -> datetime | None:
    """Since when the study that has been longest in `state` is in it; None where none is."""
    return session.scalar(select(func.min(Study.changed_at)).where(Study.state == state))


def ended_since(session: Session, state: StudyState, since: datetime) -> int:
    """How many studies that are in `state` came to it at or after `since`."""
    query = select(func.count()).where(Study.state == state, Study.changed_at >= since)
    return session.scalar(query) or 0


def destination_standings(session: Session, names: Sequence[str] = ()) -> list[DestinationStanding]:
    """Every destination with deliveries, and those of `names` without any, by name."""
    counts: dict[str, dict[str, Any]] = {name: {} for name in names}
    rows = session.execute(
        select(Delivery.destination, Delivery.state, func.count(), func.sum(Delivery.attempts)).group_by(
            Delivery.destination, Delivery.state
        )
    )
    for name, state, count, attempts in rows:
        one = counts.setdefault(name, {})
        one[state.value] = count
        one["attempts"] = one.get("attempts", 0) + int(attempts or 0)
    return [
        DestinationStanding(name, **one, **_waiting(session, name), last_delivered_at=_newest(session, name))
        for name, one in sorted(counts.items())
    ]


def troubled_destinations(session: Session) -> list[DestinationStanding]:
    """Destinations that have refused an attempt which waits to be made again: what waits there, and nothing else.

    Its cost does not grow with what is delivered, so that it may be asked every second.
    """
    troubled = select(Delivery.destination, func.count()).where(
        Delivery.state == DeliveryState.PENDING, Delivery.attempts > 0
    )
    names = [row[0] for row in session.execute(troubled.group_by(Delivery.destination))]
    return [
        DestinationStanding(name, pending=_pending(session, name), **_waiting(session, name))
        for name in sorted(names)
    ]


def _pending(session: Session, destination: str) -> int:
    query = select(func.count()).where(
        Delivery.destination == destination, Delivery.state == DeliveryState.PENDING
    )
    return session.scalar(query) or 0


def _newest(session: Session, destination: str) -> datetime | None:
    """When the destination last took something for good."""
    return session.scalar(select(func.max(Delivery.delivered_at)).where(Delivery.destination == destination))


def _waiting(session: Session, destination: str) -> dict[str, Any]:
    pending = (Delivery.destination == destination, Delivery.state == DeliveryState.PENDING)
    retrying = session.scalar(select(func.count()).where(*pending, Delivery.attempts > 0)) or 0
    since, next_at = session.execute(
        select(func.min(Result.created_at), func.min(Delivery.next_attempt_at))
        .join(Result, Result.id == Delivery.result_id)
        .where(*pending)
    ).one()
    error = session.scalar(
        select(Delivery.last_error)
        .where(*pending, Delivery.attempts > 0)
        .order_by(Delivery.next_attempt_at.desc())
        .limit(1)
    )
    return {
        "retrying": retrying,
        "waiting_since": since,
        "next_attempt_at": next_at,
        "last_error": error or "",
    }


def study_page(session: Session, which: StudyFilter, *, limit: int, offset: int = 0) -> list[StudyRow]:
    """Studies of a page, newest change first, each with the summary of its newest screening."""
    query = _filtered(select(Study), which).order_by(Study.changed_at.desc(), Study.id.desc())
    studies: list[Study] = list(session.scalars(query.limit(limit).offset(offset)))
    ids = [study.id for study in studies]
    summaries, paths = _newest_summaries(session, ids), _image_paths(session, ids)
    return [_row(study, summaries.get(study.id), paths.get(study.id)) for study in studies]


def study_row(session: Session, study_instance_uid: str) -> StudyRow:
    """One study as a list shows it. Raises UnknownStudy."""
    study = session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))
    if study is None:
        raise UnknownStudy(study_instance_uid)
    return _row(
        study,
        _newest_summaries(session, [study.id]).get(study.id),
        _image_paths(session, [study.id]).get(study.id),
    )


def newest_result_folder(session: Session, study_id: int) -> str | None:
    """The folder of the results of the newest screening, relative to the storage folder; None without results."""
    path = session.scalar(
        select(Result.path)
        .join(Screening, Screening.id == Result.screening_id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study_id)
        .order_by(Screening.id.desc())
        .limit(1)
    )
    return None if path is None else path.rpartition("/")[0]


def _filtered(query: Select[Any], which: StudyFilter) -> Select[Any]:
    if which.states:
        query = query.where(Study.state.in_(which.states))
    if which.verdict is not None:
        query = query.where(Study.verdict.in_(texts_of(which.verdict)))
    chosen = []
    if which.uid:
        chosen.append(Study.study_instance_uid.startswith(which.uid, autoescape=True))
    if which.patient_digest:
        chosen.append(Study.patient_digest == which.patient_digest)
    if chosen:
        query = query.where(or_(*chosen))
    if which.since is not None:
        query = query.where(Study.changed_at >= which.since)
    if which.until is not None:
        query = query.where(Study.changed_at < which.until)
    return query


def _newest_summaries(session: Session, study_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    newest = (
        select(Revision.study_id, func.max(Screening.id).label("id"))
        .join(Screening, Screening.revision_id == Revision.id)
        .where(Revision.study_id.in_(study_ids))
        .group_by(Revision.study_id)
        .subquery()
    )
    rows = session.execute(
        select(newest.c.study_id, Screening.summary).join(newest, newest.c.id == Screening.id)
    )
    return {row[0]: row[1] for row in rows}


def _image_paths(session: Session, study_ids: Collection[int]) -> dict[int, str]:
    first = (
        select(func.min(Instance.id))
        .where(Instance.study_id.in_(study_ids), Instance.kept_out.is_(None))
        .group_by(Instance.study_id)
    )
    rows = session.execute(select(Instance.study_id, Instance.path).where(Instance.id.in_(first)))
    return {row[0]: row[1] for row in rows}


def _row(study: Study, summary: dict[str, Any] | None, path: str | None) -> StudyRow:
    return StudyRow(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        patient_digest=study.patient_digest,
        state=study.state,
        reason=study.reason,
        revision=study.revision,
        instance_count=study.instance_count,
        byte_count=study.byte_count,
        created_at=study.created_at,
        changed_at=study.changed_at,
        summary=summary,
        path=None if study.purged_at is not None else path,
    )
