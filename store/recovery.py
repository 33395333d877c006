"""What a process held that is known to be dead: freed at once, instead of waiting until its leases run out.

Only who can know (a process on the same machine) may call this; on other machines leases do it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from store.models import Delivery, Study
from store.states import DeliveryState, StudyState


def end_leases_of(session: Session, name: str, now: datetime) -> int:
    """Let every lease of the dead process `name` be over; returns how many it held.

    Studies are then taken over by the ordinary way, with its attempt counted: a study that kills its worker each time
    must end as failed.
    """
    over = now - timedelta(seconds=1)
    studies = session.scalars(
        update(Study)
        .where(Study.state == StudyState.SCREENING, Study.claimed_by == name)
        .values(lease_expires_at=over)
        .returning(Study.id)
    ).all()
    deliveries = session.scalars(
        update(Delivery)
        .where(Delivery.claimed_by == name)
        .values(claimed_by=None, lease_expires_at=None)
        .returning(Delivery.id)
    ).all()
    return len(studies) + len(deliveries)


def end_leases_on_deliveries(session: Session, name: str, destination: str, state: DeliveryState) -> None:
    """Free what `name` has claimed to deliver to `destination`, or to ask it about: it does not know how far it is."""
    session.execute(
        update(Delivery)
        .where(Delivery.claimed_by == name, Delivery.destination == destination, Delivery.state == state)
        .values(claimed_by=None, lease_expires_at=None)
    )
