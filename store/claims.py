"""Claims: which worker screens which study, for how long.

A claim carries a lease that its worker renews, and a fence. Whoever comes after the lease ran out, or after an
instance came late, meets a raised fence and is refused with LeaseLost: nothing is written twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from store import ledger, uploads
from store.models import Instance, Revision, Series, Study
from store.priorities import Priority, in_turn
from store.revisions import predecessor_documents
from store.routing import Routing
from store.states import StudyState


class LeaseLost(Exception):
    """The claim is void: the lease ran out and was taken over, the study changed, or an admin stepped in."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"{claim.worker} no longer holds study {claim.study_instance_uid}")


@dataclass(frozen=True)
class ClaimedInstance:
    """One instance of the claimed set. `path` is relative to the storage folder."""

    sop_instance_uid: str
    sop_class_uid: str
    path: str


@dataclass(frozen=True)
class Claim:
    """One worker's hold on one revision of one study.

    revision_created_at: the frozen time from which dates in results derive. attempt: 1 for the first try.
    predecessors: (SOP Class UID, SOP Instance UID, Series Instance UID) of the SRs of the revision before.
    routing: what the routing rules decided, None for no restriction. priority: see store.priorities.
    """

    study_id: int
    study_instance_uid: str
    patient_digest: str
    revision: int
    revision_digest: str
    revision_created_at: datetime
    instances: tuple[ClaimedInstance, ...]
    predecessors: tuple[tuple[str, str, str], ...]
    worker: str
    fence: int
    attempt: int
    lease_expires_at: datetime
    routing: Routing | None = None
    priority: int = Priority.NORMAL

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the instances, relative to the storage folder."""
        return tuple(instance.path for instance in self.instances)


def claim_next(
    session: Session, *, worker: str, lease: timedelta, max_attempts: int, now: datetime
) -> Claim | None:
    """Claim the study whose turn it is by priority and waiting time; None where none waits.

    Among studies of one priority the one that waits longest comes first; `store.priorities` has the order between
    priorities, in which none starves. Leases that ran out are taken over first. Two workers never get the same
    study: SQLite serialises writers, PostgreSQL skips rows that another transaction has locked. A study of which a
    node holds images that are not in the object store yet (`store.uploads`) is nobody's turn.
    """
    take_over_expired(session, who=worker, max_attempts=max_attempts, now=now)
    study = _first_in_turn(session, now)
    if study is None:
        return None
    study.attempts += 1
    why = f"claimed, attempt {study.attempts}"
    ledger.change_state(session, study, StudyState.SCREENING, who=worker, why=why, now=now)
    study.claimed_by = worker
    study.lease_expires_at = now + lease
    session.flush()
    return _claim(session, study, worker, now + lease)


def renew(session: Session, claim: Claim, *, lease: timedelta, now: datetime) -> Claim:
    """The heartbeat: extend the lease to `now + lease`. Raises LeaseLost."""
    study = held_study(session, claim)
    study.lease_expires_at = now + lease
    return replace(claim, lease_expires_at=now + lease)


def release(
    session: Session, claim: Claim, *, why: str, now: datetime, not_before: datetime | None = None
) -> None:
    """Give a study back unscreened, for instance because the worker stops: it does not count as an attempt.

    not_before: nobody claims it earlier. Raises LeaseLost.
    """
    study = held_study(session, claim)
    study.attempts -= 1
    ledger.change_state(session, study, StudyState.COMPLETE, who=claim.worker, why=why, now=now)
    if not_before is not None:
        study.not_before = not_before


def retry_later(session: Session, claim: Claim, *, why: str, not_before: datetime, now: datetime) -> None:
    """Give a study back after an error that may pass; the attempt counts. Raises LeaseLost."""
    study = held_study(session, claim)
    ledger.change_state(session, study, StudyState.COMPLETE, who=claim.worker, why=why, now=now)
    study.not_before = not_before


def fail(session: Session, claim: Claim, *, why: str, now: datetime) -> None:
    """End a study as failed: an admin can retry it. Raises LeaseLost."""
    study = held_study(session, claim)
    ledger.change_state(session, study, StudyState.FAILED, who=claim.worker, why=why, now=now)


def skip(session: Session, claim: Claim, *, why: str, now: datetime) -> None:
    """End a study as skipped: it is not one to screen (not a chest, too few slices). Raises LeaseLost."""
    study = held_study(session, claim)
    ledger.change_state(session, study, StudyState.SKIPPED, who=claim.worker, why=why, now=now)


def remark(session: Session, claim: Claim, *, why: str, now: datetime) -> None:
    """Note something in the account of a claimed study. Raises LeaseLost."""
    ledger.remark(session, held_study(session, claim), who=claim.worker, why=why, now=now)


def must_give_way(session: Session, claim: Claim, now: datetime) -> bool:
    """Whether what is claimed is for idle times and a study that is not waits or is being received."""
    return claim.priority >= Priority.IDLE and _is_busy(session, now)


def take_over_expired(session: Session, *, who: str, max_attempts: int, now: datetime) -> int:
    """Make studies with an expired lease claimable again; failed after `max_attempts`. Returns how many.

    A study that kills its worker every time must not do so for ever.
    """
    lost = session.scalars(
        select(Study)
        .where(Study.state == StudyState.SCREENING, Study.lease_expires_at < now)
        .order_by(Study.lease_expires_at, Study.id)  # as the index has them: no statistics lead past it
        .with_for_update(skip_locked=True)
    ).all()
    for study in lost:
        why = f"{study.claimed_by} let its lease run out"
        if study.attempts >= max_attempts:
            why = f"{why}, attempt {study.attempts} of {max_attempts}"
            ledger.change_state(session, study, StudyState.FAILED, who=who, why=why, now=now)
        else:
            ledger.change_state(session, study, StudyState.COMPLETE, who=who, why=why, now=now)
    session.flush()
    return len(lost)


def held_study(session: Session, claim: Claim) -> Study:
    """The study of a claim, locked. Raises LeaseLost unless the claim is still the present one."""
    study = ledger.locked_study(session, claim.study_id)
    if study.state is not StudyState.SCREENING or study.fence != claim.fence:
        raise LeaseLost(claim)
    return study


def _first_in_turn(session: Session, now: datetime) -> Study | None:
    """The study to claim, locked. PostgreSQL skips studies that another worker is just claiming."""
    for priority in in_turn(_waiting(session, now)):
        if priority >= Priority.IDLE and _is_busy(session, now):
            return None
        study = session.scalar(
            select(Study)
            .where(*_claimable(now), Study.priority == priority)
            .order_by(Study.not_before, Study.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if study is not None:
            return study
    return None


def _claimable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (Study.state == StudyState.COMPLETE, Study.not_before <= now, ~uploads.is_held())


def _is_busy(session: Session, now: datetime) -> bool:
    """Whether a study that is not for idle times waits for a worker, or any is being received."""
    waits = (*_claimable(now), Study.priority < Priority.IDLE)
    query = select(Study.id).where(or_(Study.state == StudyState.RECEIVING, and_(*waits))).limit(1)
    return session.scalar(query) is not None


def _waiting(session: Session, now: datetime) -> dict[int, datetime]:
    """Since when the first study of each priority waits: one look into the index each, however many wait."""
    waiting: dict[int, datetime] = {}
    query = (
        select(Study.priority, Study.not_before)
        .where(Study.state == StudyState.COMPLETE)
        .order_by(Study.priority, Study.not_before)
        .limit(1)
    )
    first = session.execute(query).one_or_none()
    while first is not None:
        if first.not_before <= now:
            waiting[first.priority] = first.not_before
        first = session.execute(query.where(Study.priority > first.priority)).one_or_none()
    return waiting


def _claim(session: Session, study: Study, worker: str, lease_expires_at: datetime) -> Claim:
    revision = session.scalars(
        select(Revision).where(Revision.study_id == study.id, Revision.number == study.revision)
    ).one()
    routing = None if study.routing is None else Routing.from_json(study.routing)
    wanted = (
        select(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.path)
        .where(
            Instance.study_id == study.id,
            Instance.first_revision <= revision.number,
            Instance.kept_out.is_(None),
        )
        .order_by(Instance.sop_instance_uid)
    )
    if routing is not None and routing.series:  # an administrator who screens a study kept out overrules that
        wanted = wanted.join(Series, Series.id == Instance.series_id).where(
            Series.series_instance_uid.in_(routing.series)
        )
    rows = session.execute(wanted)
    return Claim(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        patient_digest=study.patient_digest,
        revision=revision.number,
        revision_digest=revision.digest,
        revision_created_at=revision.created_at,
        instances=tuple(ClaimedInstance(*row) for row in rows),
        predecessors=tuple(predecessor_documents(session, study.id, revision.number)),
        worker=worker,
        fence=study.fence,
        attempt=study.attempts,
        lease_expires_at=lease_expires_at,
        routing=routing,
        priority=study.priority,
    )
