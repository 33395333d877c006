"""Forgetting what nobody asks for any more: refusals, announcements, requests for commitment, associations.

Studies with their accounts and results stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, func, select, update
from sqlalchemy.orm import Session

from store.models import Announcement, AssociationRecord, Base, Carriage, CommitmentRequest, Instance, Refusal

MAX_REFUSALS = 100_000
"""So many are kept however young they are: a sender that repeats what is refused makes one each time."""
BATCH = 1000
ASSOCIATIONS = 20
"""So many are forgotten at once: each of the instances that they brought is changed."""


@dataclass(frozen=True)
class Pruned:
    """How many rows were deleted. more: there may be further ones."""

    rows: int
    more: bool


def prune(session: Session, before: datetime, *, max_refusals: int = MAX_REFUSALS) -> Pruned:
    """Delete a batch of records of each kind that are from before that time. The caller goes on while there is more."""
    newest = session.scalar(select(func.max(Refusal.id))) or 0
    outdated = (
        (Refusal, (Refusal.at < before) | (Refusal.id <= newest - max_refusals)),
        (Announcement, Announcement.at < before),
        (
            CommitmentRequest,
            CommitmentRequest.next_attempt_at.is_(None) & (CommitmentRequest.received_at < before),
        ),
    )
    counts = [_delete_some(session, table, which) for table, which in outdated]
    associations = _prune_associations(session, before)
    return Pruned(sum(counts) + associations, BATCH in counts or associations == ASSOCIATIONS)


def _delete_some(session: Session, table: type[Base], which: Any) -> int:
    key = table.__table__.c.id
    some = session.scalars(select(key).where(which, _is_not_newest(key)).order_by(key).limit(BATCH)).all()
    session.execute(delete(table).where(key.in_(some)))
    return len(some)


def _is_not_newest(key: ColumnElement[Any]) -> ColumnElement[bool]:
    """The newest row stays: SQLite would give its number to the next one, which then would not look new to anybody."""
    return key < select(func.max(key)).scalar_subquery()


def _prune_associations(session: Session, before: datetime) -> int:
    """Delete associations that have ended; what they brought stays, and does not name them any more."""
    ended = (
        select(AssociationRecord.id)
        .where(AssociationRecord.closed_at < before, _is_not_newest(AssociationRecord.__table__.c.id))
        .order_by(AssociationRecord.closed_at)
        .limit(ASSOCIATIONS)
    )
    some = session.scalars(ended).all()
    session.execute(update(Instance).where(Instance.association_id.in_(some)).values(association_id=None))
    deletions: tuple[Delete, ...] = (
        delete(Carriage).where(Carriage.association_id.in_(some)),
        delete(AssociationRecord).where(AssociationRecord.id.in_(some)),
    )
    for deletion in deletions:
        session.execute(deletion)
    return len(some)
