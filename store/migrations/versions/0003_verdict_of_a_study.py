"""The verdict of the newest screening beside each study; indexes for what overviews count"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from store.verdicts import verdict_text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The verdict of the newest screening beside each study; indexes for what overviews count"""
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("verdict", sa.String(length=32), nullable=True))
        batch_op.create_index("ix_studies_verdict_changed_at", ["verdict", "changed_at"])
    op.create_index(
        "ix_deliveries_destination_state_attempts", "deliveries", ["destination", "state", "attempts"]
    )
    op.create_index("ix_deliveries_destination_delivered_at", "deliveries", ["destination", "delivered_at"])
    _fill()


def _fill() -> None:
    """What was screened before has a verdict too; of several screenings the newest counts."""
    studies = sa.table("studies", sa.column("id"), sa.column("verdict"))
    screenings = sa.table(
        "screenings", sa.column("id"), sa.column("revision_id"), sa.column("summary", sa.JSON)
    )
    revisions = sa.table("revisions", sa.column("id"), sa.column("study_id"))
    connection = op.get_bind()
    rows = connection.execute(
        sa.select(revisions.c.study_id, screenings.c.summary)
        .join(revisions, revisions.c.id == screenings.c.revision_id)
        .order_by(screenings.c.id)
    )
    newest = {study_id: verdict_text(summary) for study_id, summary in rows}
    if newest:
        change = (
            sa.update(studies)
            .where(studies.c.id == sa.bindparam("study"))
            .values(verdict=sa.bindparam("text"))
        )
        connection.execute(change, [{"study": study, "text": text} for study, text in newest.items()])


def downgrade() -> None:
    """The older program reads verdicts from the summaries."""
    op.drop_index("ix_deliveries_destination_delivered_at", "deliveries")
    op.drop_index("ix_deliveries_destination_state_attempts", "deliveries")
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.drop_index("ix_studies_verdict_changed_at")
        batch_op.drop_column("verdict")
