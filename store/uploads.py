"""Which received images lie on the disk of one node only, and that they went into the object store.

A listener that has an object store records each image as held by its node (`Instance.held_by`). Nobody claims a study
of which a node still holds an image: so whoever claims it finds all of it in the object store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from store import ledger
from store.models import Instance, Study
from store.states import StudyState
from store.wakeups import Topic, announce

WHO = "uploader"


@dataclass(frozen=True)
class HeldImage:
    """An image that waits to be uploaded. path: relative to the storage folder."""

    instance_id: int
    study_id: int
    path: str


@dataclass(frozen=True)
class Holding:
    """What waits at one node. since: when the first of it was received."""

    node: str
    studies: int
    images: int
    since: datetime


@dataclass(frozen=True)
class LocalCopy:
    """What the store says of a file that lies on a node. needed: the study is being received, so it is read still."""

    path: str
    held_by: str | None
    needed: bool
    purged: bool


def is_held() -> ColumnElement[bool]:
    """Whether a study (of an enclosing query) has an image that lies on one node only."""
    return select(Instance.id).where(Instance.study_id == Study.id, Instance.held_by.is_not(None)).exists()


def held_images(session: Session, node: str, limit: int, but: Collection[int] = ()) -> list[HeldImage]:
    """What `node` has to upload, the oldest first. but: numbers of instances to leave out."""
    rows = session.execute(
        select(Instance.id, Instance.study_id, Instance.path)
        .where(Instance.held_by == node, Instance.id.not_in(but))
        .order_by(Instance.id)
        .limit(limit)
    )
    return [HeldImage(*row) for row in rows]


def record_uploaded(session: Session, images: Collection[HeldImage], node: str) -> None:
    """These images are in the object store: their studies may be claimed, and workers are told to look."""
    session.execute(
        update(Instance)
        .where(Instance.id.in_([image.instance_id for image in images]), Instance.held_by == node)
        .values(held_by=None)
    )
    announce(session, Topic.COMPLETE)


def remark(session: Session, images: Collection[HeldImage], *, why: str, now: datetime) -> None:
    """Note something in the account of every study among `images`."""
    for study_id in sorted({image.study_id for image in images}):
        ledger.remark(session, ledger.locked_study(session, study_id), who=WHO, why=why, now=now)


def hold(session: Session, paths: Collection[str], node: str) -> None:
    """These files turned out not to be in the object store: `node` has them, and uploads them."""
    session.execute(
        update(Instance).where(Instance.path.in_(paths), Instance.held_by.is_(None)).values(held_by=node)
    )


def local_copies(session: Session, paths: Sequence[str]) -> list[LocalCopy]:
    """What the store says of files of a storage folder; of those that no row names, nothing."""
    rows = session.execute(
        select(Instance.path, Instance.held_by, Study.state, Study.purged_at)
        .join(Study, Study.id == Instance.study_id)
        .where(Instance.path.in_(paths))
    )
    return [
        LocalCopy(path, held_by, state is StudyState.RECEIVING, purged_at is not None)
        for path, held_by, state, purged_at in rows
    ]


def holdings_by_node(session: Session) -> list[Holding]:
    """What waits to be uploaded, by node."""
    rows = session.execute(
        select(
            Instance.held_by,
            func.count(Instance.study_id.distinct()),
            func.count(),
            func.min(Instance.received_at),
        )
        .where(Instance.held_by.is_not(None))
        .group_by(Instance.held_by)
        .order_by(Instance.held_by)
    )
    return [Holding(str(node), studies, images, since) for node, studies, images, since in rows]


def holdings_of_study(session: Session, study_id: int) -> list[Holding]:
    """What of one study waits to be uploaded, by node."""
    rows = session.execute(
        select(Instance.held_by, func.count(), func.min(Instance.received_at))
        .where(Instance.study_id == study_id, Instance.held_by.is_not(None))
        .group_by(Instance.held_by)
        .order_by(Instance.held_by)
    )
    return [Holding(str(node), 1, images, since) for node, images, since in rows]
