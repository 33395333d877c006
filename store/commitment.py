"""Storage commitment in the store (PS3.4 J): what destinations have yet to commit to, and what senders ask of us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import deleted_images, ledger
from store.deliveries import Backoff, DeliveryTaken, next_at, take
from store.finishing import finish_if_delivered
from store.models import CommitmentRequest, Delivery, Instance, Result, Study
from store.receipts import Peer
from store.states import DeliveryState
from store.upsert import insert_if_absent
from store.wakeups import Topic, announce

MOST_AT_ONCE = 500
"""UIDs in one query; SQLite takes 999 values."""


@dataclass(frozen=True)
class StoredDelivery:
    """An object that a destination stored and has not committed to.

    path: relative to the storage folder. transaction_uid: of a request whose answer is overdue, else None.
    requests: how often the destination was asked.
    """

    delivery_id: int
    study_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    kind: str
    path: str
    destination: str
    transaction_uid: str | None
    requests: int


def claim_stored(
    session: Session, *, who: str, lease: timedelta, destination: str, now: datetime, limit: int = 256
) -> list[StoredDelivery]:
    """Take what is stored at `destination` and due to be asked for, or whose answer is overdue, by study."""
    rows = take(
        session, DeliveryState.STORED, who=who, lease=lease, now=now, destinations=[destination], limit=limit
    )
    return [
        StoredDelivery(
            delivery_id=delivery.id,
            study_id=delivery.study_id,
            study_instance_uid=study_uid,
            series_instance_uid=result.series_instance_uid,
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            kind=result.kind,
            path=result.path,
            destination=delivery.destination,
            transaction_uid=delivery.transaction_uid,
            requests=delivery.commitment_attempts,
        )
        for delivery, result, study_uid in sorted(rows, key=lambda row: (row[0].study_id, row[0].id))
    ]


def next_stored_at(session: Session, destination: str) -> datetime | None:
    """When the next stored delivery of a destination falls due; None where none waits."""
    return next_at(session, DeliveryState.STORED, [destination])


def record_asked(
    session: Session, items: Sequence[StoredDelivery], *, transaction_uid: str, answer_by: datetime
) -> None:
    """Before the request leaves: its answer may come on another association before ours is closed."""
    for item in items:
        delivery = _stored(session, item)
        delivery.transaction_uid = transaction_uid
        delivery.commitment_attempts += 1
        delivery.next_attempt_at = answer_by
    session.flush()


def let_go(session: Session, items: Sequence[StoredDelivery]) -> None:
    """End the claims on `items` without a change of what they wait for; those answered meanwhile are left alone."""
    for delivery in session.scalars(
        select(Delivery)
        .where(
            Delivery.id.in_([i.delivery_id for i in items]),
            Delivery.state == DeliveryState.STORED,
        )
        .with_for_update()
    ):
        delivery.claimed_by = None
        delivery.lease_expires_at = None


def record_answer(
    session: Session,
    *,
    transaction_uid: str,
    destinations: Sequence[str],
    failed: Mapping[str, str],
    committed: Sequence[str],
    who: str,
    backoff: Backoff,
    now: datetime,
) -> int:
    """Take an N-EVENT-REPORT of one of `destinations` in; returns how many deliveries it settled.

    committed: SOP Instance UIDs. failed: SOP Instance UID to the reason; these are sent again, later each time. An
    answer to a request that nobody waits for settles nothing.
    """
    waiting = (
        Delivery.transaction_uid == transaction_uid,
        Delivery.destination.in_(destinations),
        Delivery.state == DeliveryState.STORED,
    )
    studies = sorted(session.scalars(select(Delivery.study_id).where(*waiting).distinct()))
    for study_id in studies:
        ledger.locked_study(session, study_id)
    rows = session.execute(
        select(Delivery, Result.sop_instance_uid)
        .join(Result, Result.id == Delivery.result_id)
        .where(*waiting)
        .execution_options(populate_existing=True)
    ).all()
    settled = 0
    kept = set(committed)
    for delivery, uid in rows:
        if uid in failed:
            _send_again(session, delivery, f"not committed: {failed[uid]}", backoff, now)
        elif uid in kept:
            _end_delivered(delivery, now, "")
        else:
            continue
        settled += 1
    session.flush()
    for study_id in studies:
        finish_if_delivered(session, ledger.locked_study(session, study_id), who=who, now=now)
    return settled


def record_kept(session: Session, item: StoredDelivery, *, who: str, remark: str, now: datetime) -> None:
    """The object counts as delivered on other grounds than a commitment; `remark` says which. Raises DeliveryTaken."""
    _end_delivered(_stored(session, item), now, remark)
    _finish(session, item, who, now)


def record_lost(session: Session, item: StoredDelivery, *, why: str, backoff: Backoff, now: datetime) -> None:
    """The destination does not have the object though it answered success: send it again. Raises DeliveryTaken."""
    _send_again(session, _stored(session, item), why, backoff, now)


def record_other_content(
    session: Session, item: StoredDelivery, *, who: str, why: str, now: datetime
) -> None:
    """The destination keeps another object under this UID; sending again changes nothing. Raises DeliveryTaken."""
    delivery = _stored(session, item)
    delivery.state = DeliveryState.REFUSED
    delivery.last_error = why
    delivery.transaction_uid = None
    delivery.claimed_by = delivery.lease_expires_at = None
    _finish(session, item, who, now)


def ask_later(
    session: Session, items: Sequence[StoredDelivery], *, why: str, backoff: Backoff, now: datetime
) -> None:
    """The destination could not be asked: try again later."""
    for item in items:
        delivery = _stored(session, item)
        delivery.transaction_uid = None
        delivery.commitment_attempts = max(delivery.commitment_attempts, 1)
        delivery.last_error = why
        delivery.next_attempt_at = now + backoff.delay(delivery.commitment_attempts)
        delivery.claimed_by = delivery.lease_expires_at = None


@dataclass(frozen=True)
class OpenRequest:
    """A sender's request that is not reported yet. references: (SOP Class UID, SOP Instance UID)."""

    request_id: int
    transaction_uid: str
    peer: Peer
    references: tuple[tuple[str, str], ...]
    attempts: int


@dataclass(frozen=True)
class HeldInstance:
    """What the store holds under a SOP Instance UID.

    path: relative to the storage folder. size: of the data set, bytes. held_by: see `store.models.Instance`.
    """

    sop_class_uid: str
    path: str
    size: int
    held_by: str | None = None


def record_request(
    session: Session,
    *,
    transaction_uid: str,
    peer: Peer,
    references: Sequence[tuple[str, str]],
    report_at: datetime,
    now: datetime,
) -> int:
    """Keep a sender's request; one that came before is reported again. Returns its number."""
    insert_if_absent(
        session,
        CommitmentRequest,
        {
            "transaction_uid": transaction_uid,
            "calling_ae": peer.calling_ae,
            "host": peer.host,
            "references": [],
            "received_at": now,
            "attempts": 0,
            "last_error": "",
        },
    )
    request = session.scalars(
        select(CommitmentRequest)
        .where(
            CommitmentRequest.transaction_uid == transaction_uid,
            CommitmentRequest.calling_ae == peer.calling_ae,
        )
        .with_for_update()
    ).one()
    request.host = peer.host
    request.references = [list(pair) for pair in references]
    request.attempts = 0
    request.next_attempt_at = report_at
    request.reported_at = None
    _note_asked(session, [uid for _, uid in references], now)
    session.flush()
    announce(session, Topic.COMMITMENT)
    return request.id


def _note_asked(session: Session, sop_instance_uids: Sequence[str], now: datetime) -> None:
    for start in range(0, len(sop_instance_uids), MOST_AT_ONCE):
        named = select(Instance.study_id).where(
            Instance.sop_instance_uid.in_(sop_instance_uids[start : start + MOST_AT_ONCE])
        )
        session.execute(update(Study).where(Study.id.in_(named)).values(commitment_asked_at=now))


def open_requests(session: Session, now: datetime) -> list[OpenRequest]:
    """Requests whose report is due, oldest first."""
    rows = session.scalars(
        select(CommitmentRequest)
        .where(CommitmentRequest.next_attempt_at <= now)
        .order_by(CommitmentRequest.next_attempt_at)
    )
    return [_open(row) for row in rows]


def next_report_at(session: Session) -> datetime | None:
    """When the next report to a sender falls due; None where nobody waits for one."""
    return session.scalar(select(func.min(CommitmentRequest.next_attempt_at)))


def open_request(session: Session, request_id: int) -> OpenRequest | None:
    """One request, unless it was reported or given up."""
    row = session.get(CommitmentRequest, request_id)
    return None if row is None or row.next_attempt_at is None else _open(row)


def bring_forward(session: Session, request_id: int, now: datetime) -> None:
    """The association of a request has ended: its report is due at once on another one."""
    request = session.get_one(CommitmentRequest, request_id)
    if request.next_attempt_at is not None:
        request.next_attempt_at = now
        announce(session, Topic.COMMITMENT)


def record_reported(session: Session, request_id: int, now: datetime) -> None:
    """The sender has the report."""
    request = session.get_one(CommitmentRequest, request_id)
    request.attempts += 1
    request.reported_at = now
    request.next_attempt_at = None
    request.last_error = ""


def record_unreported(session: Session, request_id: int, *, why: str, again_at: datetime | None) -> None:
    """The report did not arrive; again_at: None gives it up. Nothing where it has arrived by another way meanwhile."""
    request = session.get_one(CommitmentRequest, request_id)
    if request.reported_at is not None:
        return
    request.attempts += 1
    request.last_error = why
    request.next_attempt_at = again_at


def held_instances(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, HeldInstance]:
    """What the store holds of these; images that were deleted, by themselves or with their study, are not held."""
    found: dict[str, HeldInstance] = {}
    for start in range(0, len(sop_instance_uids), MOST_AT_ONCE):
        rows = session.execute(
            select(
                Instance.sop_instance_uid,
                Instance.sop_class_uid,
                Instance.path,
                Instance.size,
                Instance.held_by,
            )
            .join(Study, Study.id == Instance.study_id)
            .where(
                Instance.sop_instance_uid.in_(sop_instance_uids[start : start + MOST_AT_ONCE]),
                Study.purged_at.is_(None),
                ~deleted_images.is_deleted(),
            )
        )
        found |= {row[0]: HeldInstance(row[1], row[2], row[3], row[4]) for row in rows}
    return found


def _open(row: CommitmentRequest) -> OpenRequest:
    references = tuple((str(sop_class), str(uid)) for sop_class, uid in row.references)
    return OpenRequest(row.id, row.transaction_uid, Peer(row.calling_ae, row.host), references, row.attempts)


def _stored(session: Session, item: StoredDelivery) -> Delivery:
    # The study first, as everywhere: two rows locked in two orders would be a deadlock on PostgreSQL
    ledger.locked_study(session, item.study_id)
    delivery = session.scalar(
        select(Delivery)
        .where(Delivery.id == item.delivery_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if delivery is None or delivery.state is not DeliveryState.STORED:
        raise DeliveryTaken(item)
    return delivery


def _end_delivered(delivery: Delivery, now: datetime, remark: str) -> None:
    delivery.state = DeliveryState.DELIVERED
    delivery.delivered_at = now
    delivery.transaction_uid = None
    delivery.claimed_by = delivery.lease_expires_at = None
    delivery.last_error = remark or delivery.last_error


def _send_again(session: Session, delivery: Delivery, why: str, backoff: Backoff, now: datetime) -> None:
    delivery.state = DeliveryState.PENDING
    delivery.last_error = why
    delivery.transaction_uid = None
    delivery.next_attempt_at = now + backoff.delay(max(delivery.attempts, 1))
    delivery.claimed_by = delivery.lease_expires_at = None
    announce(session, Topic.OUTBOX)


def _finish(session: Session, item: StoredDelivery, who: str, now: datetime) -> None:
    session.flush()
    finish_if_delivered(session, ledger.locked_study(session, item.study_id), who=who, now=now)
