"""What the store holds of a study, to compare with what others say that it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import ledger
from store.models import Announcement, AssociationRecord, Instance, Series, Study
from store.states import StudyState


def instances_by_series(session: Session, study_id: int) -> dict[str, frozenset[str]]:
    """SOP Instance UIDs of a study by Series Instance UID, those included that are kept out of screening."""
    rows = session.execute(
        select(Series.series_instance_uid, Instance.sop_instance_uid)
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id)
    )
    found: dict[str, set[str]] = {}
    for series, instance in rows:
        found.setdefault(series, set()).add(instance)
    return {series: frozenset(uids) for series, uids in found.items()}


def screenable_paths(session: Session, study_id: int) -> dict[str, list[str]]:
    """Paths of a study's images, relative to the storage folder, by Series Instance UID."""
    rows = session.execute(
        select(Series.series_instance_uid, Instance.path)
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id, Instance.kept_out.is_(None))
        .order_by(Instance.id)
    )
    found: dict[str, list[str]] = {}
    for series, path in rows:
        found.setdefault(series, []).append(path)
    return found


def newest_sender(session: Session, study_id: int) -> str | None:
    """AE title of who sent the newest instance of a study; None where it came by another way."""
    return session.scalar(
        select(AssociationRecord.calling_ae)
        .join(Instance, Instance.association_id == AssociationRecord.id)
        .where(Instance.study_id == study_id)
        .order_by(Instance.id.desc())
        .limit(1)
    )


def remark(session: Session, study_id: int, *, who: str, why: str, now: datetime) -> bool:
    """Note something in the account of a study that is being received; False where it no longer is."""
    study = ledger.locked_study(session, study_id)
    if study.state is not StudyState.RECEIVING:
        return False
    ledger.remark(session, study, who=who, why=why, now=now)
    return True


def announce(
    session: Session,
    *,
    kind: str,
    sop_instance_uid: str,
    study_instance_uid: str,
    instances: Sequence[str],
    who: str,
    now: datetime,
) -> None:
    """Keep what another system said: these instances belong to the study and are there."""
    session.add(
        Announcement(
            kind=kind,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
            instances=list(instances),
            who=who,
            at=now,
        )
    )


def is_announced(session: Session, *, kind: str, sop_instance_uid: str) -> bool:
    """Whether an announcement of this kind and SOP Instance UID was kept."""
    query = select(Announcement.id).where(
        Announcement.sop_instance_uid == sop_instance_uid, Announcement.kind == kind
    )
    return session.scalar(query.limit(1)) is not None


def announced(session: Session, study_id: int) -> list[tuple[str, str, frozenset[str]]]:
    """What was said of a study, newest first: kind, who said it, SOP Instance UIDs."""
    rows = session.scalars(
        select(Announcement)
        .join(Study, Study.study_instance_uid == Announcement.study_instance_uid)
        .where(Study.id == study_id)
        .order_by(Announcement.id.desc())
    )
    return [(row.kind, row.who, frozenset(row.instances)) for row in rows]
