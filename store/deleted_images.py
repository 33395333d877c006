"""Images that were deleted (`store.retention`) while something of their study comes again.

A study whose images are deleted counts as a whole (`Study.purged_at`). As soon as an image of it comes, each other one
is marked by itself: a new revision is made of what is here, and the present one is whole again when all of it has come.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from store.models import Instance, Revision, Study

DELETED = "deleted after delivery"
"""`Instance.kept_out` of an image whose file is gone. Stores have these words, also of skipped and failed studies."""


def are_gone(study: Study, image: Instance) -> bool:
    """Whether the file of an image was deleted, with its study or by itself."""
    return study.purged_at is not None or image.kept_out == DELETED


def mark(session: Session, study: Study) -> None:
    """The study is no longer deleted as a whole: its images are, each by itself."""
    if study.purged_at is None:
        return
    study.purged_at = None
    session.execute(
        update(Instance)
        .where(Instance.study_id == study.id, Instance.kept_out.is_(None))
        .values(kept_out=DELETED)
    )


def unmark(session: Session, study: Study, instance_id: int) -> None:
    """The content of an image has come again. Where the present revision was made without it, it stays out."""
    if study.revision == 0 or missing(session, study):
        session.execute(
            update(Instance)
            .where(Instance.id == instance_id, Instance.kept_out == DELETED)
            .values(kept_out=None)
        )


def missing(session: Session, study: Study) -> int:
    """How many images of the present revision are gone."""
    frozen = session.scalar(
        select(Revision.instance_count).where(
            Revision.study_id == study.id, Revision.number == study.revision
        )
    )
    here = select(func.count()).where(
        Instance.study_id == study.id,
        Instance.first_revision <= study.revision,
        Instance.kept_out.is_(None),
    )
    return (frozen or 0) - (session.scalar(here) or 0)


def is_deleted() -> ColumnElement[bool]:
    """Whether the file of an instance (of a query) was deleted by itself; of a study that was as a whole, none is."""
    return func.coalesce(Instance.kept_out, "") == DELETED


def is_image() -> ColumnElement[bool]:
    """Whether an instance (of a query) is one that may be screened, or was before its file was deleted."""
    return or_(Instance.kept_out.is_(None), Instance.kept_out == DELETED)
