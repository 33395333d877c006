"""Recording what a screening made: the result objects and one delivery for each object and destination.

The files lie in the outbox, on disk, before this runs; the commit makes them real.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import ledger
from store.claims import Claim, held_study
from store.finishing import finish_if_delivered
from store.models import Delivery, Result, Revision, Screening, Study
from store.states import IN_VAIN, DeliveryState, StudyState
from store.verdicts import verdict_text


@dataclass(frozen=True)
class ResultObject:
    """One DICOM object in the outbox. kind: seg, gsps, pm, sr. path: relative to the storage folder."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str


def record_results(
    session: Session,
    claim: Claim,
    objects: Sequence[ResultObject],
    *,
    destinations: Mapping[str, Collection[str]],
    settings_digest: str,
    summary: dict[str, Any],
    now: datetime,
) -> None:
    """End a screening: objects, deliveries and the state delivering in one transaction.

    destinations: name of each destination, and the kinds of object that it wants. settings_digest: SHA-256 hex over
    everything but the instances that results depend on (package hashes, settings). Where this revision was already
    screened with the same settings, only what is new is added: an object that was not made before, and the delivery to
    a destination that did not get it before (the routing rules or the destinations have changed since); what is
    delivered stays so, what was refused or not accepted is tried again. A study without any delivery is delivered at
    once. Raises store.claims.LeaseLost, and then the files may be left over but no row is.
    """
    study = held_study(session, claim)
    revision_id = session.scalars(
        select(Revision.id).where(Revision.study_id == study.id, Revision.number == claim.revision)
    ).one()
    screening = session.scalar(
        select(Screening).where(
            Screening.revision_id == revision_id, Screening.settings_digest == settings_digest
        )
    )
    again = screening is not None
    if screening is None:
        screening = Screening(
            revision_id=revision_id,
            settings_digest=settings_digest,
            worker=claim.worker,
            finished_at=now,
            summary=summary,
        )
        session.add(screening)
        session.flush()
    screening.finished_at = now
    added = _add_what_is_new(session, study, screening, objects, destinations, now)
    study.verdict = verdict_text(summary)
    why = f"screened, {len(objects)} objects"
    if again:
        why = f"screened as before, {added} further deliveries" if added else "screened as before"
    ledger.change_state(session, study, StudyState.DELIVERING, who=claim.worker, why=why, now=now)
    session.flush()
    finish_if_delivered(session, study, who=claim.worker, now=now)


def make_due(delivery: Delivery, now: datetime) -> None:
    """Let a delivery begin anew, whatever became of it."""
    delivery.state = DeliveryState.PENDING
    delivery.attempts = 0
    delivery.commitment_attempts = 0
    delivery.transaction_uid = None
    delivery.next_attempt_at = now
    delivery.delivered_at = None
    delivery.claimed_by = None
    delivery.lease_expires_at = None


def _add_what_is_new(
    session: Session,
    study: Study,
    screening: Screening,
    objects: Sequence[ResultObject],
    destinations: Mapping[str, Collection[str]],
    now: datetime,
) -> int:
    """Add the objects that the screening has not, and the deliveries that they have not or that ended in vain.

    Returns how many deliveries that are.
    """
    results = {
        result.sop_instance_uid: result
        for result in session.scalars(select(Result).where(Result.screening_id == screening.id))
    }
    rows = session.scalars(
        select(Delivery)
        .join(Result, Result.id == Delivery.result_id)
        .where(Result.screening_id == screening.id)
    )
    known = {(delivery.result_id, delivery.destination): delivery for delivery in rows}
    added = 0
    for item in objects:
        result = results.get(item.sop_instance_uid) or _add_object(session, screening, item, now)
        for name in (name for name, kinds in destinations.items() if item.kind in kinds):
            delivery = known.get((result.id, name))
            if delivery is None:
                session.add(_new_delivery(study, result, name, now))
                added += 1
            elif delivery.state in IN_VAIN:
                make_due(delivery, now)
                added += 1
    session.flush()
    return added


def _new_delivery(study: Study, result: Result, destination: str, now: datetime) -> Delivery:
    return Delivery(
        result_id=result.id,
        study_id=study.id,
        destination=destination,
        state=DeliveryState.PENDING,
        next_attempt_at=now,
    )


def _add_object(session: Session, screening: Screening, item: ResultObject, now: datetime) -> Result:
    result = Result(
        screening_id=screening.id,
        kind=item.kind,
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        series_instance_uid=item.series_instance_uid,
        path=item.path,
        created_at=now,
    )
    session.add(result)
    session.flush()
    return result
