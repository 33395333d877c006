"""What the listener writes: associations, received instances, refusals.

`record_instance` runs in the transaction whose commit allows the answer 0x0000.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store import deleted_images, ledger
from store.models import AssociationRecord, Carriage, Instance, Refusal, Series, Study
from store.states import StudyState
from store.upsert import insert_if_absent

WHO = "listener"
NO_LIMIT = 2**62


class Outcome(enum.StrEnum):
    """What the store made of a received instance."""

    NEW = "new"
    IDENTICAL = "identical"
    """The same SOP Instance UID with the same content: success, no new work."""
    CONFLICTING = "conflicting"
    """The same SOP Instance UID with other content: nothing was changed, the sender is refused."""


@dataclass(frozen=True)
class ReceivedInstance:
    """An instance whose bytes are on disk.

    sha256: of the Part 10 file, hex. size: of the data set in bytes. path: of the file, relative to the storage
    folder. kept_out: why it will not be screened, None for an image that may be. held_by: the node whose disk alone has
    it until it is in the object store, None without one.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    patient_digest: str
    sha256: str
    size: int
    path: str
    kept_out: str | None = None
    held_by: str | None = None


@dataclass(frozen=True)
class Receipt:
    """The store's word on one instance. `path` is where the store says that its content lies."""

    outcome: Outcome
    study_id: int
    series_id: int
    path: str


class StudyTooLarge(Exception):
    """The study would pass its limit with this instance; nothing was changed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the study has reached its limit of {max_bytes // 2**20} MiB")


@dataclass(frozen=True)
class Peer:
    """Who sent something: AE title and address."""

    calling_ae: str
    host: str


def open_association(session: Session, *, listener: str, peer: Peer, called_ae: str, now: datetime) -> int:
    """Record an accepted association; returns its number."""
    record = AssociationRecord(
        listener=listener, calling_ae=peer.calling_ae, called_ae=called_ae, host=peer.host, opened_at=now
    )
    session.add(record)
    session.flush()
    return record.id


def close_association(session: Session, association_id: int, *, end: str, now: datetime) -> None:
    """Record how an association ended: released, aborted, connection lost. Closing it twice keeps the first end."""
    session.execute(
        update(AssociationRecord)
        .where(AssociationRecord.id == association_id, AssociationRecord.closed_at.is_(None))
        .values(closed_at=now, end=end)
    )


def close_left_over(session: Session, *, listener: str, now: datetime) -> int:
    """Close what a listener of this name left open when it was killed; returns how many."""
    ids = session.scalars(
        update(AssociationRecord)
        .where(AssociationRecord.closed_at.is_(None), AssociationRecord.listener == listener)
        .values(closed_at=now, end="listener ended")
        .returning(AssociationRecord.id)
    ).all()
    return len(ids)


def record_instance(
    session: Session,
    instance: ReceivedInstance,
    *,
    association_id: int | None,
    now: datetime,
    max_study_bytes: int = NO_LIMIT,
    gone: str | None = None,
) -> Receipt:
    """Record an instance, and take its study back to receiving where it is a late one. Raises StudyTooLarge.

    An instance that is kept out of screening never takes a study back: the node's own results come home this way.
    gone: path of content that was deleted, so that other content of its study may take its place.
    """
    if (conflict := _conflict(session, instance, gone)) is not None:  # no study is begun for it
        return conflict
    study = _study(session, instance, now)
    if association_id is not None:
        insert_if_absent(session, Carriage, {"association_id": association_id, "study_id": study.id})
    # It may have come meanwhile: only now is its study locked
    if (conflict := _conflict(session, instance, gone)) is not None:
        return conflict
    held = _held(session, instance)
    if held is not None and held.sha256 == instance.sha256:
        _take_back(session, study, held, instance, now)
        return Receipt(Outcome.IDENTICAL, study.id, held.series_id, held.path)
    if study.byte_count + instance.size > max_study_bytes:
        raise StudyTooLarge(max_study_bytes)
    series_id = _series(session, study, instance)
    deleted_images.mark(session, study)
    if held is not None:
        _forget(session, study, held)
    session.add(_row(study, series_id, instance, association_id, now))
    study.instance_count += 1
    study.byte_count += instance.size
    study.last_received_at = now
    if instance.kept_out is None and study.state is not StudyState.RECEIVING:
        _reopen(session, study, now)
    session.flush()
    return Receipt(Outcome.NEW, study.id, series_id, instance.path)


def record_refusal(
    session: Session,
    *,
    peer: Peer,
    why: str,
    now: datetime,
    status: int | None = None,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
) -> None:
    """Record what was refused and why. UIDs must be valid ones, or None."""
    session.add(
        Refusal(
            at=now,
            calling_ae=peer.calling_ae,
            host=peer.host,
            status=status,
            study_instance_uid=study_instance_uid,
            sop_instance_uid=sop_instance_uid,
            why=why,
        )
    )


def known_paths(session: Session, paths: list[str]) -> set[str]:
    """Those of `paths` (relative to the storage folder) that an instance row names."""
    return set(session.scalars(select(Instance.path).where(Instance.path.in_(paths))))


def _study(session: Session, instance: ReceivedInstance, now: datetime) -> Study:
    """The study of an instance, locked; inserted where it is the first of it."""
    inserted = insert_if_absent(
        session,
        Study,
        {
            "study_instance_uid": instance.study_instance_uid,
            "patient_digest": instance.patient_digest,
            "state": StudyState.RECEIVING,
            "reason": "first instance",
            "revision": 0,
            "instance_count": 0,
            "byte_count": 0,
            "created_at": now,
            "receiving_since": now,
            "last_received_at": now,
            "changed_at": now,
            "priority": 0,
            "not_before": now,
            "fence": 0,
            "attempts": 0,
        },
    )
    study = ledger.locked_study_by_uid(session, instance.study_instance_uid)
    if inserted:
        ledger.begin(session, study, who=WHO, why="first instance", now=now)
    return study


def _held(session: Session, instance: ReceivedInstance) -> Instance | None:
    """What the store holds under the SOP Instance UID of an instance."""
    return session.scalar(
        select(Instance)
        .where(Instance.sop_instance_uid == instance.sop_instance_uid)
        .execution_options(populate_existing=True)
    )


def _conflict(session: Session, instance: ReceivedInstance, gone: str | None) -> Receipt | None:
    """The word on an instance whose UID is held with other content, unless that is gone and was of the same study."""
    held = _held(session, instance)
    if held is None or held.sha256 == instance.sha256:
        return None
    of = session.get_one(Study, held.study_id).study_instance_uid
    if held.path == gone and of == instance.study_instance_uid:
        return None
    return Receipt(Outcome.CONFLICTING, held.study_id, held.series_id, held.path)


def _forget(session: Session, study: Study, held: Instance) -> None:
    """Other content takes the place of an instance."""
    study.instance_count -= 1
    study.byte_count -= held.size
    session.delete(held)
    session.flush()


def _take_back(
    session: Session, study: Study, held: Instance, instance: ReceivedInstance, now: datetime
) -> None:
    """The content of an instance has just come again, to this node."""
    if deleted_images.are_gone(study, held):
        study.last_received_at = now  # it is kept as long as one that has just come
    deleted_images.mark(session, study)
    deleted_images.unmark(session, study, held.id)
    session.execute(update(Instance).where(Instance.id == held.id).values(held_by=instance.held_by))


def _row(
    study: Study, series_id: int, instance: ReceivedInstance, association_id: int | None, now: datetime
) -> Instance:
    return Instance(
        study_id=study.id,
        series_id=series_id,
        association_id=association_id,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        sha256=instance.sha256,
        size=instance.size,
        path=instance.path,
        received_at=now,
        kept_out=instance.kept_out,
        held_by=instance.held_by,
    )


def _series(session: Session, study: Study, instance: ReceivedInstance) -> int:
    key = {"study_id": study.id, "series_instance_uid": instance.series_instance_uid}
    query = select(Series.id).filter_by(**key)
    found = session.scalar(query)
    if found is None:
        insert_if_absent(session, Series, key | {"modality": instance.modality})
        found = session.scalar(query)
    if found is None:
        raise RuntimeError("a series that was inserted is not there")
    return found


def _reopen(session: Session, study: Study, now: datetime) -> None:
    """Take a study back to receiving."""
    why = f"late instance after revision {study.revision}" if study.revision else "further instance"
    ledger.change_state(session, study, StudyState.RECEIVING, who=WHO, why=why, now=now)
    study.receiving_since = now
