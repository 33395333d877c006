"""What is counted for metrics: totals, and what is new in tables that only grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from store.models import AssociationRecord, Refusal, Revision, Screening, Study, Transition
from store.states import StudyState
from store.verdicts import by_system

KINDS_OF_REFUSAL = (
    ("called AE title", "called_ae_title"),
    ("allow-list", "not_allowed"),
    ("associations", "too_many"),
    ("space", "disk_full"),
    ("disk", "disk_full"),
)
"""Words of a refusal's reason, and what they are counted as; reasons themselves would be labels without end."""

KINDS_OF_FAILURE = (
    ("refused", "delivery_refused"),
    ("MemoryError", "memory"),
    ("decode", "undecodable"),
    ("unexpected", "unexpected"),
    ("RunnerFailed", "inference"),
    ("attempt", "attempts_used_up"),
)


@dataclass(frozen=True)
class Totals:
    """Sums over everything that the store knows."""

    instances: int
    bytes: int
    open_associations: int


@dataclass(frozen=True)
class Marks:
    """The highest row of each table that has been counted, and the associations below that had not ended."""

    screening: int = 0
    refusal: int = 0
    transition: int = 0
    association: int = 0
    open_associations: tuple[int, ...] = ()


@dataclass(frozen=True)
class NewScreening:
    """A screening. stages: seconds each. wait_seconds: from the complete study to its results."""

    stages: dict[str, float]
    wait_seconds: float
    verdicts: dict[str, str]
    discordant: bool


@dataclass(frozen=True)
class News:
    """What is new since some marks, and the marks of now."""

    marks: Marks
    screenings: tuple[NewScreening, ...] = ()
    association_ends: dict[str, int] = field(default_factory=dict)
    refusals: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)


def totals(session: Session) -> Totals:
    """Count everything."""
    instances, size = session.execute(
        select(func.coalesce(func.sum(Study.instance_count), 0), func.coalesce(func.sum(Study.byte_count), 0))
    ).one()
    open_now = session.scalar(select(func.count()).where(AssociationRecord.closed_at.is_(None))) or 0
    return Totals(int(instances), int(size), open_now)


def newest_marks(session: Session) -> Marks:
    """Marks after everything that there is."""
    return Marks(
        screening=session.scalar(select(func.max(Screening.id))) or 0,
        refusal=session.scalar(select(func.max(Refusal.id))) or 0,
        transition=session.scalar(select(func.max(Transition.id))) or 0,
        association=session.scalar(select(func.max(AssociationRecord.id))) or 0,
        open_associations=tuple(
            session.scalars(select(AssociationRecord.id).where(AssociationRecord.closed_at.is_(None)))
        ),
    )


def news_since(session: Session, marks: Marks) -> News:
    """What came since `marks`."""
    screenings = session.execute(
        select(Screening.id, Screening.finished_at, Screening.summary, Revision.created_at)
        .join(Revision, Revision.id == Screening.revision_id)
        .where(Screening.id > marks.screening)
        .order_by(Screening.id)
    ).all()
    refusals = session.execute(
        select(Refusal.id, Refusal.sop_instance_uid, Refusal.status, Refusal.why)
        .where(Refusal.id > marks.refusal)
        .order_by(Refusal.id)
    ).all()
    failures = session.execute(
        select(Transition.id, Transition.why)
        .where(Transition.id > marks.transition, Transition.after == StudyState.FAILED)
        .where(Transition.before != StudyState.FAILED)
        .order_by(Transition.id)
    ).all()
    associations = _associations(session, marks)
    return News(
        marks=Marks(
            screening=screenings[-1][0] if screenings else marks.screening,
            refusal=refusals[-1][0] if refusals else marks.refusal,
            transition=failures[-1][0] if failures else marks.transition,
            association=max([marks.association, *(number for number, _, _ in associations)]),
            open_associations=tuple(number for number, closed_at, _ in associations if closed_at is None),
        ),
        screenings=tuple(
            _screening((finished - created).total_seconds(), summary)
            for _, finished, summary, created in screenings
        ),
        association_ends=dict(
            Counter(end or "unknown" for _, closed_at, end in associations if closed_at is not None)
        ),
        refusals=dict(
            Counter(
                (
                    "instance" if sop_instance or status is not None else "association",
                    _kind(why, KINDS_OF_REFUSAL),
                )
                for _, sop_instance, status, why in refusals
            )
        ),
        failures=dict(Counter(_kind(why, KINDS_OF_FAILURE) for _, why in failures)),
    )


def _associations(session: Session, marks: Marks) -> Sequence[tuple[int, datetime | None, str]]:
    """Number, end and how it ended, of associations that are new since `marks` or had not ended then."""
    which = or_(AssociationRecord.id > marks.association, AssociationRecord.id.in_(marks.open_associations))
    rows = session.execute(
        select(AssociationRecord.id, AssociationRecord.closed_at, AssociationRecord.end).where(which)
    )
    return [(number, closed_at, end) for number, closed_at, end in rows]


def _screening(wait_seconds: float, summary: dict[str, Any]) -> NewScreening:
    return NewScreening(
        stages={str(stage): float(seconds) for stage, seconds in summary["timings_s"].items()},
        wait_seconds=wait_seconds,
        verdicts=by_system(summary),
        discordant=bool(summary["discordant"]),
    )


def _kind(why: str, kinds: tuple[tuple[str, str], ...]) -> str:
    return next((kind for words, kind in kinds if words.lower() in why.lower()), "other")
