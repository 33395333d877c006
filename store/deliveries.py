"""Deliveries: one result to one destination, tried again with backoff until the destination has answered success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from store import ledger
from store.finishing import finish_if_delivered
from store.models import Delivery, Result, Study
from store.results import make_due
from store.states import IN_VAIN, DeliveryState
from store.wakeups import Topic, announce

TOGETHER = timedelta(seconds=0.5)
"""How long a stored object waits for others of its study, so that one request for commitment names all."""


@dataclass(frozen=True)
class Backoff:
    """Waiting times between attempts: `first`, doubled each time, never more than `longest`."""

    first: timedelta
    longest: timedelta

    def delay(self, attempts: int) -> timedelta:
        """How long to wait after `attempts` (>= 1) failed attempts."""
        doublings = min(attempts - 1, 20)  # outlasts any cap; timedelta overflows before long
        return min(self.longest, self.first * float(2**doublings))


@dataclass(frozen=True)
class DueDelivery:
    """What a sender needs to send one object. path: relative to the storage folder. attempts: those before."""

    delivery_id: int
    study_id: int
    study_instance_uid: str
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    attempts: int


class Named(Protocol):
    """What is said of a delivery in messages."""

    @property
    def kind(self) -> str: ...

    @property
    def destination(self) -> str: ...


class DeliveryTaken(Exception):
    """Another process has taken this delivery over, or it was ended; what this one did is not recorded."""

    def __init__(self, delivery: Named) -> None:
        super().__init__(f"{delivery.kind} to {delivery.destination} is no longer this process's to deliver")


def claim_due(
    session: Session,
    *,
    who: str,
    lease: timedelta,
    now: datetime,
    destinations: Sequence[str],
    limit: int = 32,
) -> list[DueDelivery]:
    """Take the deliveries that are due at one of `destinations`, oldest first, for the time of `lease`.

    Objects of one study stay together in the order in which they were recorded.
    """
    rows = take(
        session, DeliveryState.PENDING, who=who, lease=lease, now=now, destinations=destinations, limit=limit
    )
    return [_due(*row) for row in rows]


def take(
    session: Session,
    state: DeliveryState,
    *,
    who: str,
    lease: timedelta,
    now: datetime,
    destinations: Sequence[str],
    limit: int,
) -> list[tuple[Delivery, Result, str]]:
    """Claim due deliveries in `state`, oldest first; each with its result and Study Instance UID."""
    rows = session.execute(
        select(Delivery, Result, Study.study_instance_uid)
        .join(Result, Result.id == Delivery.result_id)
        .join(Study, Study.id == Delivery.study_id)
        .where(
            Delivery.state == state,
            Delivery.next_attempt_at <= now,
            Delivery.destination.in_(destinations),
            or_(Delivery.lease_expires_at.is_(None), Delivery.lease_expires_at < now),
        )
        .order_by(Delivery.next_attempt_at, Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Delivery)
    ).all()
    for delivery, _, _ in rows:
        delivery.claimed_by = who
        delivery.lease_expires_at = now + lease
    session.flush()
    return [(delivery, result, study_uid) for delivery, result, study_uid in rows]


def next_due_at(session: Session, destinations: Sequence[str]) -> datetime | None:
    """When the next pending delivery falls due; None where none is pending."""
    return next_at(session, DeliveryState.PENDING, destinations)


def next_at(session: Session, state: DeliveryState, destinations: Sequence[str]) -> datetime | None:
    """When the next delivery in `state` falls due; None where there is none."""
    return session.scalar(
        select(Delivery.next_attempt_at)
        .where(Delivery.state == state, Delivery.destination.in_(destinations))
        .order_by(Delivery.next_attempt_at)
        .limit(1)
    )


def record_delivered(
    session: Session, due: DueDelivery, *, who: str, status: int, now: datetime, remark: str = ""
) -> None:
    """The destination stored the object: status 0x0000, or a warning (0xB...) with its words in `remark`.

    The study is delivered with its last object. Raises DeliveryTaken.
    """
    delivery = _held(session, due, who)
    delivery.state = DeliveryState.DELIVERED
    delivery.attempts += 1
    delivery.last_status = status
    delivery.last_error = remark
    delivery.delivered_at = now
    _let_go(delivery)
    _finish(session, due, who, now)


def record_stored(
    session: Session, due: DueDelivery, *, who: str, status: int, now: datetime, remark: str = ""
) -> None:
    """The destination stored the object and is now to commit to it (`store.commitment`). Raises DeliveryTaken."""
    delivery = _held(session, due, who)
    delivery.state = DeliveryState.STORED
    delivery.attempts += 1
    delivery.last_status = status
    delivery.last_error = remark
    delivery.next_attempt_at = now + TOGETHER
    delivery.transaction_uid = None
    _let_go(delivery)
    announce(session, Topic.OUTBOX)


def record_failed(
    session: Session,
    due: DueDelivery,
    *,
    who: str,
    why: str,
    backoff: Backoff,
    now: datetime,
    status: int | None = None,
) -> datetime:
    """The attempt failed (no connection, failure status): try again later. Returns when. Raises DeliveryTaken."""
    delivery = _held(session, due, who)
    delivery.attempts += 1
    delivery.last_status = status
    delivery.last_error = why
    delivery.next_attempt_at = now + backoff.delay(delivery.attempts)
    _let_go(delivery)
    return delivery.next_attempt_at


def record_refused(
    session: Session, due: DueDelivery, *, who: str, why: str, now: datetime, status: int | None = None
) -> None:
    """The destination will never take the object.

    The study fails when its other deliveries have ended; an admin can send again. Raises DeliveryTaken.
    """
    delivery = _held(session, due, who)
    delivery.state = DeliveryState.REFUSED
    delivery.attempts += 1
    delivery.last_status = status
    delivery.last_error = why
    _let_go(delivery)
    _finish(session, due, who, now)


def record_not_accepted(
    session: Session,
    due: DueDelivery,
    *,
    who: str,
    why: str,
    now: datetime,
    status: int | None = None,
    stand_in: str | None = None,
) -> bool:
    """The destination takes no objects of this SOP class: the study goes on without it there.

    stand_in: kind of object to send instead. Returns whether the screening has one, which then is due now. The study
    fails only where a destination takes nothing at all. Raises DeliveryTaken.
    """
    delivery = _held(session, due, who)
    delivery.state = DeliveryState.NOT_ACCEPTED
    delivery.attempts += 1
    delivery.last_status = status
    delivery.last_error = why
    _let_go(delivery)
    queued = stand_in is not None and _queue_stand_in(session, delivery, stand_in, now)
    _finish(session, due, who, now)
    return queued


def _queue_stand_in(session: Session, delivery: Delivery, kind: str, now: datetime) -> bool:
    own = select(Result.screening_id).where(Result.id == delivery.result_id).scalar_subquery()
    result = session.scalar(select(Result).where(Result.screening_id == own, Result.kind == kind))
    if result is None:
        return False
    there = select(Delivery.id).where(
        Delivery.result_id == result.id, Delivery.destination == delivery.destination
    )
    if session.scalar(there) is None:
        queued = Delivery(
            result_id=result.id,
            study_id=delivery.study_id,
            destination=delivery.destination,
            state=DeliveryState.PENDING,
            next_attempt_at=now,
        )
        session.add(queued)
        session.flush()
    return True


def hand_back(session: Session, due: DueDelivery, *, who: str) -> None:
    """Let a delivery go untried, since the process stops. Raises DeliveryTaken."""
    _let_go(_held(session, due, who))
    announce(session, Topic.OUTBOX)


def reset(session: Session, study_id: int, *, all_of_them: bool, now: datetime) -> int:
    """Make deliveries of a study pending and due: those that ended in vain, or all of them. Returns how many."""
    query = select(Delivery).where(Delivery.study_id == study_id)
    if not all_of_them:
        query = query.where(Delivery.state.in_(IN_VAIN))
    rows = session.scalars(query.with_for_update()).all()
    for delivery in rows:
        make_due(delivery, now)
    session.flush()
    announce(session, Topic.OUTBOX)
    return len(rows)


def _due(delivery: Delivery, result: Result, study_instance_uid: str) -> DueDelivery:
    return DueDelivery(
        delivery_id=delivery.id,
        study_id=delivery.study_id,
        study_instance_uid=study_instance_uid,
        destination=delivery.destination,
        kind=result.kind,
        sop_class_uid=result.sop_class_uid,
        sop_instance_uid=result.sop_instance_uid,
        path=result.path,
        attempts=delivery.attempts,
    )


def _held(session: Session, due: DueDelivery, who: str) -> Delivery:
    # The study first, as everywhere: two rows locked in two orders would be a deadlock on PostgreSQL
    ledger.locked_study(session, due.study_id)
    delivery = session.scalar(
        select(Delivery)
        .where(Delivery.id == due.delivery_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if delivery is None or delivery.claimed_by != who or delivery.state is not DeliveryState.PENDING:
        raise DeliveryTaken(due)
    return delivery


def _let_go(delivery: Delivery) -> None:
    delivery.claimed_by = None
    delivery.lease_expires_at = None


def _finish(session: Session, due: DueDelivery, who: str, now: datetime) -> None:
    session.flush()
    finish_if_delivered(session, ledger.locked_study(session, due.study_id), who=who, now=now)
