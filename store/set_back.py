"""A clock that was set back: what waits for times that it will reach much later moves with it.

Heartbeats show it: one that lies ahead was written before. Where nothing lives, the newest change of a study does.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.models import CommitmentRequest, Delivery, PriorSearch, Process, Study
from store.states import StudyState

TOLERANCE = timedelta(seconds=5)
"""Clocks that are kept by a time server are moved by less."""

_WAITED_FOR: tuple[InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None], ...] = (
    Study.not_before,
    Study.lease_expires_at,
    Delivery.next_attempt_at,
    Delivery.lease_expires_at,
    CommitmentRequest.next_attempt_at,
    PriorSearch.next_attempt_at,
)


def follow(session: Session, now: datetime) -> timedelta:
    """By how much the clock was set back since the store was last written to; zero where it was not.

    Waiting times and leases then are what they were before. What is known to have happened keeps its time, but for the
    reception of studies that goes on: quiet times are counted from it.
    """
    beats = list(session.scalars(select(Process).order_by(Process.name).with_for_update()))
    last = max((process.heartbeat_at for process in beats), default=None)
    if last is None:
        last = session.scalar(select(func.max(Study.changed_at)))
    if last is None or last - now <= TOLERANCE:
        return timedelta(0)
    behind = last - now
    for time in _WAITED_FOR:
        for row in session.scalars(select(time.class_).where(time > now)):
            setattr(row, time.key, getattr(row, time.key) - behind)
    _move_receptions(session, now, behind)
    for process in beats:
        process.heartbeat_at = min(process.heartbeat_at, now)
    return behind


def _move_receptions(session: Session, now: datetime, behind: timedelta) -> None:
    receiving = select(Study).where(Study.state == StudyState.RECEIVING, Study.last_received_at > now)
    for study in session.scalars(receiving):
        study.receiving_since -= behind
        study.last_received_at -= behind
