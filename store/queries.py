"""What people ask the store: how many, which ones, and what happened to that study."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import uploads
from store.ledger import UnknownStudy
from store.models import (
    AssociationRecord,
    Delivery,
    Instance,
    Refusal,
    Result,
    Revision,
    Screening,
    Series,
    Study,
    Transition,
)
from store.states import UNDERWAY, DeliveryState, StudyState
from store.verdicts import VerdictChoice, texts_of


@dataclass(frozen=True)
class StudyLine:
    """One study in a list. verdict: see `store.verdicts.verdict_text`."""

    study_instance_uid: str
    state: StudyState
    reason: str
    revision: int
    instance_count: int
    attempts: int
    created_at: datetime
    changed_at: datetime
    verdict: str | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened to a study."""

    at: datetime
    who: str
    what: str


@dataclass(frozen=True)
class DeliveryLine:
    """One object at one destination. `last_status` is a DIMSE status, None where no answer came."""

    revision: int
    kind: str
    sop_instance_uid: str
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    last_status: int | None
    last_error: str
    delivered_at: datetime | None


@dataclass(frozen=True)
class SeriesLine:
    """One series of a study. kept_out: why its instances are not screened; empty where they may be."""

    series_instance_uid: str
    modality: str
    instance_count: int
    kept_out: tuple[str, ...]


@dataclass(frozen=True)
class ScreeningLine:
    """One screening of a study and the summary that the worker left."""

    revision: int
    settings_digest: str
    worker: str
    finished_at: datetime
    summary: dict[str, Any]


@dataclass(frozen=True)
class StudyAccount:
    """Everything that the store knows about a study, oldest first."""

    study: StudyLine
    history: tuple[HistoryEntry, ...]
    series: tuple[SeriesLine, ...]
    screenings: tuple[ScreeningLine, ...]
    deliveries: tuple[DeliveryLine, ...]


def counts_by_state(session: Session) -> dict[StudyState, int]:
    """How many studies are in each state; every state is a key."""
    rows = session.execute(select(Study.state, func.count()).group_by(Study.state)).all()
    return dict.fromkeys(StudyState, 0) | dict(rows)


def pending_deliveries(session: Session) -> dict[str, int]:
    """How many objects wait for each destination."""
    rows = session.execute(
        select(Delivery.destination, func.count())
        .where(Delivery.state.in_(UNDERWAY))
        .group_by(Delivery.destination)
    )
    return dict(rows.all())


def list_studies(
    session: Session,
    *,
    states: Collection[StudyState] = (),
    since: datetime | None = None,
    verdict: VerdictChoice | None = None,
    uid_prefix: str = "",
    limit: int = 100,
    offset: int = 0,
) -> list[StudyLine]:
    """Studies, newest change first.

    states: only these (empty: all). since: changed at or after. verdict: by what was found.
    """
    query = select(Study)
    if states:
        query = query.where(Study.state.in_(states))
    if since is not None:
        query = query.where(Study.changed_at >= since)
    if verdict is not None:
        query = query.where(Study.verdict.in_(texts_of(verdict)))
    if uid_prefix:
        query = query.where(Study.study_instance_uid.startswith(uid_prefix, autoescape=True))
    query = query.order_by(Study.changed_at.desc(), Study.id.desc()).limit(limit).offset(offset)
    return [_line(study) for study in session.scalars(query)]


def why(session: Session, study_instance_uid: str) -> StudyAccount:
    """The whole account of one study. Raises store.ledger.UnknownStudy."""
    study = session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))
    if study is None:
        raise UnknownStudy(study_instance_uid)
    history = [
        *_transitions(session, study),
        *_associations(session, study),
        *_refusals(session, study),
        *_held(session, study),
    ]
    return StudyAccount(
        study=_line(study),
        history=tuple(sorted(history, key=lambda entry: entry.at)),
        series=tuple(_series(session, study)),
        screenings=tuple(_screenings(session, study)),
        deliveries=tuple(_deliveries(session, study)),
    )


def recent_refusals(session: Session, *, since: datetime, limit: int) -> list[HistoryEntry]:
    """What the listener refused since then, newest first; `who` is the sender."""
    newest_first = select(Refusal).where(Refusal.at >= since).order_by(Refusal.at.desc(), Refusal.id.desc())
    return [_refusal(row) for row in session.scalars(newest_first.limit(limit))]


def _line(study: Study) -> StudyLine:
    return StudyLine(
        study_instance_uid=study.study_instance_uid,
        state=study.state,
        reason=study.reason,
        revision=study.revision,
        instance_count=study.instance_count,
        attempts=study.attempts,
        created_at=study.created_at,
        changed_at=study.changed_at,
        verdict=study.verdict,
    )


def _transitions(session: Session, study: Study) -> list[HistoryEntry]:
    rows = session.scalars(select(Transition).where(Transition.study_id == study.id).order_by(Transition.id))
    return [HistoryEntry(row.at, row.who, _words(row)) for row in rows]


def _words(row: Transition) -> str:
    if row.before is row.after:
        return row.why
    change = f"{row.before} -> {row.after}" if row.before else str(row.after)
    return f"{change} (revision {row.revision}): {row.why}" if row.revision else f"{change}: {row.why}"


def _associations(session: Session, study: Study) -> list[HistoryEntry]:
    rows = session.execute(
        select(AssociationRecord, func.count(Instance.id))
        .join(Instance, Instance.association_id == AssociationRecord.id)
        .where(Instance.study_id == study.id)
        .group_by(AssociationRecord.id)
    )
    return [
        HistoryEntry(
            record.opened_at,
            f"{record.calling_ae}@{record.host}",
            f"association {record.id} brought {count} instances, {record.end or 'still open'}",
        )
        for record, count in rows
    ]


def _refusals(session: Session, study: Study) -> list[HistoryEntry]:
    rows = session.scalars(
        select(Refusal).where(Refusal.study_instance_uid == study.study_instance_uid).order_by(Refusal.id)
    )
    return [_refusal(row) for row in rows]


def _held(session: Session, study: Study) -> list[HistoryEntry]:
    why = "not in the object store yet: until then no worker takes the study"
    return [
        HistoryEntry(held.since, held.node, f"{held.images} images are {why}")
        for held in uploads.holdings_of_study(session, study.id)
    ]


def _refusal(row: Refusal) -> HistoryEntry:
    status = "" if row.status is None else f" with 0x{row.status:04X}"
    what = f"instance {row.sop_instance_uid}" if row.sop_instance_uid else "association"
    if row.status is not None and not row.sop_instance_uid:
        what = "instance"
    return HistoryEntry(row.at, f"{row.calling_ae}@{row.host}", f"{what} refused{status}: {row.why}")


def _series(session: Session, study: Study) -> list[SeriesLine]:
    rows = session.execute(
        select(Series.series_instance_uid, Series.modality, Instance.kept_out, func.count())
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study.id)
        .group_by(Series.id, Series.series_instance_uid, Series.modality, Instance.kept_out)
        .order_by(Series.id)
    )
    lines: dict[str, SeriesLine] = {}
    for uid, modality, kept_out, count in rows:
        before = lines.get(uid, SeriesLine(uid, modality, 0, ()))
        reasons = before.kept_out + ((kept_out,) if kept_out else ())
        lines[uid] = SeriesLine(uid, modality, before.instance_count + count, reasons)
    return list(lines.values())


def _screenings(session: Session, study: Study) -> list[ScreeningLine]:
    rows = session.execute(
        select(
            Revision.number,
            Screening.settings_digest,
            Screening.worker,
            Screening.finished_at,
            Screening.summary,
        )
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study.id)
        .order_by(Screening.id)
    )
    return [ScreeningLine(*row) for row in rows]


def _deliveries(session: Session, study: Study) -> list[DeliveryLine]:
    rows = session.execute(
        select(
            Revision.number.label("revision"),
            Result.kind,
            Result.sop_instance_uid,
            Delivery.destination,
            Delivery.state,
            Delivery.attempts,
            Delivery.next_attempt_at,
            Delivery.last_status,
            Delivery.last_error,
            Delivery.delivered_at,
        )
        .join(Result, Result.id == Delivery.result_id)
        .join(Screening, Screening.id == Result.screening_id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Delivery.study_id == study.id)
        .order_by(Delivery.id)
    )
    return [DeliveryLine(**row) for row in rows.mappings()]
