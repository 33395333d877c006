"""When a study that is being delivered has ended, and how: once all is through, its newest screening decides."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import ledger
from store.models import Delivery, Result, Revision, Screening, Study
from store.states import UNDERWAY, DeliveryState, StudyState

ENDS_IN_VAIN = {DeliveryState.REFUSED: "refused", DeliveryState.NOT_ACCEPTED: "does not accept"}


def finish_if_delivered(session: Session, study: Study, *, who: str, now: datetime) -> None:
    """End a delivering study whose deliveries all have.

    Delivered, also where a destination does not accept some kind of object; failed where one refused an object of the
    newest screening, or accepted none of it. What did not arrive of earlier screenings is only said.
    """
    if study.state is not StudyState.DELIVERING or _is_underway(session, study):
        return
    newest = _newest_screening(session, study)
    counts = _counts(session, study, newest)
    together = sum(counts.values(), Counter[DeliveryState]())
    in_vain = any(c[DeliveryState.NOT_ACCEPTED] and not c[DeliveryState.DELIVERED] for c in counts.values())
    left_out, left_out_before = _left_out(session, study, newest)
    if together[DeliveryState.REFUSED] or in_vain:
        ledger.change_state(session, study, StudyState.FAILED, who=who, why=left_out, now=now)
        return
    delivered = together[DeliveryState.DELIVERED]
    why = f"{delivered} deliveries done" if delivered else "no destination wants a result"
    before = f"of an earlier screening: {left_out_before}" if left_out_before else ""
    why = "; ".join(part for part in (why, left_out, before) if part)
    ledger.change_state(session, study, StudyState.DELIVERED, who=who, why=why, now=now)


def _is_underway(session: Session, study: Study) -> bool:
    query = select(Delivery.id).where(Delivery.study_id == study.id, Delivery.state.in_(UNDERWAY))
    return session.scalar(query.limit(1)) is not None


def _newest_screening(session: Session, study: Study) -> int | None:
    """Of the newest revision the screening that was finished last; one that came out as before has finished again."""
    return session.scalar(
        select(Screening.id)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Revision.study_id == study.id)
        .order_by(Revision.number.desc(), Screening.finished_at.desc(), Screening.id.desc())
        .limit(1)
    )


def _counts(session: Session, study: Study, screening: int | None) -> dict[str, Counter[DeliveryState]]:
    """How many deliveries of a screening ended how, by destination."""
    counts: dict[str, Counter[DeliveryState]] = defaultdict(Counter)
    rows = session.execute(
        select(Delivery.destination, Delivery.state, func.count())
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.study_id == study.id, Result.screening_id == screening)
        .group_by(Delivery.destination, Delivery.state)
    )
    for destination, state, count in rows:
        counts[destination][state] = count
    return counts


def _left_out(session: Session, study: Study, newest: int | None) -> tuple[str, str]:
    """What did not arrive where, and why: of the newest screening, and of earlier ones; empty where everything did."""
    rows = session.execute(
        select(Result.screening_id, Delivery.destination, Delivery.state, Result.kind, Delivery.last_error)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.study_id == study.id, Delivery.state.in_(tuple(ENDS_IN_VAIN)))
        .order_by(Delivery.id)
    )
    said: dict[bool, list[str]] = {True: [], False: []}
    for screening, destination, state, kind, error in rows:
        said[screening == newest].append(f"{destination} {ENDS_IN_VAIN[state]} {kind}: {error}")
    return "; ".join(said[True]), "; ".join(said[False])
